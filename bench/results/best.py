"""The best mode on this device: within a limit on the words that it loses, the least of latency, size or memory.

Pure: an evaluation and a run go in, a choice with its evidence comes out. An interval that spans the limit decides
nothing, and the choice says so.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from bench.core import stats
from bench.core.specs import Variant
from bench.core.units import size
from bench.results.evaluation import Result, Score
from bench.results.report import Cell, Report

Goal = Literal["latency", "size", "memory"]
GOALS: dict[Goal, str] = {"latency": "fastest", "size": "smallest", "memory": "least memory"}
LIMIT = 0.01  # of WER, as a fraction


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant with what it loses and what it takes."""

    variant: Variant
    loss: Literal["within", "over", "undecided"]  # against the limit, by the interval of the difference in WER
    delta: float  # WER minus the original's, as a fraction
    delta_low: float | None
    delta_high: float | None
    amount: float | None  # what is to be least: time relative to the original's, or bytes; None where it is not known
    cell: Cell | None

    @property
    def name(self) -> str:
        """The mode as it is spelled."""
        return self.variant.spelled


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, who may be better still, and all that was compared, the best first."""

    goal: Goal
    limit: float
    winner: Candidate | None  # the best of those that are surely within the limit
    undecided: tuple[Candidate, ...]  # better than the winner, but their loss may be over the limit
    tied: tuple[Candidate, ...]  # within the limit, and no slower than the winner as far as can be told
    candidates: tuple[Candidate, ...]

    @property
    def sentences(self) -> list[str]:
        """The choice and its evidence, for people."""
        limit = f"{100 * self.limit:g} {'point' if self.limit == 0.01 else 'points'}"
        wanted = f"at most {limit} of WER lost"
        said = []
        if self.undecided:
            first = self.undecided[0]
            said.append(
                f"Undecided: {first.name} would be the {GOALS[self.goal]} ({_amount(first, self.goal)}), but its WER "
                f"differs by {_loss(first)}, and that spans the limit of {limit}. Evaluate more words to decide it."
            )
        if self.winner is None:
            said.append(f"No candidate is surely within the limit ({wanted}) and measured.")
            return said
        w = self.winner
        told = "surely " if self.undecided else ""
        said.append(
            f"The {GOALS[self.goal]} with {told}{wanted} is {w.name}: {_amount(w, self.goal)}, WER {_loss(w)} "
            "against the original."
        )
        if self.tied:
            names = ", ".join(c.name for c in self.tied)
            said.append(f"It can't be told apart from {names} in this measurement.")
        return said


def choose(heard: Result, measured: Report | None, model: str, goal: Goal, limit: float = LIMIT) -> Choice:
    """The best variant of a model by an evaluation (what is lost) and a run (what it takes) on the same device.

    `measured` may be None where the goal is size. Latency and memory are those at the longest input of batch 1; two
    latencies are compared pair by pair within rounds.
    """
    found = [_candidate(s, measured, goal, limit) for s in heard.scores if s.record.variant.model == model]
    known = sorted((c for c in found if c.amount is not None), key=lambda c: c.amount or 0.0)
    winner = next((c for c in known if c.loss == "within"), None)
    better = known[: known.index(winner)] if winner else known
    tied: list[Candidate] = []
    if winner and goal == "latency":
        tied = [c for c in known if c is not winner and c.loss == "within" and not _slower(c, winner)]
    return Choice(
        goal,
        limit,
        winner,
        tuple(c for c in better if c.loss == "undecided"),
        tuple(tied),
        (*known, *(c for c in found if c.amount is None)),
    )


def _candidate(s: Score, measured: Report | None, goal: Goal, limit: float) -> Candidate:
    c, variant = s.comparison, s.record.variant
    delta = 0.0 if s.is_baseline else c.delta
    low, high = (0.0, 0.0) if s.is_baseline else (c.delta_low, c.delta_high)
    loss: Literal["within", "over", "undecided"] = "undecided"
    if high is not None and high <= limit:
        loss = "within"
    elif low is not None and low > limit:
        loss = "over"
    cells = [x for x in measured.cells if x.record.variant == variant and x.batch == 1] if measured else []
    cell = max(cells, key=lambda x: x.size, default=None)
    amount: float | None = None
    if goal == "size":
        amount = s.size_bytes
    elif cell and goal == "memory":
        amount = cell.peak_rss_bytes
    elif cell:
        amount = 1.0 if cell.is_baseline else 1 / cell.speedup.value if cell.speedup else None
    return Candidate(variant, loss, delta or 0.0, low, high, amount, cell)


def _slower(c: Candidate, winner: Candidate) -> bool:
    """Whether a candidate is surely slower than the winner, both in one group."""
    if not c.cell or not winner.cell or c.cell.group.id != winner.cell.group.id:
        return True
    medians: dict[int, dict[int, float]] = {}
    for visit in c.cell.group.visits:
        medians.setdefault(visit.variant, {})[visit.round] = statistics.median(visit.kept_s)
    ratio = stats.speedup(medians[c.cell.position], medians[winner.cell.position])
    return ratio is not None and ratio.low is not None and ratio.low > 1


def _amount(c: Candidate, goal: Goal) -> str:
    assert c.amount is not None
    if goal != "latency":
        return size(round(c.amount))
    i = c.cell.speedup if c.cell else None
    return f"{i} times as fast as the original" if i else "the original itself"


def _loss(c: Candidate) -> str:
    interval = ""
    if c.delta_low is not None and c.delta_high is not None:
        interval = f" [{100 * c.delta_low:+.1f}, {100 * c.delta_high:+.1f}]"
    return f"{100 * c.delta:+.1f}{interval} points"
