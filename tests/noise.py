"""How far one network's logits are from another's."""

from __future__ import annotations

import numpy as np

from bench.models import Array


def snr_db(wanted: Array, found: Array) -> float:
    """Signal to noise of logits (batch, frames, vocab), without what all frames share, which would flatter it."""
    assert found.shape == wanted.shape and found.dtype == np.float32
    signal = wanted - wanted.mean(axis=(0, 1))
    return float(10 * np.log10((signal**2).sum() / max(((found - wanted) ** 2).sum(), 1e-30)))
