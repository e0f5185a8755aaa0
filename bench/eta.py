"""How long the rest of a run will take, from what its rounds took so far."""

from __future__ import annotations

import statistics
import time

from bench.estimate import work
from bench.records import RunSpec
from bench.stats import StopRule

Shape = tuple[int, float]  # batch, length in seconds
SHORTEST_ROUND_S = 0.4


class Clock:
    """Told when groups and rounds begin and end."""

    def __init__(self, spec: RunSpec, rule: StopRule) -> None:
        """Plans one group per model, thread count and shape."""
        self._rule = rule
        self._work = {(m, s): work(m, *s) * len(ps) for (m, _), ps in spec.families.items() for s in spec.shapes}
        self._ahead = [(m, s) for (m, _) in spec.families for s in spec.shapes]
        self.groups = len(self._ahead)
        self.groups_done = 0
        self._rounds_seen: list[int] = []
        self._begun = time.monotonic()
        self._group_begun = 0.0
        self._round_s: float | None = None
        self._round = 0
        self._s_per_work: float | None = None
        self._current: tuple[str, Shape] | None = None

    def skip(self, model: str, shape: Shape) -> None:
        """A group of a resumed run is finished already."""
        self._ahead.remove((model, shape))
        self.groups_done += 1

    @property
    def expected_rounds(self) -> int:
        """Rounds that the current group will probably take."""
        seen = round(statistics.mean(self._rounds_seen)) if self._rounds_seen else self._rule.min_rounds
        return max(seen, self._rule.min_rounds, self._round)

    def begin(self, model: str, shape: Shape, variants: int) -> None:
        """A group begins."""
        self._current, self._group_begun, self._round_s, self._round = (model, shape), time.monotonic(), None, 0
        if self._current in self._ahead:
            self._ahead.remove(self._current)
        else:
            self.groups += 1  # memory split it: the same shape once more, with other variants

    def round_done(self, number: int) -> None:
        """So many rounds of the group are done."""
        assert self._current
        self._round = number
        self._round_s = (time.monotonic() - self._group_begun) / number
        if number >= 2:
            self._s_per_work = self._round_s / self._work[self._current]

    def end(self, rounds: int) -> None:
        """The group is over."""
        self._rounds_seen.append(rounds)
        self.groups_done += 1
        self._current = None

    def eta_s(self) -> float | None:
        """Seconds to the end; None before the second round of the first group is done."""
        if self._s_per_work is None:
            return None
        rounds = self.expected_rounds
        ahead = sum(max(SHORTEST_ROUND_S, self._work[g] * self._s_per_work) * rounds for g in self._ahead)
        if self._current and self._round_s:
            ahead += max(rounds - self._round, 1) * self._round_s
        return ahead

    def done_ratio(self, eta_s: float | None) -> float:
        """The share of the run's time that has passed."""
        spent = time.monotonic() - self._begun
        return 0.0 if eta_s is None else spent / (spent + eta_s)
