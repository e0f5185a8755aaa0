"""Choose the best mode on this device: the least latency, size or memory within a limit on the loss in WER.

Pure functions: an evaluation and a run go in, a choice with its evidence comes out. An interval that spans the limit
decides nothing, and the choice says so.
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
    """A variant with its loss and its cost."""

    variant: Variant
    loss: Literal["within", "over", "undecided"]  # against the limit, by the interval of the difference in WER
    delta: float  # WER minus the original's, as a fraction
    delta_low: float | None
    delta_high: float | None
    amount: float | None  # what is minimised: time relative to the original's, or bytes; None if unknown
    cell: Cell | None

    @property
    def name(self) -> str:
        """The mode, as spelled."""
        return self.variant.spelled


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, the variants that may be better, and all candidates, best first."""

    goal: Goal
    limit: float
    winner: Candidate | None  # the best of those that are surely within the limit
    undecided: tuple[Candidate, ...]  # better than the winner, but with a loss that may be over the limit
    tied: tuple[Candidate, ...]  # within the limit, and not measurably slower than the winner
    candidates: tuple[Candidate, ...]

    @property
    def sentences(self) -> list[str]:
        """The choice and its evidence, as sentences."""
        limit = f"{100 * self.limit:g} {'point' if self.limit == 0.01 else 'points'}"
        condition = f"at most {limit} of WER lost"
        lines = []
        if self.undecided:
            first = self.undecided[0]
            lines.append(
                f"Undecided: {first.name} would be the {GOALS[self.goal]} ({_amount(first, self.goal)}), but its WER "
                f"differs by {_loss(first)}, and that spans the limit of {limit}. Evaluate more words to decide it."
            )
        if self.winner is None:
            lines.append(f"No candidate is surely within the limit ({condition}) and measured.")
            return lines
        w = self.winner
        certainty = "surely " if self.undecided else ""
        lines.append(
            f"The {GOALS[self.goal]} with {certainty}{condition} is {w.name}: {_amount(w, self.goal)}, WER {_loss(w)} "
            "against the original."
        )
        if self.tied:
            names = ", ".join(c.name for c in self.tied)
            lines.append(f"This measurement shows no difference to {names}.")
        return lines


def choose(result: Result, report: Report | None, model: str, goal: Goal, limit: float = LIMIT) -> Choice:
    """Choose a model's best variant from an evaluation, `result` (loss), and a run, `report` (cost), on one device.

    `report` may be None if the goal is size. Latency and memory are those at the longest input of batch 1; two
    latencies are compared pair by pair within rounds.
    """
    candidates = [_candidate(s, report, goal, limit) for s in result.scores if s.record.variant.model == model]
    ranked = sorted((c for c in candidates if c.amount is not None), key=lambda c: c.amount or 0.0)
    winner = next((c for c in ranked if c.loss == "within"), None)
    better = ranked[: ranked.index(winner)] if winner else ranked
    tied: list[Candidate] = []
    if winner and goal == "latency":
        tied = [c for c in ranked if c is not winner and c.loss == "within" and not _slower(c, winner)]
    return Choice(
        goal,
        limit,
        winner,
        tuple(c for c in better if c.loss == "undecided"),
        tuple(tied),
        (*ranked, *(c for c in candidates if c.amount is None)),
    )


def _candidate(s: Score, report: Report | None, goal: Goal, limit: float) -> Candidate:
    comparison, variant = s.comparison, s.record.variant
    delta = 0.0 if s.is_baseline else comparison.delta
    low, high = (0.0, 0.0) if s.is_baseline else (comparison.delta_low, comparison.delta_high)
    loss: Literal["within", "over", "undecided"] = "undecided"
    if high is not None and high <= limit:
        loss = "within"
    elif low is not None and low > limit:
        loss = "over"
    cells = [x for x in report.cells if x.record.variant == variant and x.batch == 1] if report else []
    cell = max(cells, key=lambda x: x.size, default=None)
    amount: float | None = None
    if goal == "size":
        amount = s.size_bytes
    elif cell and goal == "memory":
        amount = cell.peak_rss_bytes
    elif cell:
        amount = 1.0 if cell.is_baseline else 1 / cell.speedup.value if cell.speedup else None
    return Candidate(variant, loss, delta or 0.0, low, high, amount, cell)


def _slower(candidate: Candidate, winner: Candidate) -> bool:
    """Whether a candidate is surely slower than the winner, both in one group."""
    if not candidate.cell or not winner.cell or candidate.cell.group.id != winner.cell.group.id:
        return True
    medians: dict[int, dict[int, float]] = {}
    for visit in candidate.cell.group.visits:
        medians.setdefault(visit.variant, {})[visit.round] = statistics.median(visit.kept_s)
    ratio = stats.speedup(medians[candidate.cell.position], medians[winner.cell.position])
    return ratio is not None and ratio.low is not None and ratio.low > 1


def _amount(candidate: Candidate, goal: Goal) -> str:
    assert candidate.amount is not None
    if goal != "latency":
        return size(round(candidate.amount))
    speedup = candidate.cell.speedup if candidate.cell else None
    return f"{speedup} times as fast as the original" if speedup else "the original itself"


def _loss(candidate: Candidate) -> str:
    interval = ""
    if candidate.delta_low is not None and candidate.delta_high is not None:
        interval = f" [{100 * candidate.delta_low:+.1f}, {100 * candidate.delta_high:+.1f}]"
    return f"{100 * candidate.delta:+.1f}{interval} points"
