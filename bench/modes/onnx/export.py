"""Export from torch to ONNX, with nodes named after modules.

Nodes are named after the torch module they come from: `wav2vec2.encoder.layers.0.attention.q_proj` is that layer's
matrix product and so on; the two products of attention are `....attention/qk` and `....attention/av`; every other node
is `MODULE/OPERATOR`. Weights are `MODULE.weight`, as in torch, but transposed where a matrix product requires it.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.families.network import Dim, Network
from bench.modes.coverage import ATTENTION
from bench.modes.onnx.engine import PRODUCTS, RECURRENT
from bench.modes.torch.engine import tensors_alone

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
# The parameters of a node by input position, with torch's names.
_PARAMETERS: dict[str, dict[int, str]] = {
    "MatMul": {1: "weight"},
    "Add": {0: "bias", 1: "bias"},
    **{kind: {1: "weight", 2: "bias"} for kind in ("Gemm", "Conv", "LayerNormalization", "InstanceNormalization")},
}
_SCOPES = "pkg.torch.onnx.name_scopes"


def code(quantize: str = "") -> str:
    """Return plain code for the export; `quantize` holds the lines that change model.onnx before it is opened."""
    quantize_lines = f"{quantize}\n" if quantize else ""
    return f"""import onnxruntime

torch.onnx.export(model, (audio,), "model.onnx", dynamo=True, external_data=False, verbose=False)
{quantize_lines}options = onnxruntime.SessionOptions()
options.intra_op_num_threads = torch.get_num_threads()
session = onnxruntime.InferenceSession("model.onnx", options)


def model(audio):
    return session.run(None, {{session.get_inputs()[0].name: audio.numpy()}})

"""


def export(model: nn.Module, network: Network, file: Path) -> None:
    """Write the float module as one ONNX file, with free dimensions kept free and nodes named after modules."""
    import onnx_ir
    import torch

    dims: dict[str, Any] = {}
    for port in network.inputs:
        for dim in port.shape:
            if isinstance(dim, Dim):
                dims.setdefault(dim.name, torch.export.Dim(dim.name, min=dim.low, max=dim.high))
    shapes = {
        port.name: {axis: dims[dim.name] for axis, dim in enumerate(port.shape) if isinstance(dim, Dim)}
        for port in network.inputs
    }
    with _plain_attention(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tensors_alone(model, network),
            tuple(torch.from_numpy(network.example[port.name]) for port in network.inputs),
            input_names=[port.name for port in network.inputs],
            output_names=[port.name for port in network.outputs],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph, modules = program.model.graph, dict(model.named_modules())
    _one_norm(graph, modules)
    _plain_products(graph)
    _name(graph, modules, {port.name for port in network.outputs})
    onnx_ir.save(program.model, file)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Use attention without a mask while exporting: transformers' own creates a mask of zeros and adds it per layer."""
    if not hasattr(model, "set_attn_implementation"):
        yield
        return
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
    previous = model.config._attn_implementation
    model.set_attn_implementation("earbench-plain")
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


def _by_module(graph: onnx_ir.Graph, modules: dict[str, nn.Module]) -> dict[str, list[onnx_ir.Node]]:
    """Return the graph's nodes by the innermost module that they come from, in order; "" for none."""
    by_module: dict[str, list[onnx_ir.Node]] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        scope_modules = [s.removeprefix("model.") for s in scopes if s.removeprefix("model.") in modules]
        by_module.setdefault(scope_modules[-1] if scope_modules else "", []).append(node)
    return by_module


def _one_norm(graph: onnx_ir.Graph, modules: dict[str, nn.Module]) -> None:
    """Replace group norms with one channel per group by ONNX's InstanceNormalization.

    The exporter writes one without weights between reshapes, then a product and a sum. Each of these makes another pass
    over the largest tensor of the network.
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


def _plain_products(graph: onnx_ir.Graph) -> None:
    """Replace Gemm (2-d linear layers) by MatMul and Add, as in 3-d linear layers: quantizers skip Gemm silently."""
    import onnx_ir

    for node in [node for node in graph if node.op_type == "Gemm"]:
        x, weight, bias = (*node.inputs, None)[:3]
        scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
        if x is None or weight is None or not weight.is_initializer() or scaled or node.attributes.get_int("transA", 0):
            continue
        assert weight.const_value is not None
        values = weight.const_value.numpy()
        if node.attributes.get_int("transB", 0):
            values = values.T.copy()
        transposed = _named(graph, f"{weight.name}.transposed", onnx_ir.tensor(values))
        replacements = [onnx_ir.node("MatMul", [x, transposed])]
        if bias is not None:
            replacements.append(onnx_ir.node("Add", [replacements[0].outputs[0], bias]))
        for replacement in replacements:
            replacement.metadata_props.update(node.metadata_props)
        graph.insert_before(node, replacements)
        last = replacements[-1].outputs[0]
        last.name, last.type, last.shape = node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(last, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _name(graph: onnx_ir.Graph, modules: dict[str, nn.Module], outputs: set[str]) -> None:
    """Name nodes and weights after modules, and remove the exporter's metadata, which includes paths."""
    from torch import nn

    name_counts: Counter[str] = Counter()
    for module, nodes in _by_module(graph, modules).items():
        products = [node for node in nodes if node.op_type in PRODUCTS]
        free = [node for node in products if node.op_type not in RECURRENT and not _of_weight(node)]
        for node in nodes:
            node.metadata_props.clear()
            node.doc_string = None
            parameters = _PARAMETERS.get(node.op_type, {})
            looked_up = node.op_type == "Gather" and isinstance(modules[module], nn.Embedding)
            for i, parameter in ({0: "weight"} if looked_up else parameters).items():
                value = node.inputs[i] if i < len(node.inputs) else None
                is_parameter = isinstance(getattr(modules[module], parameter, None), nn.Parameter)
                if is_parameter and value is not None and value.is_initializer():
                    node.replace_input_with(i, _named(graph, f"{module}.{parameter}", value.const_value))
            kind = node.op_type
            if node in free:  # a product of two activations
                kind = ATTENTION[free.index(node)] if len(free) == len(ATTENTION) else f"product{free.index(node)}"
            elif node in products or looked_up:
                kind = ""
            name = f"{module}/{kind}" if kind else module
            name_counts[name] += 1
            node.name = name if name_counts[name] == 1 else f"{name}_{name_counts[name]}"
            for value in node.outputs:
                value.metadata_props.clear()
                if value.name not in outputs:
                    value.name = f"{node.name}:{value.index()}"
    for value in tuple(graph.initializers.values()):
        value.metadata_props.clear()
        if not value.uses():
            assert value.name is not None
            del graph.initializers[value.name]
    graph.doc_string = None


def _of_weight(node: onnx_ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.is_initializer()


def _named(graph: onnx_ir.Graph, name: str, tensor: onnx_ir.TensorProtocol | None) -> onnx_ir.Value:
    """Return a separate weight under that name: the exporter shares equal weights between modules, such as new norms.

    A module that is applied twice still has one weight.
    """
    import onnx_ir

    assert tensor is not None
    values, base_name, number = tensor.numpy(), name, 1
    while (existing := graph.initializers.get(name)) is not None:
        if existing.const_value is not None and np.array_equal(existing.const_value.numpy(), values):
            return existing
        number += 1
        name = f"{base_name}_{number}"
    value = onnx_ir.val(name, const_value=onnx_ir.tensor(values, name=name))
    graph.register_initializer(value)
    return value
