"""How far one network's logits are from another's."""

from __future__ import annotations

import numpy as np

from bench.families.family import Array


def snr_db(original: Array, logits: Array) -> float:
    """Signal to noise of logits (batch, frames, vocab), without what all frames share, which would flatter it."""
    assert logits.shape == original.shape and logits.dtype == np.float32
    signal = original - original.mean(axis=(0, 1))
    return float(10 * np.log10((signal**2).sum() / max(((logits - original) ** 2).sum(), 1e-30)))
