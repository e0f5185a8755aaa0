"""An integer convolution in an OpenVINO graph, with per-channel steps for its input: see `channel_scales`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.modes.channel_scales import LEVELS, Grid, fold
from bench.modes.openvino.engine import module


def convolutions(model: Any, sensitive: Sequence[str]) -> list[Any]:
    """Return the sensitive convolutions of a graph, in execution order."""
    ops = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    by_name = {module(op.get_friendly_name(), set(sensitive)): op for op in ops}  # a later node adds the bias
    return [by_name[name] for name in sensitive if name in by_name]


def quantize(conv: Any, read: Grid) -> None:
    """Let a convolution multiply uint8 by int8, in place; `read` is the grid of its input."""
    from openvino import Type, opset13

    name, weight = conv.get_friendly_name(), conv.input_value(1).get_node().data  # (out, in, ...)
    trailing = [1] * (weight.ndim - 2)
    integers, scale = fold(weight, read)
    floats = opset13.multiply(opset13.convert(opset13.constant(integers), Type.f32), scale.reshape(-1, 1, *trailing))
    lowest, highest = -read.zero, LEVELS - 1 - read.zero
    ends = [(end * read.step).reshape(1, -1, *trailing) for end in (lowest, highest)]
    shared_ends = [np.float32(end * read.shared) for end in (lowest, highest)]
    quantized = opset13.fake_quantize(conv.input_value(0), *ends, *shared_ends, LEVELS, name=f"{name}/FakeQuantize")
    conv.input(0).replace_source_output(quantized.output(0))
    conv.input(1).replace_source_output(floats.output(0))
