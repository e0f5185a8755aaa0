"""What the modes on ONNX Runtime share: export from torch, names that lead back to modules, opening, counting.

Nodes are named after the torch module they come from: `wav2vec2.encoder.layers.0.attention.q_proj` is that layer's
matrix product and so on; the two products of attention are `....attention/qk` and `....attention/av`, everything else
is `MODULE/OPERATOR`. Weights are `MODULE.weight`, as in torch, but transposed where a product wants them so.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import re
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.models import Array, Config, Family
from bench.modes import _count
from bench.modes._torch import logits
from bench.records import Coverage

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
MODEL_FILE = "model.onnx"
OPEN_CODE = """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    return session.run(["logits"], {"x": batch})[0]"""
INPUT, OUTPUT = "x", "logits"  # (batch, samples), (batch, frames, vocab), float32
_TRACED_SAMPLES = 16_000
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_QUANTIZING = ("DynamicQuantizeMatMul",)  # these read floats and multiply 8-bit integers
_BITS = {"float": 32, "float16": 16, "int8": 8, "uint8": 8}  # ONNX Runtime's names of what a node reads
# What a node reads by position, as torch names it.
_PARAMETERS: dict[str, dict[int, str]] = {
    "MatMul": {1: "weight"},
    "Add": {0: "bias", 1: "bias"},
    **{kind: {1: "weight", 2: "bias"} for kind in ("Gemm", "Conv", "LayerNormalization", "InstanceNormalization")},
}
_OTHERS = (".weight", ".bias", ".bias_quantized")  # the last in 32-bit integers
_SCOPES = "pkg.torch.onnx.name_scopes"


def code(quantize: str = "") -> str:
    """The same in plain lines; `quantize` are those that change model.onnx before it is opened."""
    between = f"{quantize}\n" if quantize else ""
    return f"""import onnxruntime

torch.onnx.export(model, (audio,), "model.onnx", dynamo=True, external_data=False, verbose=False)
{between}options = onnxruntime.SessionOptions()
options.intra_op_num_threads = torch.get_num_threads()
session = onnxruntime.InferenceSession("model.onnx", options)


def model(audio):
    return session.run(None, {{session.get_inputs()[0].name: audio.numpy()}})

"""


class OnnxOpened:
    """A session of ONNX Runtime behind the contract of `Opened`."""

    def __init__(self, directory: Path, threads: int, **settings: str) -> None:
        """Opens the folder's model on the CPU; `settings` are ONNX Runtime's session configuration entries."""
        import onnxruntime

        self.directory, self.threads, self.settings = directory, threads, settings
        self.session = onnxruntime.InferenceSession(
            directory / MODEL_FILE, self.options(), providers=["CPUExecutionProvider"]
        )
        # Opening leaves the file's weights behind as free memory: returned, passes need no further memory for as much.
        with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)

    def options(self) -> Any:
        """The session's options, made anew."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # one block planned for all activations: 66 MB more on base, and no faster
        for key, value in self.settings.items():
            options.add_session_config_entry(key, value)
        return options

    def __call__(self, batch: Array) -> Array:
        """(batch, samples) -> (batch, frames, vocab)."""
        logits: Array = self.session.run([OUTPUT], {INPUT: batch})[0]
        return logits


def export(model: nn.Module, path: Path) -> None:
    """Write the float module as one ONNX file: any batch, any length that gives a frame, nodes named after modules."""
    import onnx_ir
    import torch

    was = model.config._attn_implementation
    model.set_attn_implementation(_plain_attention())
    dynamic = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=720)}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                logits(model),
                (torch.zeros(2, _TRACED_SAMPLES),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        model.set_attn_implementation(was)
    assert program is not None
    graph, modules = program.model.graph, dict(model.named_modules())
    _one_norm(graph, modules)
    _name(graph, modules)
    onnx_ir.save(program.model, path)


def count(opened: OnnxOpened, family: Family, config: Config) -> Coverage:
    """Weights as the file holds them, activations as ONNX Runtime ran them in a profiled pass."""

    def look(names: set[str]) -> tuple[_count.Stored, _count.Others, dict[str, int]]:
        stored, others = _stored(opened.directory / MODEL_FILE, names)
        return stored, {32: others}, _executed(opened, names)

    return _count.count(family, config, look)


def _stored(path: Path, names: set[str]) -> tuple[dict[str, tuple[int | None, int]], int]:
    """({node: (bits, elements) of the weight that it multiplies with}, elements of all other parameters)."""
    import onnx

    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, tuple[int | None, int]] = {}
    used = set()
    for node in graph.node:
        if node.name not in names:
            continue
        name = dequantized.get(node.input[1], node.input[1])
        if node.op_type == "MatMulNBits":  # weights packed into bytes, blocks filled up
            told = {a.name: a.i for a in node.attribute}
            found[node.name] = told["bits"], told["K"] * told["N"]
        elif name in tensors:
            used.add(name)
            found[node.name] = _bits(tensors[name]), int(np.prod(tensors[name].dims))
    # What isn't multiplied with keeps torch's name: the weights of norms, and biases.
    others = [t for name, t in tensors.items() if name not in used and name.endswith(_OTHERS)]
    return found, sum(int(np.prod(t.dims)) for t in others)


def _bits(tensor: Any) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8


def _executed(opened: OnnxOpened, names: set[str]) -> dict[str, int]:
    """Bits of what each node reads, from a profiled pass: fusions and fallbacks have happened by then."""
    import onnxruntime

    options = opened.options()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            opened.directory / MODEL_FILE, options, providers=["CPUExecutionProvider"]
        )
        session.run([OUTPUT], {INPUT: np.zeros((1, _TRACED_SAMPLES), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, int] = {}
    for event in events:
        name, ended, _ = event["name"].partition("_kernel_time")
        kind = event.get("args", {}).get("op_name", "")
        if not ended or not any(product in kind for product in _PRODUCTS):
            continue
        # A fused node is named after the first one that it is made of: ".../qk/MatMulScaleFusion/", "...conv_token_18".
        name = re.sub(r"_token_\d+$", "", name)
        while name not in names and "/" in name:
            name = name.rpartition("/")[0]
        if name in names:
            (read,) = event["args"]["input_type_shape"][0]
            found[name] = 8 if kind in _QUANTIZING else _BITS[read]
    return found


def _plain_attention() -> str:
    """Two matrix products and a softmax, without a mask: transformers' own make one of zeros, added in every layer."""
    import torch
    from transformers import AttentionInterface

    def plain(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        assert attention_mask is None
        scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(2, 3)  # (batch, heads, frames, frames)
        return (scores.softmax(-1) @ value).transpose(1, 2), None  # (batch, frames, heads, width)

    AttentionInterface.register("earbench-plain", plain)
    return "earbench-plain"


def _by_module(graph: onnx_ir.Graph, modules: dict[str, nn.Module]) -> dict[str, list[onnx_ir.Node]]:
    """The graph's nodes by the innermost module that they come from, in order; "" for none."""
    of: dict[str, list[onnx_ir.Node]] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        inner = [s.removeprefix("model.") for s in scopes if s.removeprefix("model.") in modules]
        of.setdefault(inner[-1] if inner else "", []).append(node)
    return of


def _one_norm(graph: onnx_ir.Graph, modules: dict[str, nn.Module]) -> None:
    """A group norm of one channel a group is ONNX's InstanceNormalization.

    The exporter writes it as one without weights between reshapes, then a product and a sum: each of them goes through
    the largest tensor of the whole network once more.
    """
    import onnx_ir
    import torch

    for name, nodes in _by_module(graph, modules).items():
        module = modules[name]
        if not isinstance(module, torch.nn.GroupNorm) or module.num_groups != module.num_channels or not module.affine:
            continue
        source = next(node for node in nodes if node.op_type == "Reshape").inputs[0]
        weights = (module.weight, module.bias)
        parameters = [_named(graph, f"{name}.{i}", onnx_ir.tensor(w.detach().numpy())) for i, w in enumerate(weights)]
        norm = onnx_ir.node("InstanceNormalization", [source, *parameters], {"epsilon": module.eps})
        norm.metadata_props[_SCOPES] = nodes[-1].metadata_props[_SCOPES]
        graph.insert_before(nodes[-1], norm)
        nodes[-1].outputs[0].replace_all_uses_with(norm.outputs[0])
        graph.remove(nodes, safe=True)


def _name(graph: onnx_ir.Graph, modules: dict[str, nn.Module]) -> None:
    """Name nodes and weights after modules, and drop what the exporter notes beside them (paths among it)."""
    taken: Counter[str] = Counter()
    for module, nodes in _by_module(graph, modules).items():
        products = [node for node in nodes if node.op_type in _PRODUCTS]
        for node in nodes:
            node.metadata_props.clear()
            node.doc_string = None
            for i, parameter in _PARAMETERS.get(node.op_type, {}).items():
                value = node.inputs[i] if i < len(node.inputs) else None
                if value is not None and value.is_initializer() and hasattr(modules[module], parameter):
                    node.replace_input_with(i, _named(graph, f"{module}.{parameter}", value.const_value))
            kind = node.op_type
            if node in products:
                weight = node.inputs[1]
                assert weight is not None
                kind = "" if weight.is_initializer() else ("qk", "av")[products.index(node)]
            name = f"{module}/{kind}" if kind else module
            taken[name] += 1
            node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
            for value in node.outputs:
                value.metadata_props.clear()
                if value.name != OUTPUT:
                    value.name = f"{node.name}:{value.index()}"
    for value in tuple(graph.initializers.values()):
        value.metadata_props.clear()
        if not value.uses():
            assert value.name is not None
            del graph.initializers[value.name]
    graph.doc_string = None


def _named(graph: onnx_ir.Graph, name: str, tensor: onnx_ir.TensorProtocol | None) -> onnx_ir.Value:
    """A weight of its own under that name: the exporter lets modules share what is equal, as new norms are."""
    import onnx_ir

    assert tensor is not None
    value = onnx_ir.val(name, const_value=onnx_ir.tensor(tensor.numpy(), name=name))
    graph.register_initializer(value)
    return value
