"""Start the worker of a variant: find or build its artefact, start a process that imports the engine, open it there.

A builder's process starts only where something must be built, verified or counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import modes
from bench.artefacts import cache, lookup
from bench.core import records
from bench.core.records import Artefact, Coverage, Evaluation, Failure, Opening, Run
from bench.core.specs import Variant
from bench.core.store import Store
from bench.device import readings
from bench.workers.client import Pool, Worker, WorkerError
from bench.workers.outcomes import Attempts

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts after which a silent worker counts as hung."""

    reply_s: float = 60.0
    slowest_passes: float = 20.0  # a visit may take this many times the slowest pass
    heartbeat_s: float = 300.0  # between two heartbeats of a builder


@dataclass(frozen=True, slots=True)
class Started:
    """A paused worker that has imported all that opening its artefact needs."""

    worker: Worker
    start_s: float  # from its start to the end of its imports, beside the others that start at the same time


# --- artefacts


def prepare(
    run: Run | Evaluation, store: Store, attempt: Attempts, pool: Pool, limits: Limits, stage: Stage
) -> dict[int, Artefact | Failure]:
    """Return each variant's artefact, or its failure, by position; both are stored. Raises Cancelled."""
    built: dict[Any, tuple[Artefact, Coverage]] = {}
    outcomes: dict[int, Artefact | Failure] = {}
    variant_records = store.variants(run)

    def artefact_of(position: int, variant: Variant) -> Artefact:
        key = (variant.model, variant.mode, variant.settings)
        if key not in built:
            count = len(run.spec.variants)
            step = f" (variant {position + 1} of {count})" if count > 1 else ""
            built[key] = build(variant, pool, limits, lambda text: stage(text + step))
        artefact, coverage = built[key]
        earlier = variant_records[position].artefact
        if earlier and earlier.digest != artefact.digest:
            raise WorkerError(
                "changed", f"{variant.model} is not what it was when this run began: {earlier.checkpoint}."
            )
        store.set_variant(run.id, position, artefact=artefact, coverage=coverage)
        return artefact

    for position, variant in enumerate(run.spec.variants):
        outcomes[position] = attempt(position, "build", partial(artefact_of, position, variant))
    return outcomes


def build(variant: Variant, pool: Pool, limits: Limits, stage: Stage) -> tuple[Artefact, Coverage]:
    """Return the variant's artefact, cached or newly built, and its coverage. Raises WorkerError, Cancelled."""
    label = f"{variant.spelled} of {variant.model}"
    stage(f"preparing {label}")
    if ready := lookup.ready(variant.model, variant.mode, dict(variant.settings)):
        return ready
    base, model = modes.find(variant.mode).SPEC.base, variant.model
    needs_base = base and not cache.at_hand(model, variant.mode, dict(variant.settings))
    if needs_base and not cache.at_hand(model, base, {}):
        # In a separate process, so that its memory is not counted with the variant's.
        build(
            Variant(model, base, variant.placement), pool, limits, lambda text: stage(f"{text}, for {variant.spelled}")
        )
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


# --- workers


def open_worker(
    variant: Variant, artefact: Artefact, pool: Pool, limits: Limits, stage: Stage
) -> tuple[Worker, Opening]:
    """Start and pause a worker that holds the variant -> (worker, opening). Raises WorkerError, Cancelled."""
    stage(f"opening {variant.spelled} of {variant.model}")
    return open_started(start(variant, artefact, pool, limits), variant, artefact, limits, stage)


def start(variant: Variant, artefact: Artefact, pool: Pool, limits: Limits) -> Started:
    """Start and pause a worker that has imported what opening needs; several may start side by side.

    Raises WorkerError, Cancelled.
    """
    begun_s = time.monotonic()
    worker = pool.start(f"The worker of {variant.spelled}", variant.placement)
    try:
        reply = worker.ask("start", limits.heartbeat_s, digest=artefact.digest, begun_s=begun_s)
        worker.pause()
        return Started(worker, float(reply["start_s"]))
    except BaseException:
        worker.close()
        raise


def open_started(
    started: Started, variant: Variant, artefact: Artefact, limits: Limits, stage: Stage
) -> tuple[Worker, Opening]:
    """Open the artefact in a started worker, then pause it -> (worker, opening). Closes the worker if that fails.

    One at a time and with all others paused, so that the load time is that of loading alone. Raises WorkerError,
    Cancelled.
    """
    label, worker = f"{variant.spelled} of {variant.model}", started.worker
    try:
        stage(f"opening {label}")
        worker.resume()
        reply = worker.ask(
            "open",
            limits.heartbeat_s,
            lambda text: stage(f"opening {label}: {text}"),
            digest=artefact.digest,
            placement=str(variant.placement),
        )
        rss, peak = readings.memory(worker.pid)
        opening = Opening(started.start_s, float(reply["load_s"]), rss, peak, reply["remark"])
        worker.pause()
    except BaseException:
        worker.close()
        raise
    return worker, opening
