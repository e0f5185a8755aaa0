"""bfloat16 in an OpenVINO graph: how weights are stored in it, and how products read them as they are stored.

A graph computes in float32 and a file says so: weights in bfloat16 or int8 become floats before they are multiplied.
OpenVINO makes those floats when it opens the file, rounds a copy of them for the kernels that multiply bfloat16, and
keeps both. Told the types that it will run in, it keeps none but its copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.families.family import Array

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")  # in a graph on disk


def store(model: Any) -> None:
    """Let the model hold every float weight in bfloat16, in place. They stay floats to what reads them."""
    _store(model.get_ordered_ops())


def store_convolutions(model: Any) -> None:
    """The same for float convolutions: their weights, where those aren't stored in int8, and their biases."""
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution") and not _of_integers(op):
            _, constants = _together(op)
            _store(entry.get_source_output().get_node() for entry in (op.input(1), *constants))


def _store(nodes: Iterable[Any]) -> None:
    from openvino import Type, opset13

    for op in nodes:
        if op.get_type_name() == "Constant" and op.get_output_element_type(0) == Type.f32 and op.data.size > 1:
            half = opset13.convert(_constant(op.data), Type.f32)
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(half.output(0))


def read(model: Any) -> None:
    """Let products work on bfloat16 where their weights are at hand in it, in place.

    For engines that run them so anyway: the logits are the same. So what OpenVINO computes together with a product
    stays with it; a product stays as it is where a number in there would be rounded, and so does the last one, since
    logits leave it as float32.
    """
    from openvino import Type, opset13

    products = [op for op in model.get_ordered_ops() if op.get_type_name() in PRODUCTS]
    for op in products[:-1]:
        weight = _weight(op)
        last, constants = _together(op)
        if weight is None or None in (*constants.values(), *_scaled_behind(last)):
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
    """What a product multiplies with, in bfloat16; None if that isn't stored so.

    None also where it is stored in int8 and the engine multiplies that itself: any with integers, matrices with floats.
    """
    if (found := _half(product.input_value(1))) is not None:
        return found
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
    """Whether a product reads activations that are rounded to integers."""
    return bool(_source(product.input_value(0), "Unsqueeze").get_type_name() == "FakeQuantize")


def _source(value: Any, kind: str) -> Any:
    """The node that gives a value, before nodes of this kind."""
    node = value.get_node()
    return _source(node.input_value(0), kind) if node.get_type_name() == kind else node


def _together(op: Any) -> tuple[Any, dict[Any, Any | None]]:
    """The last node of those computed together with this one, and of the constants read there each in bfloat16.

    That is adding a bias, scaling and GELU. None stands for a constant that bfloat16 doesn't hold.
    """
    constants: dict[Any, Any | None] = {}
    while len(readers := op.output(0).get_target_inputs()) == 1:
        (reader,) = readers
        follower = reader.get_node()
        if follower.get_type_name() in ("Add", "Multiply"):
            other = follower.input(1 - reader.get_index())
            if _source(other.get_source_output(), "Convert").get_type_name() != "Constant":  # a residual
                break
            constants[other] = _half(other.get_source_output())
        elif follower.get_type_name() != "Gelu":
            break
        op = follower
    return op, constants


def _scaled_behind(op: Any) -> list[Any | None]:
    """The constants in bfloat16 that scale what this node gives after it was moved about, or None for one.

    OpenVINO scales queries together with their product, before it splits them into heads.
    """
    while len(readers := op.output(0).get_target_inputs()) == 1:
        (reader,) = readers
        op = reader.get_node()
        if op.get_type_name() not in ("Reshape", "Transpose"):
            other = op.input_value(1 - reader.get_index()) if op.get_type_name() == "Multiply" else None
            return [] if other is None or _source(other, "Convert").get_type_name() != "Constant" else [_half(other)]
    return []


def _half(value: Any) -> Any | None:
    """A constant in bfloat16, if that is how it is stored or loses nothing by it."""
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
    """Float32 as the nearest values that bfloat16 holds, of two that are as near the even one: (...) -> (...).

    OpenVINO 2026.4 rounds so in its kernels, but cuts off every other value when it converts a constant.
    """
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
