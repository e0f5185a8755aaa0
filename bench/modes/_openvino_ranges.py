"""Quantizing a convolution's input with one step a channel, which costs nothing when it runs.

The extractor's activations are why Wav2Vec2 collapses in int8: GELU's outputs reach far in few channels, and what tells
quiet speech apart lies within a few hundredths of zero. One range for all channels has to choose between the two. Here
each channel c gets a step s_c of its own, and the convolution's weights are multiplied by s_c / S beforehand, so that
the integers that are multiplied share one step S:

    x_c ≈ low + s_c q_c   and   sum_c w_c x_c ≈ sum_c (w_c s_c / S) (S q_c) + low sum_c w_c

with q_c in 0..255 and a bias that is computed once. SmoothQuant has the same idea (Xiao et al. 2023, arXiv:2211.10438),
with steps that minimise the squared error rather than balance the two ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.models import Array
from bench.modes import Clips, Progress, _openvino
from bench.records import SAMPLE_RATE_HZ

LEVELS = 256
LONGEST = 20 * SAMPLE_RATE_HZ  # samples of a clip that are looked at: all activations of a pass are held at once
_FRAMES, _ALL_FRAMES = 1024, 16_384  # that are kept of a clip, and of all
_SHARES = np.geomspace(1.0, 0.05, 24, dtype=np.float32)  # of a channel's peak: where its range may end


def convolutions(model: Any) -> list[Any]:
    """The convolutions of the feature extractor, in the order in which they run: those without padding or groups."""
    found = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [op for op in found if not any(op.get_pads_begin()) and not any(op.get_pads_end())]


def observe(model: Any, convs: Sequence[Any], data: Clips, progress: Progress) -> list[tuple[float, Array]]:
    """For the input of each convolution: its low end, and the step of every channel (channels,) float32."""
    import openvino

    inputs = [conv.input_value(0) for conv in convs]
    probe = openvino.Model(inputs, model.get_parameters(), "probe")
    request = openvino.Core().compile_model(probe, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    seen: list[list[Array]] = [[] for _ in convs]
    frames = max(1, min(_FRAMES, _ALL_FRAMES // max(1, len(data))))
    lows, peaks = [0.0 for _ in convs], [np.zeros(0, np.float32) for _ in convs]
    for number, (clip, _) in enumerate(data, 1):
        progress(f"watching the feature extractor, clip {number} of {len(data)}")
        found = request.infer([clip[:, :LONGEST]], share_outputs=True)
        for i in range(len(convs)):
            x = found[i][0]  # (channels, frames)
            lows[i] = min(lows[i], float(x.min()))
            peak = x.max(1)
            peaks[i] = np.maximum(peaks[i], peak) if len(peaks[i]) else peak
            chosen = np.random.default_rng(number).permutation(x.shape[1])[:frames]
            seen[i].append(x[:, np.sort(chosen)])
    out = []
    for i in range(len(convs)):
        progress(f"choosing ranges, convolution {i + 1} of {len(convs)}")
        out.append((lows[i], steps(np.concatenate(seen[i], 1), lows[i], peaks[i])))
        seen[i].clear()
    return out


def steps(x: Array, low: float, peaks: Array) -> Array:
    """Of x (channels, frames): each channel's step, (channels,), that leaves the least error from `low` upwards.

    Errors are squared and weighted with the inverse of their frame's energy (and a hundredth of the mean's): an error
    in a quiet frame is heard as one of the same proportion in a loud one, since norms follow.
    """
    energy = np.square(x).mean(0)  # (frames,)
    weight = 1 / (energy + 0.01 * energy.mean() + 1e-12)
    spans = np.maximum(peaks - low, 1e-6)
    best, least = spans / (LEVELS - 1), np.full(len(x), np.inf, np.float32)
    for share in _SHARES:
        step = np.maximum(spans * share, 1e-6) / (LEVELS - 1)
        rounded = np.clip(np.rint((x - low) / step[:, None]), 0, LEVELS - 1) * step[:, None] + low
        error = (np.square(rounded - x) * weight).mean(1)
        better = error < least
        best[better], least[better] = step[better], error[better]
    return np.asarray(best, dtype=np.float32)


def quantize(conv: Any, low: float, step: Array) -> None:
    """Let a convolution without padding multiply uint8 with int8, in place: see above. Weights: a scale an output."""
    from openvino import Type, opset13

    name, weight = conv.get_friendly_name(), conv.input_value(1).get_node().data  # (out, in, width)
    shared = float(np.exp(np.log(step).mean()))
    high = (low + (LEVELS - 1) * step).reshape(1, -1, 1)
    scaled = weight * (step / shared).reshape(1, -1, 1)
    scale = np.maximum(np.abs(scaled).max((1, 2), keepdims=True), 1e-12) / 127
    integers = opset13.constant(np.rint(scaled / scale).astype(np.int8), name=f"{name}.weight")
    floats = opset13.multiply(opset13.convert(integers, Type.f32), scale.astype(np.float32))
    limits = (np.float32(low), high.astype(np.float32), np.float32(0), np.float32((LEVELS - 1) * shared))
    quantized = opset13.fake_quantize(conv.input_value(0), *limits, LEVELS, name=f"{name}/FakeQuantize")
    readers = conv.output(0).get_target_inputs()
    conv.input(0).replace_source_output(quantized.output(0))
    conv.input(1).replace_source_output(floats.output(0))
    biased = opset13.add(
        conv, (low * weight.sum((1, 2))).reshape(1, -1, 1).astype(np.float32), name=f"{name}{_openvino.SHIFT}"
    )
    for reader in readers:
        reader.replace_source_output(biased.output(0))
