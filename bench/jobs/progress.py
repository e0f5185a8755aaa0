"""Estimate how long the rest of a run will take, from its rounds so far and from earlier runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import modes
from bench.core.specs import Comparison, Placement, RunSpec, Variant
from bench.core.stats import StopRule
from bench.jobs.history import History
from bench.jobs.memory import parameters
from bench.jobs.predictor import Predictor, kept_passes, visit_s
from bench.jobs.rounds import Tally, last_round, needed

Key = tuple[str, Placement, int, float]  # model, placement, batch, size

PREPARE_S = 2.0  # per variant that is at hand, where no earlier run says
OPEN_S = 5.0  # per variant, where no earlier run says
BUILD_S = 5.0  # to start a builder
BUILD_S_PER_PARAMETER = 1e-7
EXAMPLES_S_PER_PARAMETER = 5e-7  # in addition, to run the model over calibration examples
COMPILE_S = 60.0  # to open a mode that compiles then: less for a few layers, more for twelve and up
OVERDUE_RATIO = 0.1  # what takes longer than was predicted is taken to last this share of its time so far
PACE_ROUNDS = 3  # of the group under way, from which on its own pace counts alone
LUCK = 0.8  # a group ends at the first look whose intervals happen to be narrow, so earlier than its noise says
SLOWER_RATIO = 1.5  # passes in a run's most pessimistic forecast, over the predicted ones
SLOWER_THAN_GUESSED_RATIO = 4.0  # the same if no run has measured the mode


@dataclass(frozen=True, slots=True)
class Remaining:
    """Seconds to the end of a run."""

    quiet_s: float  # if every group reaches its target as early as the rule allows
    likely_s: float
    most_s: float  # if no group reaches its target before the rule gives up, on a device that is slower than expected


class Clock:
    """Tracks what a run does and estimates the remaining time, within the limits of the rule that ends its groups."""

    def __init__(
        self,
        spec: RunSpec,
        rule: StopRule,
        history: History | None = None,
        builds: Sequence[Variant] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plan one group per model, placement and shape. `builds`: what has to be built first."""
        history = history or History()
        self._spec, self._rule, self._now = spec, rule, now
        self._predictor = Predictor(history.measured)
        self._pending: dict[Key, list[int]] = {
            (*comparison, *shape): positions
            for comparison, positions in spec.comparisons.items()
            for shape in spec.shapes
        }
        self.groups = len(self._pending)
        self.groups_done = 0
        self._history = history
        self._phase_s = prepare_s(spec.variants, builds, history)  # of the phase that is under way
        self._start_s = self._phase_start_s = now()
        self._unopened = dict(spec.comparisons)
        self._current: _Group | None = None

    # --- what happens

    def skip(self, key: Key) -> None:
        """Skip a group: it is finished already, or nothing is left to measure in it."""
        if self._pending.pop(key, None) is not None:
            self.groups_done += 1
        if not any(k[:2] == key[:2] for k in self._pending):
            self._unopened.pop(key[:2], None)

    def opening(self, comparison: Comparison, positions: Sequence[int]) -> None:
        """Begin to open these variants of a comparison; everything is built."""
        self._unopened.pop(comparison, None)
        self._phase_s = open_s([self._spec.variants[p] for p in positions], self._history)
        self._phase_start_s = self._now()

    def begin(self, key: Key, tally: Tally) -> None:
        """Begin a group: its variants are open. The caller keeps the tally up to date."""
        self._phase_s = 0.0
        self._current = _Group(key, tally, self._now())
        if self._pending.pop(key, None) is None:
            self.groups += 1  # split for lack of memory: the same shape again, with other variants

    def round_done(self) -> None:
        """Record that a round of the group ended, after its tally has it."""
        assert self._current
        self._current.round_done(self._now())

    def end(self) -> None:
        """End the group."""
        assert self._current
        self._predictor = self._latest()
        self.groups_done += 1
        self._current = None

    # --- what it means

    @property
    def most_rounds(self) -> int:
        """Rounds of the current group that are never exceeded."""
        if self._current is None:
            return self._rule.max_rounds
        return max(self._current.tally.rounds + 1, last_round(self._rule, 0.01, self._current.passes_a_round(3)))

    def eta_s(self) -> float | None:
        """Estimated seconds to the end; None while that would be a mere guess.

        Before the second round of the first group it takes earlier runs with the same modes to say more.
        """
        early = self._current is None or self._current.tally.rounds < 2
        if early and not self.groups_done and not all(map(self._predictor.measured, self._spec.variants)):
            return None
        return self.remaining().likely_s

    def remaining(self) -> Remaining:
        """Estimated seconds to the end, with the range that the rule leaves."""
        elapsed_s = self._now() - self._phase_start_s
        fixed_s = max(self._phase_s - elapsed_s, OVERDUE_RATIO * elapsed_s) if self._phase_s else 0.0
        fixed_s += sum(
            open_s([self._spec.variants[p] for p in positions], self._history) for positions in self._unopened.values()
        )
        predictor = self._latest()
        groups = [self._pending_group(predictor, key, positions) for key, positions in self._pending.items()]
        if self._current:
            groups.append(self._current_group(predictor, self._current))
        quiet_s, likely_s, most_s = (fixed_s + sum(g[i] for g in groups) for i in range(3))
        return Remaining(quiet_s, likely_s, most_s)

    def done_ratio(self, eta_s: float | None) -> float:
        """Share of the run's time that has passed; 0 while the rest is unknown."""
        elapsed_s = self._now() - self._start_s
        return elapsed_s / (elapsed_s + eta_s) if eta_s is not None and elapsed_s else 0.0

    # --- plumbing

    def _pending_group(self, predictor: Predictor, key: Key, positions: Sequence[int]) -> tuple[float, float, float]:
        """Seconds of a group that has not begun: (quiet, likely, most)."""
        batch, size = key[2:]
        passes_s = [predictor.pass_s(self._spec.variants[p], batch, size) for p in positions]
        round_s = sum(map(visit_s, passes_s))
        passes_a_round = min(map(kept_passes, passes_s))
        spread = self._spread(predictor, positions, batch, size)
        measured = all(predictor.measured(self._spec.variants[p]) for p in positions)
        slow_s = (SLOWER_RATIO if measured else SLOWER_THAN_GUESSED_RATIO) * round_s
        return self._range_s(round_s, spread, slow_s, passes_a_round)

    def _current_group(self, predictor: Predictor, group: _Group) -> tuple[float, float, float]:
        """Seconds to the end of the group under way: (quiet, likely, most)."""
        tally, batch, size = group.tally, *group.key[2:]
        passes_s = [predictor.pass_s(self._spec.variants[p], batch, size) for p in tally.alive]
        round_s = group.round_s(sum(map(visit_s, passes_s)))
        elapsed_s = self._now() - group.start_s
        in_round_s = min(self._now() - group.round_start_s, 0.9 * round_s)
        passes_a_round = group.passes_a_round(min(map(kept_passes, passes_s)))
        spread = self._spread(predictor, tally.alive, batch, size)

        quiet_s, likely_s, most_s = self._range_s(
            round_s, spread, SLOWER_RATIO * round_s, passes_a_round, tally.rounds, elapsed_s - in_round_s
        )
        return quiet_s - in_round_s, likely_s - in_round_s, most_s - in_round_s

    def _range_s(
        self,
        round_s: float,
        spread: float,
        slow_round_s: float,
        passes_a_round: float,
        done: int = 0,
        elapsed_s: float = 0.0,
    ) -> tuple[float, float, float]:
        """Seconds of a group's rounds after those that are done: (quiet, likely, most)."""
        quiet_s, likely_s, most_s = (
            (needed(self._rule, assumed, pace_s, passes_a_round, done, elapsed_s) - done) * pace_s
            for assumed, pace_s in ((0.0, round_s), (spread, round_s), (math.inf, slow_round_s))
        )
        return quiet_s, likely_s, max(likely_s, most_s)

    def _spread(self, predictor: Predictor, positions: Sequence[int], batch: int, size: float) -> float:
        """How much the rounds of the variant that decides are expected to differ: the rule waits for all of them."""
        compared = positions[1:] or positions
        return LUCK * max(predictor.spread(self._spec.variants[p], batch, size) for p in compared)

    def _latest(self) -> Predictor:
        """The predictor with what the group under way has measured so far."""
        group = self._current
        return self._predictor.after(group.tally.measured(self._spec, *group.key[2:])) if group else self._predictor


class _Group:
    """The group under way: when it and its rounds began."""

    def __init__(self, key: Key, tally: Tally, start_s: float) -> None:
        self.key, self.tally, self.start_s = key, tally, start_s
        self.round_start_s = self._first_round_end_s = start_s

    def round_done(self, now_s: float) -> None:
        self.round_start_s = now_s
        if self.tally.rounds == 1:
            self._first_round_end_s = now_s

    def round_s(self, predicted_s: float) -> float:
        """The time of a round. The first one is left out: it has the cold passes."""
        if self.tally.rounds < PACE_ROUNDS:
            return predicted_s
        return (self.round_start_s - self._first_round_end_s) / (self.tally.rounds - 1)

    def passes_a_round(self, predicted: float) -> float:
        return max(1.0, self.tally.passes / self.tally.rounds) if self.tally.rounds else predicted


def start_s(variants: Sequence[Variant], builds: Sequence[Variant], history: History) -> float:
    """Seconds until all variants are open, where `builds` have to be built first."""
    return prepare_s(variants, builds, history) + open_s(variants, history)


def prepare_s(variants: Sequence[Variant], builds: Sequence[Variant], history: History) -> float:
    """Seconds until all artefacts are at hand.

    A mode that compiles when it is opened also compiles when it is built: to count what it quantizes, it is opened too.
    """
    compiled = sum(modes.find(v.mode).SPEC.needs.compiles for v in builds)
    build_s = sum(
        BUILD_S
        + parameters(v.model)
        * (BUILD_S_PER_PARAMETER + (EXAMPLES_S_PER_PARAMETER if modes.find(v.mode).SPEC.data else 0.0))
        for v in builds
    )
    each_s = PREPARE_S if history.prepare_s is None else history.prepare_s
    return each_s * len(variants) + build_s + COMPILE_S * compiled


def open_s(variants: Sequence[Variant], history: History) -> float:
    """Seconds until these variants are open, once their artefacts are at hand."""
    compiled = sum(modes.find(v.mode).SPEC.needs.compiles for v in variants)
    return (OPEN_S if history.open_s is None else history.open_s) * len(variants) + COMPILE_S * compiled
