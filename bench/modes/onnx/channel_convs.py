"""A convolution of integers in an ONNX graph, with a step a channel on its way in and out: see `channel_scales`.

    Mul -> QuantizeLinear -> [DequantizeLinear -> Conv -> QuantizeLinear] -> DequantizeLinear -> Mul

ONNX Runtime fuses what stands in brackets into one kernel of integers, which knows one step for all channels of what it
reads and one for what it gives. The products before and behind tell the channels apart: for them ONNX Runtime has fast
kernels in every layout, unlike for QuantizeLinear with a step a channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.modes.channel_scales import LEVELS, Grid, fold


def quantize(graph: Any, conv: Any, read: Grid, given: Grid, *, signed: bool, levels: int) -> None:
    """Replace a node of a graph that is a convolution of (batch, channels, frames), in place.

    `read` and `given` are the grids of what it reads and gives. Activations become uint8 or, `signed`, int8; weights
    integers within ±`levels`.
    """
    from onnx import helper, numpy_helper

    integer, least = (np.int8, -LEVELS // 2) if signed else (np.uint8, 0)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight, *biases = (numpy_helper.to_array(tensors[name]) for name in conv.input[1:])
    integers, scale = fold(weight, read, levels, *biases)
    step, shared = read.shared, given.shared
    scale = scale * shared / given.step  # each channel's sums come out in steps of its own
    nodes = []

    def store(name: str, values: Any, dtype: Any = np.float32) -> str:
        name = f"{conv.name}.{name}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(kind: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{conv.name}/{name}"
        nodes.append(helper.make_node(kind, inputs, [output], name=f"{conv.name}/{name}", **attributes))
        return output

    x_step = [store("read_step", step), store("read_zero", read.zero + least, integer)]
    y_step = [store("given_step", shared), store("given_zero", given.zero + least, integer)]
    x = add("Mul", [conv.input[0], store("read_scale", (step / read.step)[:, None])], "scaled")
    x = add("DequantizeLinear", [add("QuantizeLinear", [x, *x_step], "read"), *x_step], "read_floats")
    w = [store("weight_quantized", integers, np.int8), store("weight_scale", scale)]
    arguments = [x, add("DequantizeLinear", w, "weight_floats", axis=0)]
    for bias in biases:
        b = [store("bias_quantized", np.rint(bias * shared / given.step / (step * scale)), np.int32)]
        arguments.append(add("DequantizeLinear", [*b, store("bias_scale", step * scale)], "bias_floats", axis=0))
    y = add("Conv", arguments, "sums")
    nodes[-1].name = conv.name
    nodes[-1].attribute.extend(conv.attribute)
    y = add("DequantizeLinear", [add("QuantizeLinear", [y, *y_step], "given"), *y_step], "given_floats")
    add("Mul", [y, store("given_scale", (given.step / shared)[:, None])], "unscaled", conv.output[0])
    place = list(graph.node).index(conv)
    for name in conv.input[1:]:
        graph.initializer.remove(tensors[name])
    graph.node.remove(conv)
    for node in reversed(nodes):
        graph.node.insert(place, node)
