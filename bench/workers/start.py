"""From a variant to a worker that answers: build the artefact in a process of its own, open it in another.

Runs and evaluations note on the way what they learn (`Variants`); a transcription only wants the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import modes
from bench.artefacts import cache
from bench.core import records
from bench.core.records import Artefact, Coverage, Evaluation, Failure, Opening, Run
from bench.core.specs import Variant
from bench.core.store import Store
from bench.device import cpu, readings
from bench.workers.client import Pool, Worker, WorkerError

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a silent worker counts as hung."""

    reply_s: float = 60.0
    slowest_passes: float = 20.0  # a visit may take so many times the slowest pass
    heartbeat_s: float = 300.0  # between two signs of life of a builder


def build(variant: Variant, pool: Pool, limits: Limits, stage: Stage) -> tuple[Artefact, Coverage]:
    """The variant's artefact, from the cache or built now, and what it quantizes. Raises WorkerError, Cancelled."""
    base, model = modes.find(variant.mode).SPEC.base, variant.model
    wanted = base and not cache.at_hand(model, variant.mode, dict(variant.settings))
    if wanted and not cache.at_hand(model, base, {}):
        # In a process of its own, so that its memory is not counted with the variant's.
        build(Variant(model, base, variant.placement), pool, limits, stage)
    what = f"{variant.spelled} of {variant.model}"
    stage(f"preparing {what}")
    worker = pool.start(f"The builder of {what}", variant.placement)
    try:
        answer = worker.ask(
            "build",
            limits.heartbeat_s,
            lambda text: stage(f"preparing {what}: {text}"),
            model=variant.model,
            mode=variant.mode,
            settings=dict(variant.settings),
        )
    finally:
        worker.close()
    return Artefact(**answer["artefact"]), records.coverage_from(answer["coverage"])


def open_worker(
    variant: Variant, artefact: Artefact, pool: Pool, limits: Limits, stage: Stage
) -> tuple[Worker, Opening]:
    """A worker that holds the variant, paused, and what opening it took. Raises WorkerError, Cancelled."""
    what = f"{variant.spelled} of {variant.model}"
    stage(f"opening {what}")
    begun = time.monotonic()
    worker = pool.start(f"The worker of {variant.spelled}", variant.placement)
    try:
        answer = worker.ask(
            "open",
            limits.heartbeat_s,
            lambda text: stage(f"opening {what}: {text}"),
            digest=artefact.digest,
            placement=str(variant.placement),
        )
        rss, peak = readings.memory(worker.pid)
        load_s = float(answer["load_s"])
        opening = Opening(time.monotonic() - begun - load_s, load_s, rss, peak, answer["remark"])
        worker.pause()
    except BaseException:
        worker.close()
        raise
    return worker, opening


class Variants:
    """The variants of a run or an evaluation: what is learnt of each is stored, and who failed is left out."""

    def __init__(self, run: Run | Evaluation, store: Store, pool: Pool, limits: Limits, stage: Stage) -> None:
        """Nothing starts here."""
        self._run, self._store, self._pool, self._limits, self._stage = run, store, pool, limits, stage
        self._variants = run.spec.variants
        self.failed: set[int] = set()

    def prepare(self) -> dict[int, Artefact]:
        """Every variant's artefact by position; what fails is noted and left out. Raises Cancelled."""
        found: dict[tuple[str, str, Any], tuple[Artefact, Coverage]] = {}
        out: dict[int, Artefact] = {}
        known = self._store.variants(self._run)
        for position, v in enumerate(self._variants):
            key = (v.model, v.mode, v.settings)
            with self.noting(position, "build"):
                found[key] = found.get(key) or build(v, self._pool, self._limits, self._stage)
                artefact, coverage = found[key]
                was = known[position].artefact
                if was and was.digest != artefact.digest:
                    raise WorkerError("changed", f"{v.model} is not what it was when this run began: {was.checkpoint}.")
                out[position] = artefact
                self._store.set_variant(self._run.id, position, artefact=artefact, coverage=coverage)
        return out

    def open_block(
        self,
        positions: Sequence[int],
        built: dict[int, Artefact],
        workers: dict[int, Worker],
        need_bytes: Callable[[int], int],
        reserve_bytes: Callable[[int], int],
        shared: int | None = None,
    ) -> list[int]:
        """Open as many as fit into memory at once, in order; returns who was tried. Others are for the next block.

        `need_bytes` is what opening and running one takes, `reserve_bytes` what of it comes only with the first pass.
        `shared` is in every block, so it alone is no block; a variant that doesn't fit even beside it has failed.
        """
        reserved, tried = 0, []
        for position in (p for p in positions if p not in self.failed):
            v, need = self._variants[position], need_bytes(position)
            short = cpu.available_memory_bytes() - reserved < need
            if short and len(workers) > (shared in workers):
                break
            tried.append(position)
            with self.noting(position, "open"):
                if short:
                    raise WorkerError(
                        "out of memory",
                        f"{v.spelled} needs about {need / 1e9:.1f} GB of memory, more than is free. Close other "
                        "programs, or choose a smaller model.",
                    )
                worker, opening = open_worker(v, built[position], self._pool, self._limits, self._stage)
                workers[position] = worker
                self._store.set_variant(self._run.id, position, opening=opening)
                reserved += reserve_bytes(position)
        return tried

    @contextmanager
    def noting(self, position: int, stage: str) -> Iterator[None]:
        """A failure within is stored with its variant, and the rest goes on without it."""
        try:
            yield
        except WorkerError as e:
            self.failed.add(position)
            self._store.add_failure(self._run.id, Failure(position, stage, e.kind, str(e), e.log))
