"""What the modes on OpenVINO share: from ONNX to a graph on disk, opening, running, counting.

An artefact is `model.xml` and `model.bin`; OpenVINO alone opens it. Its nodes keep the names that the ONNX export gives
them, those of torch's modules, so what the engine runs leads back to modules: see `bench.modes._onnx`.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import Array, Config, Family
from bench.modes import _count, _mapped, _openvino_halves
from bench.modes._openvino_halves import PRODUCTS
from bench.modes._openvino_images import over_images
from bench.records import SAMPLE_RATE_HZ, Coverage

MODEL_FILE = "model.xml"
QUANTIZE_PACKAGES = ("nncf",)
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
OPEN_CODE = """import openvino

core = openvino.Core()
graph = core.read_model("model.xml")
floats = graph.get_rt_info(["earbench", "floats"]).astype(str)  # f32 or bf16: else OpenVINO chooses by itself
properties = {"INFERENCE_PRECISION_HINT": floats, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
compiled = core.compile_model(graph, "CPU", properties)


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    return compiled([batch])[0]"""
_FLOATS = ["earbench", "floats"]  # where a model's notes say in what its floats are to run
_WEIGHT = "/weight"  # behind a product's name: that of the constant that it multiplies with
_STORING = ("Convert", "Subtract", "Multiply", "Reshape")  # between a product and its weight, by how that is stored
_EXECUTED = ("Convolution", "FullyConnected", "MatMul", "Subgraph")  # in the one that runs; the last is fused attention


class OpenVinoOpened:
    """A compiled model behind the contract of `Opened`."""

    def __init__(self, directory: Path, threads: int) -> None:
        """Compiles the folder's model for the CPU; its floats run in the precision that the file asks for.

        A first short pass is part of it, since OpenVINO copies the weights then.
        """
        import openvino

        core, self.directory = openvino.Core(), directory
        model = core.read_model(directory / MODEL_FILE)
        floats = model.get_rt_info(_FLOATS).astype(str)
        if floats == "bf16" and runs("bf16") == "bf16":
            _openvino_halves.read(model)
        with _mapped.let_go((directory / MODEL_FILE).with_suffix(".bin")):  # which `model` keeps mapped
            self.compiled = core.compile_model(model, "CPU", _properties(threads, floats))
            self._request = self.compiled.create_infer_request()
            self._request.infer([np.zeros((1, SAMPLE_RATE_HZ // 10), np.float32)])  # the first pass copies the weights

    def __call__(self, batch: Array) -> Array:
        """(batch, samples) -> (batch, frames, vocab). The input is read where it lies; the result is the caller's."""
        logits: Array = self._request.infer([batch], share_inputs=True)[0]
        return logits


def read(onnx: Path) -> Any:
    """An ONNX file as an `openvino.Model`, still float."""
    import openvino
    from openvino.frontend import FrontEndManager

    model = openvino.convert_model(onnx)
    # The node that gives the result is named after the result; it gets the name back that it has in the file.
    file = FrontEndManager().load_by_framework("onnx").load(str(onnx))
    (name,) = file.get_outputs()[0].get_producing_operation().get_names()
    model.output(0).get_node().input_value(0).get_node().set_friendly_name(name)
    over_images(model)
    return model


def save(model: Any, directory: Path, floats: str) -> None:
    """Write the model as it is, and beside it in what its floats are to run: f32 or bf16.

    Without being told so OpenVINO would halve every float weight while it writes.
    """
    import openvino

    for op, weight in _weights(model):  # a product may lose its name when it is compiled, its weight doesn't
        weight.set_friendly_name(f"{op.get_friendly_name()}{_WEIGHT}")
    model.set_rt_info(floats, _FLOATS)
    openvino.save_model(model, directory / MODEL_FILE, compress_to_fp16=False)


def _weights(model: Any) -> list[tuple[Any, Any]]:
    """Each node that multiplies with a weight, and the constant that holds it."""
    found = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in PRODUCTS:
            weight = op.input_value(1).get_node()
            while weight.get_type_name() in _STORING:
                weight = weight.input_value(0).get_node()
            if weight.get_type_name() == "Constant":
                found.append((op, weight))
    return found


def code(floats: str, quantize: str = "") -> str:
    """The same in plain lines, without the detour over a file; `quantize` are those that change `graph`, by NNCF."""
    imported = "import nncf\nimport openvino" if quantize else "import openvino"
    return f"""{imported}

graph = openvino.convert_model(model, example_input=audio)
{quantize}properties = {{"INFERENCE_PRECISION_HINT": "{floats}", "INFERENCE_NUM_THREADS": torch.get_num_threads()}}
properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # activations are only quantized where the graph says so
model = openvino.compile_model(graph, "CPU", properties)
audio = audio.numpy()"""


def remark(floats: str) -> str:
    """What people should know where floats run in another precision than `floats`: OpenVINO takes it as a hint."""
    found = runs(floats)
    return "" if found == floats else f"OpenVINO multiplies {found} on this processor where {floats} is asked for"


@cache
def runs(floats: str) -> str:
    """In what OpenVINO multiplies floats here when it is asked for `floats`, by the graph that it makes of one."""
    from openvino import Core, Model, Type, opset13

    x = opset13.parameter([-1, 64], Type.f32)
    product = opset13.matmul(x, np.ones((64, 64), np.float32), False, False)
    compiled = Core().compile_model(Model([product], [x]), "CPU", _properties(1, floats))
    (found,) = (_note(op, "runtimePrecision") for op in compiled.get_runtime_model().get_ordered_ops() if _product(op))
    return found


def _properties(threads: int, floats: str) -> dict[str, str | int]:
    """How all modes run: one pass at a time, in the precision that is asked for and not in one that suits OpenVINO."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": floats,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations are only quantized where the file says so
    }


def count(opened: OpenVinoOpened, family: Family, config: Config) -> Coverage:
    """Weights as the file holds them, activations as the engine's graph has them after a pass."""

    def look(names: set[str]) -> tuple[_count.Stored, _count.Others, dict[str, int]]:
        return *_stored(opened.directory, names), _executed(opened, names)

    return _count.count(family, config, look)


def module(name: str, names: set[str]) -> str | None:
    """The one of `names` that a node belongs to, by its own name: MODULE, or MODULE/what was added to it."""
    while name not in names and "/" in name:
        name = name.rpartition("/")[0]
    return name if name in names else None


def _stored(directory: Path, names: set[str]) -> tuple[dict[str, tuple[int, int]], Counter[int]]:
    """({node: (bits, elements) of the weight that it multiplies with}, other parameters' elements by bits)."""
    import openvino

    constants: dict[str, list[Any]] = {}  # by node: what its value is computed from, where nothing that flows enters
    found: dict[str, tuple[int, int]] = {}
    others: Counter[int] = Counter()
    for op in openvino.Core().read_model(directory / MODEL_FILE).get_ordered_ops():
        kind, inputs = op.get_type_name(), [value.get_node().get_friendly_name() for value in op.input_values()]
        name = module(op.get_friendly_name(), names)
        if kind == "Constant":
            constants[op.get_friendly_name()] = [op]
        elif inputs and all(i in constants for i in inputs):
            constants[op.get_friendly_name()] = [c for i in inputs for c in constants[i]]
        elif kind in PRODUCTS and name and inputs[1] in constants:  # beside its weight there are scales
            found[name] = max((_elements(c), _bits(c)) for c in constants[inputs[1]])[::-1]
        elif kind in ("Multiply", "Add"):  # norms and biases; a single number is a scale of no module
            for c in (c for i in inputs for c in constants.get(i, ()) if _elements(c) > 1):
                others[_bits(c)] += _elements(c)
    return found, others


def _bits(constant: Any) -> int:
    return int(constant.get_output_element_type(0).bitwidth)


def _elements(constant: Any) -> int:
    return int(np.prod(list(constant.get_output_shape(0))))


def _executed(opened: OpenVinoOpened, names: set[str]) -> dict[str, int]:
    """Bits of the activations that each node multiplies, from the graph that the engine made of the file."""
    opened(np.zeros((1, SAMPLE_RATE_HZ), np.float32))  # some kernels are only chosen at the first pass
    found: dict[str, int] = {}
    for op in opened.compiled.get_runtime_model().get_ordered_ops():
        if _product(op):
            read = [value.get_node().get_friendly_name() for value in op.input_values()]
            weights = [name for name in read if name.endswith(_WEIGHT)]
            for original in (*_note(op, "originalLayersNames").split(","), *weights):
                name = module(original, names)
                if name and ("/" in name or _note(op, "layerType") != "Subgraph"):  # of which only attention multiplies
                    # What it reads, not its "runtimePrecision": that is int8 wherever the weights are stored so.
                    found[name] = int(op.input_value(0).get_element_type().bitwidth)
    return found


def _product(op: Any) -> bool:
    """Whether a node of the graph that runs multiplies matrices."""
    return _note(op, "layerType") in _EXECUTED


def _note(op: Any, key: str) -> str:
    return str(op.get_rt_info()[key].astype(str))
