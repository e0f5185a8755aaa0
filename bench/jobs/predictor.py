"""Predict how long passes take and how much rounds differ, from what was measured before. Times are in seconds."""

from __future__ import annotations

import math
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
GROWTH = 0.85  # a pass takes longer by this power of its work: small passes use a processor less well
PRIOR_ROUNDS = 4
DOUBT_ROUNDS = 6.0  # after so many rounds, this run's pace counts as much as that of earlier runs with the same variant
GUESS_DOUBT_ROUNDS = 0.5  # the same where only other variants, or the processor, say what to expect
DEVICE_SHARE = 0.7  # share of the matrix product's rate that a whole model reaches


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of a variant's passes at one batch and size, and how much its rounds differed."""

    variant: Variant
    batch: int
    size: float
    pass_s: float  # the mean: it says how long a run takes, where the median says how fast the variant is
    spread: float | None  # see `rounds.Tally.spreads`; None if it was not compared, or in too few rounds
    rounds: int = 0  # that it was measured in


def visit_s(pass_s: float) -> float:
    """Expected time of a visit whose passes take this long: one is discarded, the others are kept."""
    kept = 1 if pass_s > SINGLE_PASS_OVER_S else max(VISIT_PASSES, math.ceil(VISIT_S / pass_s))
    return (1 + kept) * pass_s + VISIT_OVERHEAD_S


def kept_passes(pass_s: float) -> int:
    """The fewest passes that a visit keeps if they take this long."""
    return 1 if pass_s > SINGLE_PASS_OVER_S else VISIT_PASSES


class Predictor:
    """Predicts from this run's passes, else from earlier runs', else from the processor's speed."""

    def __init__(
        self,
        earlier: Sequence[Measured] = (),
        here: Sequence[Measured] = (),
        macs: dict[tuple[str, int, float], int] | None = None,
    ) -> None:
        """`earlier`: what earlier runs on this device measured, the newest first; `here`: what this run measured.

        `macs` keeps the work of passes that was counted already: counting it reads the model's configuration.
        """
        self._earlier, self._here = earlier, here
        self._macs_by_pass = {} if macs is None else macs

    def after(self, here: Sequence[Measured]) -> Predictor:
        """A predictor that also knows what this run has measured since. It counts more than earlier runs."""
        return Predictor(self._earlier, (*self._here, *here), self._macs_by_pass)

    def measured(self, variant: Variant) -> bool:
        """Whether something alike was measured, so that the prediction is more than a guess."""
        return any(_alike(m.variant, variant) for m in (*self._here, *self._earlier))

    def pass_s(self, variant: Variant, batch: int, size: float) -> float:
        """Predict the time of one pass.

        Earlier runs say how times grow with the size, and this run how fast the device is today.
        """
        prior_s = self._prior_s(variant, batch, size)
        macs = self._macs(variant.model, batch, size)
        place = (variant.model, variant.placement)
        here = self._nearest((m for m in self._here if m.variant == variant), macs) or self._nearest(
            (m for m in self._here if (m.variant.model, m.variant.placement) == place), macs
        )
        if here is None:
            return prior_s
        ratio = here.pass_s / self._prior_s(here.variant, here.batch, here.size)
        doubt = DOUBT_ROUNDS if any(m.variant == here.variant for m in self._earlier) else GUESS_DOUBT_ROUNDS
        return float(prior_s * ratio ** (here.rounds**2 / (here.rounds**2 + doubt**2)))

    def spread(self, variant: Variant, batch: int, size: float) -> float:
        """Predict how much the rounds of a variant differ.

        Few rounds say little of their spread, so those of this run are averaged with earlier runs' as if these had
        been PRIOR_ROUNDS.
        """
        macs = self._macs(variant.model, batch, size)
        place = (variant.mode, variant.placement)
        earlier = self._first_spread(
            macs,
            [m for m in self._earlier if m.variant == variant],
            [m for m in self._earlier if (m.variant.mode, m.variant.placement) == place],
            self._earlier,
        )
        here = self._first_spread(
            macs,
            [m for m in self._here if m.variant == variant],
            [m for m in self._here if m.variant.placement == variant.placement],
            self._here,
        )
        prior, weight = (earlier[0], PRIOR_ROUNDS) if earlier else (USUAL_SPREAD, 1)
        if here is None:
            return prior
        spread, rounds = here
        return math.sqrt((weight * prior**2 + (rounds - 1) * spread**2) / (weight + rounds - 1))

    def _prior_s(self, variant: Variant, batch: int, size: float) -> float:
        """Predict without this run's passes: scale the nearest size of the most similar variant by the work."""
        macs = self._macs(variant.model, batch, size)
        for alike in (
            lambda v: v == variant,
            lambda v: (v.mode, v.settings, v.placement) == (variant.mode, variant.settings, variant.placement),
            lambda v: (v.model, v.placement) == (variant.model, variant.placement),
            lambda v: _alike(v, variant),
        ):
            if near := self._nearest((m for m in self._earlier if alike(m.variant)), macs):
                return float(near.pass_s * (macs / self._macs_of(near)) ** GROWTH)
        return macs / guessed_rate(variant.placement)

    def _first_spread(self, macs: int, *choices: Sequence[Measured]) -> tuple[float, int] | None:
        """Spread and rounds of the measurement nearest in work, from the first choice that has one."""
        for candidates in choices:
            near = self._nearest((m for m in candidates if m.spread is not None), macs)
            if near and near.spread is not None:
                return near.spread, near.rounds
        return None

    def _nearest(self, candidates: Iterable[Measured], macs: int) -> Measured | None:
        """The measurement whose work is nearest in ratio; of equals the first, which is the newest."""
        return min(candidates, key=lambda m: abs(math.log(self._macs_of(m) / macs)), default=None)

    def _macs_of(self, measured: Measured) -> int:
        return self._macs(measured.variant.model, measured.batch, measured.size)

    def _macs(self, model: str, batch: int, size: float) -> int:
        key = (model, batch, size)
        if key not in self._macs_by_pass:
            self._macs_by_pass[key] = work(model, batch, size)
        return self._macs_by_pass[key]


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
