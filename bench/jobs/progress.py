"""Estimate how long the rest of a run will take from the time of its rounds so far."""

from __future__ import annotations

import math
import statistics
import time

from bench.core.specs import Placement, RunSpec
from bench.core.stats import StopRule
from bench.jobs.forecast import SHORTEST_VISIT_S
from bench.jobs.work import work

Key = tuple[str, Placement, int, float]  # model, placement, batch, size


class Clock:
    """Tracks when groups and rounds begin and end, and estimates the remaining time."""

    def __init__(self, spec: RunSpec, rule: StopRule) -> None:
        """Plan one group per model, placement and shape."""
        self._rule = rule
        self._visits = {(m, p, *s): len(ps) for (m, p), ps in spec.comparisons.items() for s in spec.shapes}
        self._work = {key: work(key[0], key[2], key[3]) * visits for key, visits in self._visits.items()}
        self._pending = list(self._work)
        self.groups = len(self._pending)
        self.groups_done = 0
        self._finished_rounds: list[int] = []
        self._start_s = time.monotonic()
        self._group_start_s = 0.0
        self._current: Key | None = None
        self._round = 0
        self._round_s: float | None = None
        self._s_per_work: float | None = None
        self._passes_per_round = 1.0

    def skip(self, key: Key) -> None:
        """Skip a group: it is finished already, or nothing is left to measure in it."""
        if key in self._pending:
            self._pending.remove(key)
            self.groups_done += 1

    def begin(self, key: Key) -> None:
        """Begin a group."""
        self._current, self._group_start_s, self._round_s, self._round = key, time.monotonic(), None, 0
        if key in self._pending:
            self._pending.remove(key)
        else:
            self.groups += 1  # split for lack of memory: the same shape again, with other variants

    def round_done(self, number: int, passes: int) -> None:
        """Record `number` rounds of the group as done. `passes` is the smallest count of kept passes of its cells."""
        assert self._current
        self._round, self._passes_per_round = number, max(1.0, passes / number)
        self._round_s = (time.monotonic() - self._group_start_s) / number
        if number >= 2:
            self._s_per_work = self._round_s / self._work[self._current]

    def end(self, rounds: int) -> None:
        """End the group after this many rounds."""
        self._finished_rounds.append(rounds)
        self.groups_done += 1
        self._current = None

    @property
    def expected_rounds(self) -> int:
        """Expected number of rounds of the current group."""
        required = math.ceil(self._rule.repeats / self._passes_per_round) if self._round else 0
        typical = round(statistics.mean(self._finished_rounds)) if self._finished_rounds else 0
        return max(typical, required, self._rule.min_rounds, self._round)

    def eta_s(self) -> float | None:
        """Estimated seconds to the end; None before the second round of the first group is done."""
        if self._s_per_work is None:
            return None
        rounds = self.expected_rounds
        round_s = [max(SHORTEST_VISIT_S * self._visits[k], self._work[k] * self._s_per_work) for k in self._pending]
        remaining_s = sum(round_s) * rounds
        if self._current and self._round_s:
            remaining_s += max(rounds - self._round, 1) * self._round_s
        return remaining_s

    def done_ratio(self, eta_s: float | None) -> float:
        """Share of the run's time that has passed; 0 while the rest is unknown."""
        elapsed_s = time.monotonic() - self._start_s
        return 0.0 if eta_s is None else elapsed_s / (elapsed_s + eta_s)
