"""Per-channel quantization steps (scales) for 8-bit activations of convolutions, at no cost in the integer product.

The feature extractor's activations are why the accuracy of Wav2Vec2 collapses in int8: GELU's outputs have a wide range
in a few channels, while quiet speech differs only within a few hundredths of zero. A single range for all channels
can't represent both. Here each channel c of a convolution's input has its own step s_c, and the convolution's weights
are multiplied by s_c / S beforehand, so that the multiplied integers share one step S and one zero point:

    x_c ≈ s_c (q_c - zero)   and   sum_c w_c x_c ≈ sum_c (w_c s_c / S) (S (q_c - zero))   with q_c in 0..255

SmoothQuant uses the same idea (Xiao et al. 2023, arXiv:2211.10438). Here the steps minimise the squared error instead
of balancing the ranges of activations and weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.families.family import Array

LEVELS = 256
_ZEROS = (8, 16, 32, 48, 64, 80, 96, 128, 160)  # candidate zero points
_LEAST_STEP = 1e-3  # lower bound of a channel's widest step, relative to the largest of all channels'
_SHARES = np.geomspace(1.0, 0.05, 24, dtype=np.float32)  # candidate steps, relative to a channel's widest step


@dataclass(frozen=True, slots=True)
class Grid:
    """The quantization grid of a tensor: channel values are step * (q - zero) with 8-bit integers q in 0..255."""

    step: Array  # (channels,) float32
    zero: int

    @property
    def shared(self) -> float:
        """The single step for kernels that support only one: the geometric mean over channels."""
        return float(np.exp(np.log(self.step).mean()))


def grid(x: Array, low: Array, high: Array, gelu: bool = False) -> Grid:
    """Return the grid with the least weighted squared error for x (channels, frames) within low..high (channels,).

    Squared errors are weighted with the inverse of their frame's energy (plus a hundredth of the mean energy): norms
    follow, so an error in a quiet frame matters as much as a proportional one in a loud frame. If only GELU reads x
    (`gelu`), an error is weighted by its effect on GELU's output.
    """
    energy = np.square(x * _normal(x) if gelu else x).mean(0, keepdims=True)  # (1, frames)
    weight = 1 / (energy + 0.01 * energy.mean() + 1e-12)
    if gelu:
        slope = _normal(x) + x * np.exp(-np.square(x) / 2) * np.float32((2 * np.pi) ** -0.5)
        weight = weight * np.square(slope)
    best_grid, best_error = Grid(np.ones(len(x), np.float32), 0), np.inf
    for zero in _ZEROS:
        # Nothing is clipped below zero: most of GELU's outputs lie there, and their errors would add up in the sums.
        narrowest = -low / zero
        widest = np.maximum(high / (LEVELS - 1 - zero), narrowest)
        widest = np.maximum(widest, max(_LEAST_STEP * widest.max(), np.float32(1e-9)))  # for constant channels
        steps, errors = widest, np.full(len(x), np.inf, np.float32)
        for share in _SHARES:
            step = np.maximum(widest * share, narrowest)
            deviation = np.clip(np.rint(x / step[:, None]), -zero, LEVELS - 1 - zero) * step[:, None] - x
            error = (np.square(deviation) * weight).mean(1)
            steps, errors = np.where(error < errors, step, steps), np.minimum(error, errors)
        if errors.sum() < best_error:
            best_grid, best_error = Grid(steps.astype(np.float32), zero), float(errors.sum())
    return best_grid


def fold(weight: Array, read: Grid, levels: int = 127, bias: Array | None = None) -> tuple[Array, Array]:
    """Fold the steps of a convolution's input into its weight (out, in, ...) and quantize the weight.

    Returns the integer weight, int8 in ±`levels`, for an input whose channels all have the step `read.shared`, and its
    scale per output channel, (out,) float32. The scale is large enough that `bias` (out,) fits into the 32-bit integers
    of the sums.
    """
    trailing = [1] * (weight.ndim - 2)
    shared = read.shared
    scaled = weight * (read.step / shared).reshape(1, -1, *trailing)
    scale = np.maximum(np.abs(scaled).max(axis=tuple(range(1, weight.ndim))) / levels, 1e-12)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (shared * 2.0**30))
    integers = np.rint(scaled / scale.reshape(-1, 1, *trailing)).astype(np.int8)
    return integers, scale.astype(np.float32)


def _normal(x: Array) -> Array:
    """Return the normal cumulative distribution function: GELU(x) is x times this."""
    from scipy.special import ndtr

    return np.asarray(ndtr(x), dtype=np.float32)
