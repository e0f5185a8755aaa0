"""How long the rest of a run will take, from what its rounds took so far."""

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
    """Told when groups and rounds begin and end."""

    def __init__(self, spec: RunSpec, rule: StopRule) -> None:
        """Plans one group per model, placement and shape."""
        self._rule = rule
        self._visits = {(m, p, *s): len(ps) for (m, p), ps in spec.comparisons.items() for s in spec.shapes}
        self._work = {key: work(key[0], key[2], key[3]) * visits for key, visits in self._visits.items()}
        self._ahead = list(self._work)
        self.groups = len(self._ahead)
        self.groups_done = 0
        self._rounds_seen: list[int] = []
        self._begun = time.monotonic()
        self._group_begun = 0.0
        self._current: Key | None = None
        self._round = 0
        self._round_s: float | None = None
        self._s_per_work: float | None = None
        self._passes_per_round = 1.0

    def skip(self, key: Key) -> None:
        """A group will not be measured: it is finished already, or nothing is left to measure in it."""
        if key in self._ahead:
            self._ahead.remove(key)
            self.groups_done += 1

    def begin(self, key: Key) -> None:
        """A group begins."""
        self._current, self._group_begun, self._round_s, self._round = key, time.monotonic(), None, 0
        if key in self._ahead:
            self._ahead.remove(key)
        else:
            self.groups += 1  # memory split it: the same shape once more, with other variants

    def round_done(self, number: int, passes: int) -> None:
        """So many rounds of the group are done; `passes` is the smallest count of kept passes among its cells."""
        assert self._current
        self._round, self._passes_per_round = number, max(1.0, passes / number)
        self._round_s = (time.monotonic() - self._group_begun) / number
        if number >= 2:
            self._s_per_work = self._round_s / self._work[self._current]

    def end(self, rounds: int) -> None:
        """The group is over."""
        self._rounds_seen.append(rounds)
        self.groups_done += 1
        self._current = None

    @property
    def expected_rounds(self) -> int:
        """Rounds that the current group will probably take."""
        asked = math.ceil(self._rule.repeats / self._passes_per_round) if self._round else 0
        seen = round(statistics.mean(self._rounds_seen)) if self._rounds_seen else 0
        return max(seen, asked, self._rule.min_rounds, self._round)

    def eta_s(self) -> float | None:
        """Seconds to the end; None before the second round of the first group is done."""
        if self._s_per_work is None:
            return None
        rounds = self.expected_rounds
        round_s = [max(SHORTEST_VISIT_S * self._visits[k], self._work[k] * self._s_per_work) for k in self._ahead]
        ahead = sum(round_s) * rounds
        if self._current and self._round_s:
            ahead += max(rounds - self._round, 1) * self._round_s
        return ahead

    def done_ratio(self, eta_s: float | None) -> float:
        """The share of the run's time that has passed."""
        spent = time.monotonic() - self._begun
        return 0.0 if eta_s is None else spent / (spent + eta_s)
