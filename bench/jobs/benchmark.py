"""Run a benchmark from start to end: the order of visits, when a group ends, what is stored."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.core.errors import EarbenchError
from bench.core.records import Artefact, Failure, Pass, Run, Visit
from bench.core.specs import Placement
from bench.core.stats import StopRule
from bench.core.store import Store
from bench.device import kinds, readings
from bench.jobs import history, memory, work
from bench.jobs.progress import Clock
from bench.jobs.quiet import QUIET
from bench.jobs.rounds import Tally
from bench.workers import start
from bench.workers.blocks import Block, Blocks
from bench.workers.client import Pool, Worker
from bench.workers.outcomes import Attempts, split
from bench.workers.start import Limits

NOTHING_LEFT = "no variant was left to measure"
# A rate that even a slow board reaches. Used only to guess how long a first pass may take before it counts as hung.
CPU_MAC_PER_S = 5e9


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run or an evaluation."""

    stage: str = "starting"
    group: int = 0  # groups finished
    groups: int = 0
    round: int | None = None
    rounds: int | None = None  # at most this many
    cell: str | None = None
    clip: int | None = None  # an evaluation counts clips instead of groups and rounds
    clips: int = 0
    eta_s: float | None = None  # None until it can be estimated
    done_ratio: float = 0.0

    @property
    def measuring(self) -> bool:
        """Whether preparation is over."""
        return bool(self.round or self.clip)


Shape = tuple[int, float]  # batch, size


class RunFailed(EarbenchError):
    """Nothing in the run could be measured; the message says why."""


class Runner:
    """Runs one benchmark; `run()` returns its final message, if any."""

    def __init__(
        self,
        run: Run,
        store: Store,
        pool: Pool,
        observe: Callable[[Progress], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare a run; nothing starts before `run()`. `observe` is called whenever the progress changes."""
        self.run_record, self.spec, self.store, self.pool, self.observe = run, run.spec, store, pool, observe
        self.limits = limits or Limits()
        self.rule = StopRule(self.spec.precision_target, self.spec.repeats)
        self.clock = Clock(self.spec, self.rule, history.of(store), memory.to_build(self.spec.variants))
        self.attempt = Attempts(run.id, store)
        self.done: dict[tuple[str, Placement, int, float], set[int]] = {}

    def run(self) -> str | None:
        """Measure everything that is not measured yet. Raises Cancelled, and RunFailed if nothing can be measured."""
        run_id = self.run_record.id
        self.store.supersede_unfinished(run_id)
        for g in self.store.groups(run_id):
            rounds = Counter(v.variant for v in g.visits)
            # Without those that failed partway.
            complete = {p for p in g.variants if rounds[p] == max(rounds.values(), default=0)}
            if g.ended == NOTHING_LEFT or g.variants[0] not in complete:  # without its baseline there are no pairs
                continue
            self.done.setdefault((g.model, g.placement, g.batch, g.size), set()).update(complete)
        for (model, placement), positions in self.spec.comparisons.items():
            for shape in self.spec.shapes:
                if self.done.get((model, placement, *shape), set()).issuperset(positions):
                    self.clock.skip((model, placement, *shape))
        prepared = start.prepare(self.run_record, self.store, self.attempt, self.pool, self.limits, self._stage)
        artefacts, failures = split(prepared)
        self.store.set_state(run_id, "running")
        for (model, placement), positions in self.spec.comparisons.items():
            failures |= self._compare(model, placement, [p for p in positions if p in artefacts], artefacts)
            for shape in self.spec.shapes:
                self.clock.skip((model, placement, *shape))
        if len(failures) == len(self.spec.variants) and not any(g.visits for g in self.store.groups(run_id)):
            raise RunFailed("Nothing could be measured: every variant failed.")
        if failures:
            return f"{len(failures)} of {len(self.spec.variants)} variants failed; what could be measured is kept."
        return None

    # --- blocks

    def _compare(
        self, model: str, placement: Placement, positions: list[int], artefacts: dict[int, Artefact]
    ) -> dict[int, Failure]:
        """Measure all groups of a model and placement, in as many blocks as memory requires; return the failures."""
        spec, failures = self.spec, dict[int, Failure]()
        pending = [p for p in positions if any(p not in self._done(model, placement, s) for s in spec.shapes)]
        if not pending:
            return failures

        def need_bytes(position: int) -> int:
            return memory.open_bytes(spec.variants[position], artefacts[position].size_bytes, spec.shapes)

        def reserve_bytes(position: int) -> int:
            return memory.pass_bytes(spec.variants[position].model, spec.shapes)

        blocks = Blocks(
            self.run_record, self.store, self.attempt, self.pool, self.limits, self._stage, need_bytes, reserve_bytes
        )
        blocks.plan(pending, artefacts, shared=positions[0])
        while blocks.waiting:
            self.clock.opening((model, placement), blocks.waiting)
            with blocks.next() as block:
                for shape in spec.shapes:
                    self._group(model, placement, shape, block, baseline=positions[0])
            failures |= split(block.outcomes)[1]
        return failures

    # --- groups

    def _group(self, model: str, placement: Placement, shape: Shape, block: Block, baseline: int) -> None:
        """Measure rounds of visits until the stop rule ends the group. Variants that fail are failures of the block."""
        workers, _ = split(block.outcomes)
        to_measure = {p for p in workers if p not in self._done(model, placement, shape)}
        if not to_measure:
            return
        alive = [p for p in workers if p in to_measure or p == baseline]
        batch, size = shape
        group_id = self.store.start_group(self.run_record.id, model, placement, batch, size, alive)
        tally = Tally(baseline, alive)
        slowest = dict.fromkeys(alive, work.work(model, batch, size) / CPU_MAC_PER_S)
        start_s, end_reason = time.monotonic(), None
        self.clock.begin((model, placement, *shape), tally)
        while end_reason is None:
            round_number = tally.rounds
            for turn, p in enumerate(order(tally.alive, self.spec.seed, (model, placement, *shape), round_number)):
                size_text = self.spec.axis.show(size) + (f", batch {batch}" if batch > 1 else "")
                cell = f"{self.spec.variants[p].spelled}, {size_text}"
                self._stage(f"{model}, {placement.label}", round=round_number + 1, cell=cell)
                visit = self.attempt(
                    p, size_text, partial(self._visit, workers[p], p, round_number, turn, shape, slowest[p])
                )
                if isinstance(visit, Failure):
                    block.fail(p, visit)
                    continue
                self.store.add_visit(group_id, visit)
                tally.add(p, round_number, visit.kept_s)
                slowest[p] = max(x.seconds for x in visit.passes)
            tally.end_round([p for p in alive if block.is_open(p)])
            self.clock.round_done()
            if not tally.alive:
                end_reason = NOTHING_LEFT
                break
            elapsed_s = time.monotonic() - start_s
            end_reason = self.rule.ended(tally.rounds, tally.passes, elapsed_s, tally.intervals())
        self.store.end_group(group_id, end_reason)
        self.clock.end()

    def _visit(self, worker: Worker, p: int, round_number: int, turn: int, shape: Shape, slowest_s: float) -> Visit:
        batch, size = shape
        worker.resume()
        readings.reset_peak(worker.pid)
        usage_before, started_s = readings.usage(worker.pid), time.time()
        with QUIET.visit(slowest_s):
            reply = worker.ask(
                "visit",
                max(self.limits.reply_s, self.limits.slowest_passes * slowest_s),
                batch=batch,
                size=size,
                seed=self.spec.seed,
                input_kind=self.spec.input_kind,
            )
        others_ratio = readings.others_cpu_ratio(usage_before, readings.usage(worker.pid))
        worker.pause()
        return Visit(
            variant=p,
            round=round_number,
            position=turn,
            started_s=started_s,
            passes=tuple(
                Pass(kind, seconds, tuple((name, s) for name, s in phases)) for kind, seconds, phases in reply["passes"]
            ),
            reading=readings.reading(worker.pid, others_ratio, kinds.find(self.spec.variants[p].placement.device)),
        )

    # --- plumbing

    def _done(self, model: str, placement: Placement, shape: Shape) -> set[int]:
        return self.done.get((model, placement, *shape), set())

    def _stage(self, stage: str, *, round: int | None = None, cell: str | None = None) -> None:
        eta_s = self.clock.eta_s()
        self.observe(
            Progress(
                stage=stage,
                group=self.clock.groups_done,
                groups=self.clock.groups,
                round=round,
                rounds=self.clock.most_rounds if round else None,
                cell=cell,
                eta_s=eta_s,
                done_ratio=self.clock.done_ratio(eta_s),
            )
        )


def order(variants: Sequence[int], seed: int, group: tuple[Any, ...], number: int) -> list[int]:
    """The order of visits in a round: each pair of rounds draws a random order and runs it forwards, then backwards.

    Drift that is linear in time then affects all variants equally.
    """
    shuffled = list(variants)
    random.Random(f"{seed} {group} {number // 2}").shuffle(shuffled)
    return shuffled[::-1] if number % 2 else shuffled
