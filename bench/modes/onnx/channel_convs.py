"""An integer convolution in an ONNX graph, with per-channel steps for its input and output: see `channel_scales`.

    Mul -> QuantizeLinear -> [DequantizeLinear -> Conv -> QuantizeLinear] -> DequantizeLinear -> Mul

ONNX Runtime fuses the nodes in brackets into one integer kernel, which supports one step for all channels of its input
and one for its output. The Mul nodes before and after apply the per-channel steps: ONNX Runtime has fast Mul kernels
for every layout, but none for per-channel QuantizeLinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.modes.channel_scales import LEVELS, Grid, fold


def quantize(graph: Any, conv: Any, input_grid: Grid, output_grid: Grid, *, signed: bool, levels: int) -> None:
    """Replace a convolution node over (batch, channels, frames) in a graph, in place.

    `input_grid` and `output_grid` are the grids of its input and output. Activations become uint8, or int8 if `signed`;
    weights become integers within ±`levels`.
    """
    from onnx import helper, numpy_helper

    integer, lowest = (np.int8, -LEVELS // 2) if signed else (np.uint8, 0)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight, *biases = (numpy_helper.to_array(tensors[name]) for name in conv.input[1:])
    integers, scale = fold(weight, input_grid, levels, *biases)
    step, shared = input_grid.shared, output_grid.shared
    scale = scale * shared / output_grid.step  # each channel's sums are in units of its own step
    nodes = []

    def store(name: str, values: Any, dtype: Any = np.float32) -> str:
        name = f"{conv.name}.{name}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(kind: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{conv.name}/{name}"
        nodes.append(helper.make_node(kind, inputs, [output], name=f"{conv.name}/{name}", **attributes))
        return output

    x_step = [store("read_step", step), store("read_zero", input_grid.zero + lowest, integer)]
    y_step = [store("given_step", shared), store("given_zero", output_grid.zero + lowest, integer)]
    x = add("Mul", [conv.input[0], store("read_scale", (step / input_grid.step)[:, None])], "scaled")
    x = add("DequantizeLinear", [add("QuantizeLinear", [x, *x_step], "read"), *x_step], "read_floats")
    w = [store("weight_quantized", integers, np.int8), store("weight_scale", scale)]
    arguments = [x, add("DequantizeLinear", w, "weight_floats", axis=0)]
    for bias in biases:
        b = [store("bias_quantized", np.rint(bias * shared / output_grid.step / (step * scale)), np.int32)]
        arguments.append(add("DequantizeLinear", [*b, store("bias_scale", step * scale)], "bias_floats", axis=0))
    y = add("Conv", arguments, "sums")
    nodes[-1].name = conv.name
    nodes[-1].attribute.extend(conv.attribute)
    y = add("DequantizeLinear", [add("QuantizeLinear", [y, *y_step], "given"), *y_step], "given_floats")
    add("Mul", [y, store("given_scale", (output_grid.step / shared)[:, None])], "unscaled", conv.output[0])
    position = list(graph.node).index(conv)
    for name in conv.input[1:]:
        graph.initializer.remove(tensors[name])
    graph.node.remove(conv)
    for node in reversed(nodes):
        graph.node.insert(position, node)
