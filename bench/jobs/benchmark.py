"""One run from start to end: the order of visits, when a group is over, what is stored."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core import stats
from bench.core.errors import EarbenchError
from bench.core.records import Artefact, Pass, Run, Visit
from bench.core.specs import Placement
from bench.core.stats import StopRule
from bench.core.store import Store
from bench.device import kinds, readings
from bench.jobs import memory, work
from bench.jobs.progress import Clock
from bench.workers.client import Pool, Worker
from bench.workers.start import Limits, Variants

NOTHING_LEFT = "no variant was left to measure"
CPU_MAC_PER_S = (
    5e9  # what even a slow board does; only to guess how long a first pass may take before it counts as hung
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    stage: str = "starting"
    group: int = 0  # groups finished
    groups: int = 0
    round: int | None = None
    rounds: int | None = None  # at least so many
    cell: str | None = None
    clip: int | None = None  # of an evaluation, in place of groups and rounds
    clips: int = 0
    eta_s: float | None = None  # None until there is something to go by
    done_ratio: float = 0.0

    @property
    def measuring(self) -> bool:
        """Whether preparations are over."""
        return bool(self.round or self.clip)


Shape = tuple[int, float]  # batch, size


class RunFailed(EarbenchError):
    """Nothing of the run could be measured; the text says why."""


class Runner:
    """Carries out one run; `run()` returns the message for its end."""

    def __init__(
        self,
        run: Run,
        store: Store,
        pool: Pool,
        observe: Callable[[Progress], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Nothing starts before `run()`. `observe` is called with every change of progress."""
        self.run_record, self.spec, self.store, self.pool, self.observe = run, run.spec, store, pool, observe
        self.limits = limits or Limits()
        self.rule = StopRule(self.spec.precision_target, self.spec.repeats)
        self.clock = Clock(self.spec, self.rule)
        self.variants = Variants(run, store, pool, self.limits, self._stage)
        self.failed = self.variants.failed
        self.done: dict[tuple[str, Placement, int, float], set[int]] = {}

    def run(self) -> str | None:
        """Measure everything that is not measured yet. Raises Cancelled, and RunFailed if nothing works."""
        run_id = self.run_record.id
        self.store.supersede_unfinished(run_id)
        for g in self.store.groups(run_id):
            rounds = Counter(v.variant for v in g.visits)
            whole = {p for p in g.variants if rounds[p] == max(rounds.values(), default=0)}  # not what died on the way
            if g.ended == NOTHING_LEFT or g.variants[0] not in whole:  # without its baseline nothing is paired
                continue
            self.done.setdefault((g.model, g.placement, g.batch, g.size), set()).update(whole)
        for (model, placement), positions in self.spec.comparisons.items():
            for shape in self.spec.shapes:
                if self.done.get((model, placement, *shape), set()).issuperset(positions):
                    self.clock.skip((model, placement, *shape))
        artefacts = self.variants.prepare()
        self.store.set_state(run_id, "running")
        for (model, placement), positions in self.spec.comparisons.items():
            self._compare(model, placement, [p for p in positions if p in artefacts], artefacts)
            for shape in self.spec.shapes:
                self.clock.skip((model, placement, *shape))
        if len(self.failed) == len(self.spec.variants) and not any(g.visits for g in self.store.groups(run_id)):
            raise RunFailed("Nothing could be measured: every variant failed.")
        if self.failed:
            return f"{len(self.failed)} of {len(self.spec.variants)} variants failed; what could be measured is kept."
        return None

    # --- workers

    def _compare(self, model: str, placement: Placement, positions: list[int], artefacts: dict[int, Artefact]) -> None:
        """All groups of a model and placement, in as many blocks as memory asks for."""
        todo = [p for p in positions if any(p not in self._done(model, placement, s) for s in self.spec.shapes)]
        if not todo:
            return
        baseline, rest = positions[0], [p for p in todo if p != positions[0]]
        while True:
            workers: dict[int, Worker] = {}
            try:
                block = self._open(baseline, rest, artefacts, workers)
                rest = [p for p in rest if p not in block and p not in self.failed]
                for shape in self.spec.shapes:
                    wanted = [p for p in block if p not in self._done(model, placement, shape)]
                    self._group(
                        model, placement, shape, [p for p in block if p in wanted or p == baseline], workers, wanted
                    )
            finally:
                for worker in workers.values():
                    worker.close()
            if not rest:
                return

    def _open(
        self, baseline: int, rest: list[int], artefacts: dict[int, Artefact], workers: dict[int, Worker]
    ) -> list[int]:
        """Open the baseline and as many others as fit into memory beside it; returns who was tried."""
        spec = self.spec

        def need(position: int) -> int:
            return memory.open_bytes(spec.variants[position], artefacts[position].size_bytes, spec.shapes)

        def reserve(position: int) -> int:
            return memory.pass_bytes(spec.variants[position].model, spec.shapes)

        return self.variants.open_block([baseline, *rest], artefacts, workers, need, reserve, shared=baseline)

    # --- groups

    def _group(
        self,
        model: str,
        placement: Placement,
        shape: Shape,
        positions: Sequence[int],
        workers: dict[int, Worker],
        wanted: Sequence[int],
    ) -> None:
        """Rounds of visits until the stop rule says that it is enough."""
        alive = [p for p in positions if p in workers]
        if not any(p in workers for p in wanted):
            return
        batch, size = shape
        group_id = self.store.start_group(self.run_record.id, model, placement, batch, size, alive)
        baseline = positions[0]
        medians: dict[int, dict[int, float]] = {p: {} for p in alive}
        passes = dict.fromkeys(alive, 0)
        slowest = dict.fromkeys(alive, work.work(model, batch, size) / CPU_MAC_PER_S)
        begun, number, ended = time.monotonic(), 0, None
        self.clock.begin((model, placement, *shape))
        while ended is None:
            for place, p in enumerate(order(alive, self.spec.seed, (model, placement, *shape), number)):
                if p not in workers:
                    continue
                given = self.spec.axis.show(size) + (f", batch {batch}" if batch > 1 else "")
                cell = f"{self.spec.variants[p].spelled}, {given}"
                self._stage(f"{model}, {placement.label}", round=number + 1, cell=cell)
                with self.variants.noting(p, given):
                    visit = self._visit(workers[p], p, number, place, shape, slowest[p])
                    self.store.add_visit(group_id, visit)
                    medians[p][number] = statistics.median(visit.kept_s)
                    passes[p] += len(visit.kept_s)
                    slowest[p] = max(x.seconds for x in visit.passes)
                if p in self.failed:
                    workers.pop(p).close()
            number += 1
            alive = [p for p in alive if p in workers]
            if not alive:
                ended = NOTHING_LEFT
                break
            fewest = min(passes[p] for p in alive)
            self.clock.round_done(number, fewest)
            others = [p for p in alive if p != baseline]
            intervals = (
                [stats.speedup(medians[baseline], medians[p]) for p in others]
                if baseline in alive and others
                else [stats.geometric_mean(list(medians[p].values())) for p in alive]
            )
            ended = self.rule.ended(number, fewest, time.monotonic() - begun, intervals)
        self.store.end_group(group_id, ended)
        self.clock.end(number)

    def _visit(self, worker: Worker, p: int, number: int, place: int, shape: Shape, slowest_s: float) -> Visit:
        batch, size = shape
        worker.resume()
        readings.reset_peak(worker.pid)
        before, started_s = readings.usage(worker.pid), time.time()
        answer = worker.ask(
            "visit",
            max(self.limits.reply_s, self.limits.slowest_passes * slowest_s),
            batch=batch,
            size=size,
            seed=self.spec.seed,
            input_kind=self.spec.input_kind,
        )
        ratio = readings.others_cpu_ratio(before, readings.usage(worker.pid))
        worker.pause()
        return Visit(
            variant=p,
            round=number,
            position=place,
            started_s=started_s,
            passes=tuple(
                Pass(kind, seconds, tuple((name, s) for name, s in phases))
                for kind, seconds, phases in answer["passes"]
            ),
            reading=readings.reading(worker.pid, ratio, kinds.find(self.spec.variants[p].placement.device)),
        )

    # --- plumbing

    def _done(self, model: str, placement: Placement, shape: Shape) -> set[int]:
        return self.done.get((model, placement, *shape), set()) | self.failed

    def _stage(self, stage: str, *, round: int | None = None, cell: str | None = None) -> None:
        eta_s = self.clock.eta_s()
        self.observe(
            Progress(
                stage=stage,
                group=self.clock.groups_done,
                groups=self.clock.groups,
                round=round,
                rounds=self.clock.expected_rounds if round else None,
                cell=cell,
                eta_s=eta_s,
                done_ratio=self.clock.done_ratio(eta_s),
            )
        )


def order(variants: Sequence[int], seed: int, group: tuple[Any, ...], number: int) -> list[int]:
    """Who is visited when in a round: each pair of rounds draws an order and runs it forwards, then backwards.

    Drift that is linear in time then falls on all variants alike.
    """
    drawn = list(variants)
    random.Random(f"{seed} {group} {number // 2}").shuffle(drawn)
    return drawn[::-1] if number % 2 else drawn
