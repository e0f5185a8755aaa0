"""bfloat16 in an OpenVINO graph: store weights in it, and let products read them in their stored precision.

A stored graph computes in float32: weights in bfloat16 or int8 are converted to float32 before they are multiplied.
OpenVINO creates those float32 weights when it opens the file, rounds a copy for its bfloat16 kernels, and keeps both.
If the graph states the types in which it runs, OpenVINO keeps only its own copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.families.family import Array

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")  # types of product nodes in a graph on disk


def store(model: Any) -> None:
    """Store every float weight of the model in bfloat16, in place. Nodes that read them still get float32."""
    _store(model.get_ordered_ops())


def store_convolutions(model: Any) -> None:
    """Store the biases of float convolutions in bfloat16, and their weights unless those are stored in int8."""
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution") and not _of_integers(op):
            _, constants = _fused(op)
            _store(entry.get_source_output().get_node() for entry in (op.input(1), *constants))


def _store(nodes: Iterable[Any]) -> None:
    from openvino import Type, opset13

    for op in nodes:
        if op.get_type_name() == "Constant" and op.get_output_element_type(0) == Type.f32 and op.data.size > 1:
            half = opset13.convert(_constant(op.data), Type.f32)
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(half.output(0))


def read(model: Any) -> None:
    """Let products compute in bfloat16 if their weights are available in it, in place.

    Only for engines that run them in bfloat16 anyway, so that the logits don't change. The nodes that OpenVINO fuses
    with a product therefore stay together with it. A product is left unchanged if one of their constants would be
    rounded. So is the last product, because logits are returned as float32.
    """
    from openvino import Type, opset13

    products = [op for op in model.get_ordered_ops() if op.get_type_name() in PRODUCTS]
    for op in products[:-1]:
        weight = _weight(op)
        last, constants = _fused(op)
        if weight is None or None in (*constants.values(), *_later_scales(last)):
            continue
        op.input(0).replace_source_output(opset13.convert(op.input_value(0), Type.bf16).output(0))
        op.input(1).replace_source_output(weight)
        for entry, constant in constants.items():
            entry.replace_source_output(constant)
        readers, result = last.output(0).get_target_inputs(), opset13.convert(last, Type.f32)
        for reader in readers:
            reader.replace_source_output(result.output(0))
    model.validate_nodes_and_infer_types()


def _weight(product: Any) -> Any | None:
    """Return a product's weight in bfloat16, or None if it is not stored in bfloat16 or int8.

    Also None for int8 weights that the engine multiplies itself: all of them with integers, matrices also with floats.
    """
    if (weight := _exact(product.input_value(1))) is not None:
        return weight
    if product.get_type_name() == "MatMul" or _of_integers(product):
        return None
    scaled = _source(product.input_value(1), "Convert")
    if scaled.get_type_name() != "Multiply":
        return None
    constants = [_source(value, "Convert") for value in scaled.input_values()]
    if any(constant.get_type_name() != "Constant" for constant in constants):
        return None
    integers, scale = (constant.data.astype(np.float32) for constant in constants)
    return _constant(integers * scale).output(0)


def _of_integers(product: Any) -> bool:
    """Return whether a product reads quantized activations."""
    return bool(_source(product.input_value(0), "Unsqueeze").get_type_name() == "FakeQuantize")


def _source(value: Any, kind: str) -> Any:
    """Return the node that produces a value, skipping nodes of this kind."""
    node = value.get_node()
    return _source(node.input_value(0), kind) if node.get_type_name() == kind else node


def _fused(op: Any) -> tuple[Any, dict[Any, Any | None]]:
    """Return the last of the nodes that are fused with this one, and the constants they read, each in bfloat16.

    Fused nodes are bias, scaling and GELU. None stands for a constant that bfloat16 can't represent exactly.
    """
    constants: dict[Any, Any | None] = {}
    while len(readers := op.output(0).get_target_inputs()) == 1:
        (reader,) = readers
        follower = reader.get_node()
        if follower.get_type_name() in ("Add", "Multiply"):
            other = follower.input(1 - reader.get_index())
            if _source(other.get_source_output(), "Convert").get_type_name() != "Constant":  # a residual
                break
            constants[other] = _exact(other.get_source_output())
        elif follower.get_type_name() != "Gelu":
            break
        op = follower
    return op, constants


def _later_scales(op: Any) -> list[Any | None]:
    """Return the constants, in bfloat16, that scale this node's output after reshapes and transposes; at most one.

    It is None if bfloat16 can't represent it exactly. OpenVINO fuses the scaling of queries with their product, before
    it splits them into heads.
    """
    while len(readers := op.output(0).get_target_inputs()) == 1:
        (reader,) = readers
        op = reader.get_node()
        if op.get_type_name() not in ("Reshape", "Transpose"):
            other = op.input_value(1 - reader.get_index()) if op.get_type_name() == "Multiply" else None
            return [] if other is None or _source(other, "Convert").get_type_name() != "Constant" else [_exact(other)]
    return []


def _exact(value: Any) -> Any | None:
    """Return a constant in bfloat16 if it is stored in it or is exactly representable, else None."""
    from openvino import Type

    node = value.get_node()
    if node.get_type_name() == "Convert" and node.get_input_element_type(0) == Type.bf16:
        return node.input_value(0)
    if node.get_type_name() == "Constant" and node.get_output_element_type(0) == Type.f32:
        return _constant(node.data).output(0) if np.array_equal(_nearest(node.data), node.data) else None
    return None


def _constant(values: Array) -> Any:
    from openvino import Type, opset13

    return opset13.constant(_nearest(values), Type.bf16)


def _nearest(values: Array) -> Array:
    """Round float32 to the nearest bfloat16 values, ties to even, as float32: (...) -> (...).

    OpenVINO 2026.4 rounds like this in its kernels, but truncates when it converts a constant.
    """
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
