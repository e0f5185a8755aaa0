"""The feature extractor over images of one line.

Convolutions over time alone keep OpenVINO from staying in one layout: a norm over time wants each channel's frames side
by side, convolutions want each frame's channels so, and 16 MB are reordered between them for 5 s of speech. Over images
(batch, channels, 1, frames) the norm has a kernel for the layout of convolutions. What is computed is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def over_images(model: Any) -> None:
    """Let the graph's nodes between the first convolution and the first that is no part of it work on 4-d tensors.

    In place; every node keeps its name. Those are convolutions, norms over time, products and sums with constants, and
    GELUs, fed from one another; whatever else reads one of them gets (batch, channels, frames) back. So an extractor
    with a norm over channels behind every convolution, as large models have, stays as it is but for its first one.
    """
    from openvino import opset13

    line, both = np.array([2], np.int64), np.array([2, 3], np.int64)
    wide: dict[str, Any] = {}  # by the name of a node: what takes its place
    for op in model.get_ordered_ops():
        kind, told = op.get_type_name(), op.get_attributes()
        sources = [value.get_node() for value in op.input_values()]
        fed = [i for i, source in enumerate(sources) if source.get_friendly_name() in wide]
        if not fed and not (kind == "Convolution" and not wide and len(told["strides"]) == 1):
            continue
        source = sources[fed[0]] if fed else sources[0]
        x = wide[source.get_friendly_name()] if fed else opset13.unsqueeze(source, line)
        constants = [s for s in sources if s.get_type_name() == "Constant"]
        new = None
        if kind == "Gelu":
            new = opset13.gelu(x, told["approximation_mode"])
        elif len(sources) == 2 and len(constants) == 1:
            if kind == "Convolution":
                new = opset13.convolution(
                    x, _widened(constants[0]), *[[one, *told[key]] for key, one in _SPANS.items()]
                )
            elif kind == "MVN" and constants[0].data.tolist() in ([2], [-1]):
                new = opset13.mvn(x, both, told["normalize_variance"], told["eps"], told["eps_mode"])
            elif kind in ("Multiply", "Add"):
                new = (opset13.multiply if kind == "Multiply" else opset13.add)(x, _widened(constants[0]))
        if new is None:
            for i in fed:
                op.input(i).replace_source_output(opset13.squeeze(wide[sources[i].get_friendly_name()], line).output(0))
            continue
        new.set_friendly_name(op.get_friendly_name())
        wide[op.get_friendly_name()] = new
    model.validate_nodes_and_infer_types()


def _widened(constant: Any) -> Any:
    """A constant with a dimension of 1 before its last."""
    from openvino import opset13

    values = constant.data
    return opset13.constant(np.expand_dims(values, -2) if values.ndim else values, name=constant.get_friendly_name())


# How far a convolution goes in the added dimension, by what it calls that in the others; in the order of its arguments.
_SPANS = {"strides": 1, "pads_begin": 0, "pads_end": 0, "dilations": 1}
