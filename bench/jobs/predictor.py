"""Predict how long passes take and how much rounds differ, from what was measured before. Times are in seconds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.core.specs import Placement, Variant
from bench.device import cpu
from bench.jobs.work import work
from bench.workers.process import SINGLE_PASS_OVER_S, VISIT_PASSES, VISIT_S

VISIT_OVERHEAD_S = 0.06  # to wake a worker, read the device's state before and after, and store the visit
USUAL_SPREAD = 0.03  # of a device that does little else
DEVICE_SHARE = 0.7  # share of the matrix product's rate that a whole model reaches


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of a variant's passes at one batch and size, and how much its rounds differed."""

    variant: Variant
    batch: int
    size: float
    pass_s: float  # the mean: it says how long a run takes, where the median says how fast the variant is
    spread: float | None  # see `rounds.Tally.spreads`; None if it was not compared, or in too few rounds

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one pass."""
        return work(self.variant.model, self.batch, self.size)


def visit_s(pass_s: float) -> float:
    """Expected time of a visit whose passes take this long: one is discarded, the others are kept."""
    kept = 1 if pass_s > SINGLE_PASS_OVER_S else max(VISIT_PASSES, math.ceil(VISIT_S / pass_s))
    return (1 + kept) * pass_s + VISIT_OVERHEAD_S


def kept_passes(pass_s: float) -> int:
    """The fewest passes that a visit keeps if they take this long."""
    return 1 if pass_s > SINGLE_PASS_OVER_S else VISIT_PASSES


class Predictor:
    """Predicts from this run's passes, else from earlier runs', else from the processor's speed."""

    def __init__(self, earlier: Sequence[Measured] = (), here: Sequence[Measured] = ()) -> None:
        """`earlier`: what earlier runs on this device measured, the newest first; `here`: what this run measured."""
        self._earlier, self._here = earlier, here

    def after(self, here: Sequence[Measured]) -> Predictor:
        """A predictor that also knows what this run has measured since. It counts more than earlier runs."""
        return Predictor(self._earlier, (*self._here, *here))

    def measured(self, variant: Variant) -> bool:
        """Whether something alike was measured, so that the prediction is more than a guess."""
        return any(_alike(m.variant, variant) for m in (*self._here, *self._earlier))

    def pass_s(self, variant: Variant, batch: int, size: float) -> float:
        """Predict the time of one pass.

        Earlier runs say how times grow with the size, and this run how fast the device is today.
        """
        prior_s = self._prior_s(variant, batch, size)
        macs = work(variant.model, batch, size)
        if here := _nearest((m for m in self._here if m.variant == variant), macs):
            return here.pass_s * prior_s / self._prior_s(variant, here.batch, here.size)
        others = [m for m in self._here if (m.variant.model, m.variant.placement) == (variant.model, variant.placement)]
        if not others:
            return prior_s
        return prior_s * statistics.geometric_mean(m.pass_s / self._prior_s(m.variant, m.batch, m.size) for m in others)

    def spread(self, variant: Variant, batch: int, size: float) -> float:
        """Predict how much the rounds of a variant differ."""
        macs = work(variant.model, batch, size)
        for candidates in (
            [m for m in self._here if m.variant == variant],
            self._here,
            [m for m in self._earlier if m.variant == variant],
            [m for m in self._earlier if (m.variant.mode, m.variant.placement) == (variant.mode, variant.placement)],
            self._earlier,
        ):
            if near := _nearest((m for m in candidates if m.spread is not None), macs):
                assert near.spread is not None
                return near.spread
        return USUAL_SPREAD

    def _prior_s(self, variant: Variant, batch: int, size: float) -> float:
        """Predict without this run's passes: scale the nearest size of the most similar variant by the work."""
        macs = work(variant.model, batch, size)
        for alike in (
            lambda v: v == variant,
            lambda v: (v.mode, v.settings, v.placement) == (variant.mode, variant.settings, variant.placement),
            lambda v: (v.model, v.placement) == (variant.model, variant.placement),
            lambda v: _alike(v, variant),
        ):
            if near := _nearest((m for m in self._earlier if alike(m.variant)), macs):
                return near.pass_s * macs / near.macs
        return macs / guessed_rate(variant.placement)


def guessed_rate(placement: Placement) -> float:
    """Guess the MAC/s that a float model reaches on a placement."""
    return _product_rate() * DEVICE_SHARE * min(placement.threads, cpu.default_threads())


@lru_cache(maxsize=1)
def _product_rate() -> float:
    """MAC/s of one core in NumPy's float32 matrix product, the best of many tries.

    The matrices are small enough that NumPy uses one thread and a try takes microseconds: on a busy device some of them
    are not interrupted.
    """
    matrix = np.ones((64, 64), dtype=np.float32)
    times_s = []
    for _ in range(200):
        start_s = time.perf_counter()
        matrix @ matrix
        times_s.append(time.perf_counter() - start_s)
    return float(64**3 / min(times_s))


def _alike(a: Variant, b: Variant) -> bool:
    """Whether they are the same model, or the same mode at the same placement."""
    return a.model == b.model or (a.mode, a.placement) == (b.mode, b.placement)


def _nearest(candidates: Iterable[Measured], macs: int) -> Measured | None:
    """The measurement whose work is nearest in ratio; of equals the first, which is the newest."""
    return min(candidates, key=lambda m: abs(math.log(m.macs / macs)), default=None)
