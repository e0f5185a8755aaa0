"""The feature extractor as 2-d convolutions over images of height 1.

With 1-d convolutions OpenVINO can't keep one memory layout: the norm over time needs each channel's frames contiguous,
convolutions need each frame's channels contiguous, and 16 MB are reordered between them for 5 s of speech. For images
(batch, channels, 1, frames) the norm has a kernel for the layout of convolutions. The result is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def over_images(model: Any) -> None:
    """Convert the feature extractor's nodes, from the first convolution on, to 4-d tensors, in place.

    Every node keeps its name. Converted are convolutions, norms over time, products and sums with constants, and GELUs,
    if they read one another; any other node that reads one of them gets (batch, channels, frames). So in an extractor
    with a norm over channels after every convolution, as in large models, only the first convolution is converted.
    """
    from openvino import opset13

    height_axis, image_axes = np.array([2], np.int64), np.array([2, 3], np.int64)
    wide: dict[str, Any] = {}  # replacements by node name
    for op in model.get_ordered_ops():
        kind, attributes = op.get_type_name(), op.get_attributes()
        sources = [value.get_node() for value in op.input_values()]
        wide_inputs = [i for i, source in enumerate(sources) if source.get_friendly_name() in wide]
        if not wide_inputs and not (kind == "Convolution" and not wide and len(attributes["strides"]) == 1):
            continue
        source = sources[wide_inputs[0]] if wide_inputs else sources[0]
        x = wide[source.get_friendly_name()] if wide_inputs else opset13.unsqueeze(source, height_axis)
        constants = [s for s in sources if s.get_type_name() == "Constant"]
        replacement = None
        if kind == "Gelu":
            replacement = opset13.gelu(x, attributes["approximation_mode"])
        elif len(sources) == 2 and len(constants) == 1:
            if kind == "Convolution":
                replacement = opset13.convolution(
                    x, _widened(constants[0]), *[[added, *attributes[key]] for key, added in _SPANS.items()]
                )
            elif kind == "MVN" and constants[0].data.tolist() in ([2], [-1]):
                replacement = opset13.mvn(
                    x, image_axes, attributes["normalize_variance"], attributes["eps"], attributes["eps_mode"]
                )
            elif kind in ("Multiply", "Add"):
                replacement = (opset13.multiply if kind == "Multiply" else opset13.add)(x, _widened(constants[0]))
        if replacement is None:
            for i in wide_inputs:
                op.input(i).replace_source_output(
                    opset13.squeeze(wide[sources[i].get_friendly_name()], height_axis).output(0)
                )
            continue
        replacement.set_friendly_name(op.get_friendly_name())
        wide[op.get_friendly_name()] = replacement
    model.validate_nodes_and_infer_types()


def _widened(constant: Any) -> Any:
    """Return the constant with a dimension of 1 inserted before its last."""
    from openvino import opset13

    values = constant.data
    return opset13.constant(np.expand_dims(values, -2) if values.ndim else values, name=constant.get_friendly_name())


# A convolution's attributes, in the order of its arguments, with their values for the added dimension.
_SPANS = {"strides": 1, "pads_begin": 0, "pads_end": 0, "dilations": 1}
