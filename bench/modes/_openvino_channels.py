"""A convolution of integers in an OpenVINO graph, with a step a channel on its way in: see `_channels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.modes._channels import LEVELS, Grid, fold


def convolutions(model: Any) -> list[Any]:
    """The convolutions of the feature extractor, in the order in which they run: those without padding or groups."""
    found = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [op for op in found if not any(op.get_pads_begin()) and not any(op.get_pads_end())]


def quantize(conv: Any, read: Grid) -> None:
    """Let a convolution multiply uint8 with int8, in place; `read` is the grid of what it reads."""
    from openvino import Type, opset13

    name, weight = conv.get_friendly_name(), conv.input_value(1).get_node().data  # (out, in, ...)
    wide = [1] * (weight.ndim - 2)
    integers, scale = fold(weight, read)
    floats = opset13.multiply(opset13.convert(opset13.constant(integers), Type.f32), scale.reshape(-1, 1, *wide))
    lowest, highest = -read.zero, LEVELS - 1 - read.zero
    ends = [(end * read.step).reshape(1, -1, *wide) for end in (lowest, highest)]
    shared_ends = [np.float32(end * read.shared) for end in (lowest, highest)]
    quantized = opset13.fake_quantize(conv.input_value(0), *ends, *shared_ends, LEVELS, name=f"{name}/FakeQuantize")
    conv.input(0).replace_source_output(quantized.output(0))
    conv.input(1).replace_source_output(floats.output(0))
