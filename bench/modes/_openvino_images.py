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
    GELUs, fed from one another; whatever else reads one of them gets (batch, channels, frames) back.
    """
    from openvino import opset13

    line, both = np.array([2], np.int64), np.array([2, 3], np.int64)
    wide: dict[str, Any] = {}  # by the name of a node: what takes its place
    for op in model.get_ordered_ops():
        name, kind, attributes = op.get_friendly_name(), op.get_type_name(), op.get_attributes()
        sources = [value.get_node() for value in op.input_values()]
        fed = [i for i, source in enumerate(sources) if source.get_friendly_name() in wide]
        if not fed and not (kind == "Convolution" and not wide):
            continue
        source = sources[fed[0]] if fed else sources[0]
        x = wide[source.get_friendly_name()] if fed else opset13.unsqueeze(source, line)
        others = [s for s in sources if s is not source]
        if kind == "Convolution":
            spans = [[first, *attributes[key]] for key, first in _SPANS.items()]
            new = opset13.convolution(x, _widened(others[0]), *spans)
        elif kind == "MVN" and sources[1].data.tolist() in ([2], [-1]):
            new = opset13.mvn(x, both, attributes["normalize_variance"], attributes["eps"], "inside_sqrt")
        elif kind in ("Multiply", "Add") and others[0].get_type_name() == "Constant":
            new = (opset13.multiply if kind == "Multiply" else opset13.add)(x, _widened(others[0]))
        elif kind == "Gelu":
            new = opset13.gelu(x, attributes["approximation_mode"])
        else:
            for i in fed:
                op.input(i).replace_source_output(opset13.squeeze(wide[sources[i].get_friendly_name()], line).output(0))
            continue
        new.set_friendly_name(name)
        wide[name] = new
    model.validate_nodes_and_infer_types()


def _widened(constant: Any) -> Any:
    """A constant with a dimension of 1 before its last."""
    from openvino import opset13

    values = constant.data
    return opset13.constant(np.expand_dims(values, -2) if values.ndim else values, name=constant.get_friendly_name())


# How far a convolution goes in the added dimension, by what it calls that in the others; in the order of its arguments.
_SPANS = {"strides": 1, "pads_begin": 0, "pads_end": 0, "dilations": 1}
