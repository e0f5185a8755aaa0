"""A step a channel for the 8-bit activations of convolutions, which costs nothing while integers are multiplied.

The extractor's activations are why Wav2Vec2 collapses in int8: GELU's outputs reach far in few channels, and what tells
quiet speech apart lies within a few hundredths of zero. One range for all channels has to choose between the two. Here
each channel c of a convolution's input gets a step s_c of its own, and the convolution's weights are multiplied by
s_c / S beforehand, so that the integers that are multiplied share one step S and one zero:

    x_c ≈ s_c (q_c - zero)   and   sum_c w_c x_c ≈ sum_c (w_c s_c / S) (S (q_c - zero))   with q_c in 0..255

SmoothQuant has the same idea (Xiao et al. 2023, arXiv:2211.10438), with steps that minimise the squared error rather
than balance the ranges of activations and weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.families.family import Array

LEVELS = 256
_ZEROS = (8, 16, 32, 48, 64, 80, 96, 128, 160)  # which integer may stand for zero
_LEAST_STEP = 1e-3  # of a channel's widest, as a part of the greatest of all channels'
_SHARES = np.geomspace(1.0, 0.05, 24, dtype=np.float32)  # of a channel's widest step: those that are tried


@dataclass(frozen=True, slots=True)
class Grid:
    """What the 8-bit integers q of a tensor's channels stand for: step * (q - zero) with q in 0..255."""

    step: Array  # (channels,) float32
    zero: int

    @property
    def shared(self) -> float:
        """The step that stands for those of all channels where a kernel knows one: their geometric mean."""
        return float(np.exp(np.log(self.step).mean()))


def grid(x: Array, low: Array, high: Array, gelu: bool = False) -> Grid:
    """Of x (channels, frames) that lies in low..high (channels,): the grid that leaves the least error.

    Errors are squared and weighted with the inverse of their frame's energy (and a hundredth of the mean's): an error
    in a quiet frame is heard as one of the same proportion in a loud one, since norms follow. Where nothing but GELU
    reads x, an error counts as what is left of it behind.
    """
    energy = np.square(x * _normal(x) if gelu else x).mean(0, keepdims=True)  # (1, frames)
    weight = 1 / (energy + 0.01 * energy.mean() + 1e-12)
    if gelu:
        slope = _normal(x) + x * np.exp(-np.square(x) / 2) * np.float32((2 * np.pi) ** -0.5)
        weight = weight * np.square(slope)
    best, least = Grid(np.ones(len(x), np.float32), 0), np.inf
    for zero in _ZEROS:
        # Nothing is cut off below zero: GELU leaves most values there, and what they all lose adds up in the sums.
        narrowest = -low / zero
        widest = np.maximum(high / (LEVELS - 1 - zero), narrowest)
        widest = np.maximum(widest, max(_LEAST_STEP * widest.max(), np.float32(1e-9)))  # a channel that never moves
        steps, errors = widest, np.full(len(x), np.inf, np.float32)
        for share in _SHARES:
            step = np.maximum(widest * share, narrowest)
            off = np.clip(np.rint(x / step[:, None]), -zero, LEVELS - 1 - zero) * step[:, None] - x
            error = (np.square(off) * weight).mean(1)
            steps, errors = np.where(error < errors, step, steps), np.minimum(error, errors)
        if errors.sum() < least:
            best, least = Grid(steps.astype(np.float32), zero), float(errors.sum())
    return best


def fold(weight: Array, read: Grid, levels: int = 127, bias: Array | None = None) -> tuple[Array, Array]:
    """Take the steps of what a convolution reads into its weight (out, in, ...).

    Returns its integers, int8 in ±`levels`, for a convolution whose channels all have the step `read.shared`, and their
    scale for each output channel, (out,) float32: so large that `bias` (out,) fits into the 32-bit integers of sums.
    """
    wide = [1] * (weight.ndim - 2)
    shared = read.shared
    scaled = weight * (read.step / shared).reshape(1, -1, *wide)
    scale = np.maximum(np.abs(scaled).max(axis=tuple(range(1, weight.ndim))) / levels, 1e-12)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (shared * 2.0**30))
    integers = np.rint(scaled / scale.reshape(-1, 1, *wide)).astype(np.int8)
    return integers, scale.astype(np.float32)


def _normal(x: Array) -> Array:
    """The normal distribution's function: GELU(x) is x times this."""
    from scipy.special import ndtr

    return np.asarray(ndtr(x), dtype=np.float32)
