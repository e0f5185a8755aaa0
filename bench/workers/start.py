"""Start the worker of a variant: build the artefact in one process and open it in another.

Runs and evaluations also store the results and failures of both steps (`Variants`); a transcription only needs the
workers.
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
    """Timeouts after which a silent worker counts as hung."""

    reply_s: float = 60.0
    slowest_passes: float = 20.0  # a visit may take this many times the slowest pass
    heartbeat_s: float = 300.0  # between two heartbeats of a builder


def build(variant: Variant, pool: Pool, limits: Limits, stage: Stage) -> tuple[Artefact, Coverage]:
    """Return the variant's artefact, cached or newly built, and its coverage. Raises WorkerError, Cancelled."""
    base, model = modes.find(variant.mode).SPEC.base, variant.model
    needs_base = base and not cache.at_hand(model, variant.mode, dict(variant.settings))
    if needs_base and not cache.at_hand(model, base, {}):
        # In a separate process, so that its memory is not counted with the variant's.
        build(Variant(model, base, variant.placement), pool, limits, stage)
    label = f"{variant.spelled} of {variant.model}"
    stage(f"preparing {label}")
    worker = pool.start(f"The builder of {label}", variant.placement)
    try:
        reply = worker.ask(
            "build",
            limits.heartbeat_s,
            lambda text: stage(f"preparing {label}: {text}"),
            model=variant.model,
            mode=variant.mode,
            settings=dict(variant.settings),
        )
    finally:
        worker.close()
    return Artefact(**reply["artefact"]), records.coverage_from(reply["coverage"])


def open_worker(
    variant: Variant, artefact: Artefact, pool: Pool, limits: Limits, stage: Stage
) -> tuple[Worker, Opening]:
    """Start and pause a worker that holds the variant -> (worker, opening). Raises WorkerError, Cancelled."""
    label = f"{variant.spelled} of {variant.model}"
    stage(f"opening {label}")
    start_s = time.monotonic()
    worker = pool.start(f"The worker of {variant.spelled}", variant.placement)
    try:
        reply = worker.ask(
            "open",
            limits.heartbeat_s,
            lambda text: stage(f"opening {label}: {text}"),
            digest=artefact.digest,
            placement=str(variant.placement),
        )
        rss, peak = readings.memory(worker.pid)
        load_s = float(reply["load_s"])
        opening = Opening(time.monotonic() - start_s - load_s, load_s, rss, peak, reply["remark"])
        worker.pause()
    except BaseException:
        worker.close()
        raise
    return worker, opening


class Variants:
    """The variants of a run or an evaluation: stores the results of each and leaves out those that failed."""

    def __init__(self, run: Run | Evaluation, store: Store, pool: Pool, limits: Limits, stage: Stage) -> None:
        """No process is started here."""
        self._run, self._store, self._pool, self._limits, self._stage = run, store, pool, limits, stage
        self._variants = run.spec.variants
        self.failed: set[int] = set()

    def prepare(self) -> dict[int, Artefact]:
        """Return the artefacts by variant position; failures are stored and left out. Raises Cancelled."""
        results: dict[tuple[str, str, Any], tuple[Artefact, Coverage]] = {}
        artefacts: dict[int, Artefact] = {}
        variant_records = self._store.variants(self._run)
        for position, variant in enumerate(self._variants):
            key = (variant.model, variant.mode, variant.settings)
            with self.noting(position, "build"):
                results[key] = results.get(key) or build(variant, self._pool, self._limits, self._stage)
                artefact, coverage = results[key]
                earlier = variant_records[position].artefact
                if earlier and earlier.digest != artefact.digest:
                    raise WorkerError(
                        "changed", f"{variant.model} is not what it was when this run began: {earlier.checkpoint}."
                    )
                artefacts[position] = artefact
                self._store.set_variant(self._run.id, position, artefact=artefact, coverage=coverage)
        return artefacts

    def open_block(
        self,
        positions: Sequence[int],
        built: dict[int, Artefact],
        workers: dict[int, Worker],
        need_bytes: Callable[[int], int],
        reserve_bytes: Callable[[int], int],
        shared: int | None = None,
    ) -> list[int]:
        """Open as many variants as fit into memory, in order, and return the positions tried; others come later.

        `need_bytes` is the memory for opening and running a variant, `reserve_bytes` the part of it that is only
        allocated by the first pass. `shared` is in every block, so a block needs another variant beside it; a variant
        that doesn't fit even then has failed.
        """
        reserved, tried = 0, []
        for position in (p for p in positions if p not in self.failed):
            variant, need = self._variants[position], need_bytes(position)
            too_large = cpu.available_memory_bytes() - reserved < need
            if too_large and len(workers) > (shared in workers):
                break
            tried.append(position)
            with self.noting(position, "open"):
                if too_large:
                    raise WorkerError(
                        "out of memory",
                        f"{variant.spelled} needs about {need / 1e9:.1f} GB of memory, more than is free. Close other "
                        "programs, or choose a smaller model.",
                    )
                worker, opening = open_worker(variant, built[position], self._pool, self._limits, self._stage)
                workers[position] = worker
                self._store.set_variant(self._run.id, position, opening=opening)
                reserved += reserve_bytes(position)
        return tried

    @contextmanager
    def noting(self, position: int, stage: str) -> Iterator[None]:
        """Context manager that stores a WorkerError with its variant, so that the others continue without it."""
        try:
            yield
        except WorkerError as e:
            self.failed.add(position)
            self._store.add_failure(self._run.id, Failure(position, stage, e.kind, str(e), e.log))
