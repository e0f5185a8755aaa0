"""The rounds of a group: what was measured so far, and how many rounds the stop rule will ask for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bench.core import stats
from bench.core.specs import RunSpec
from bench.core.stats import Interval, StopRule
from bench.jobs.predictor import Measured


class Tally:
    """The visits of a group so far, as the stop rule looks at them."""

    def __init__(self, baseline: int, variants: Sequence[int]) -> None:
        """`variants`: the positions that are measured, with the baseline if it could be opened."""
        self.baseline, self.alive, self.rounds = baseline, list(variants), 0
        self._medians: dict[int, dict[int, float]] = {p: {} for p in variants}
        self._passes = dict.fromkeys(variants, 0)
        self._sums_s = dict.fromkeys(variants, 0.0)

    def add(self, position: int, round_number: int, kept_s: Sequence[float]) -> None:
        """Add a visit's kept passes."""
        self._medians[position][round_number] = statistics.median(kept_s)
        self._passes[position] += len(kept_s)
        self._sums_s[position] += sum(kept_s)

    def end_round(self, alive: Sequence[int]) -> None:
        """End a round; `alive` are the positions that have not failed."""
        self.alive, self.rounds = [p for p in self.alive if p in alive], self.rounds + 1

    @property
    def passes(self) -> int:
        """The smallest number of kept passes of a variant."""
        return min(self._passes[p] for p in self.alive)

    def mean_s(self, position: int) -> float | None:
        """The mean of a variant's kept passes; None before its first visit."""
        return self._sums_s[position] / self._passes[position] if self._passes[position] else None

    def intervals(self) -> list[Interval | None]:
        """The speed-ups over the baseline, or the times themselves where there is nothing to compare."""
        if others := self._compared:
            return [stats.speedup(self._medians[self.baseline], self._medians[p]) for p in others]
        return [stats.geometric_mean(list(self._medians[p].values())) for p in self.alive]

    def spreads(self) -> dict[int, float]:
        """By position: the standard deviation over rounds of the logarithm that its interval is about."""
        base = self._medians[self.baseline] if self._compared else {}
        spreads: dict[int, float] = {}
        for p in self._compared or self.alive:
            logs = [
                math.log(base[n] / s) if base else math.log(s)
                for n, s in self._medians[p].items()
                if not base or n in base
            ]
            if len(logs) > 1:
                spreads[p] = statistics.stdev(logs)
        return spreads

    def measured(self, spec: RunSpec, batch: int, size: float) -> list[Measured]:
        """What the visits say about the variants' speed and noise at this batch and size."""
        spreads = self.spreads()
        return [
            Measured(spec.variants[p], batch, size, mean_s, spreads.get(p), len(self._medians[p]))
            for p in self.alive
            if (mean_s := self.mean_s(p)) is not None
        ]

    @property
    def _compared(self) -> list[int]:
        others = [p for p in self.alive if p != self.baseline]
        return others if self.baseline in self.alive else []


def needed(
    rule: StopRule, spread: float, round_s: float, passes_a_round: float, done: int = 0, elapsed_s: float = 0.0
) -> int:
    """The round after which the rule ends a group whose rounds differ this much and take this long.

    `done` rounds have been looked at already, after `elapsed_s`, and the group went on.
    """
    first = max(done + 1, first_look(rule, passes_a_round))
    last = last_round(rule, round_s, passes_a_round, done, elapsed_s)
    for number in range(rule.min_rounds, last, rule.look_every):
        if number >= first and stats.student_t(number - 1) * spread / math.sqrt(number) <= math.log1p(
            rule.target_ratio
        ):
            return number
    return last


def first_look(rule: StopRule, passes_a_round: float) -> int:
    """The first round after which a group may end."""
    return max(rule.min_rounds, math.ceil(rule.repeats / passes_a_round))


def last_round(rule: StopRule, round_s: float, passes_a_round: float, done: int = 0, elapsed_s: float = 0.0) -> int:
    """The round after which a group ends even if the target is not reached; see `needed`."""
    first = max(done + 1, first_look(rule, passes_a_round))
    if rule.repeats < stats.FEWEST_LOOKED_AT:
        return first
    in_time = done + math.ceil((rule.max_s - elapsed_s) / round_s)
    return max(first, min(rule.max_rounds, in_time))
