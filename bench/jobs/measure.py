"""Carry out a run or an evaluation in the caller's thread: for scripts, and for the job manager's thread.

`bench.measure` is the same function as `measure`; docs/bundles.md shows a script.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.artefacts import cache
from bench.core import paths
from bench.core.bundle import Bundle
from bench.core.lease import NAME, Held, Lease, Refused
from bench.core.records import ClipRecord, Evaluation, Failure, Run
from bench.core.specs import EvaluationSpec, RunSpec
from bench.core.store import Store, StoreError
from bench.datasets import dataset
from bench.datasets.dataset import Dataset
from bench.device import host
from bench.families import catalogue
from bench.jobs import work
from bench.jobs.benchmark import Progress, RunFailed, Runner
from bench.jobs.evaluation import Evaluator
from bench.jobs.forecast import estimate, evaluation_refusal
from bench.workers.client import Cancelled, Pool, end_orphans
from bench.workers.start import Limits

INTERRUPTED = "The program ended while this run was under way. What was measured is kept."

Observer = Callable[[Progress], None]


def measure(
    spec: RunSpec | EvaluationSpec,
    folder: Path | str | None = None,
    observe: Observer | None = None,
    limits: Limits | None = None,
) -> Bundle:
    """Measure what `spec` asks for and return it as a bundle; it is kept in the data folder too.

    `folder` is the data folder: None is the one that EARBENCH_DATA names, or else `data/`. `observe` is called whenever
    the progress changes. The bundle's `record.state` says how it ended: what fails is a result too. Raises
    EarbenchError, before anything is measured, for a spec that can't be carried out here and while another process
    holds the device; after Ctrl-C, what was measured is kept as an interrupted run.
    """
    with paths.using(folder):
        spec, clips = accept(spec)
        store = Store(paths.database())
        with Lease(paths.data_folder() / NAME).take("a measurement") as held:
            recover(store)
            record = create(store, spec, clips, held)
            run_id = record.id
            pool = Pool()
            try:
                carry_out(record, store, pool, observe, limits)
            except BaseException:  # Ctrl-C
                pool.cancel()
                with suppress(StoreError):
                    store.set_state(run_id, "interrupted", INTERRUPTED)
                raise
            finally:
                cache.sweep()
        return store.bundle(run_id)


def accept(
    spec: RunSpec | EvaluationSpec, data_set: Dataset | None = None
) -> tuple[RunSpec | EvaluationSpec, list[ClipRecord]]:
    """Check that a spec can be carried out on this device. Returns it as it is stored, and an evaluation's clips.

    `data_set` is an evaluation's data set, if the caller has loaded it already. Raises Refused, SpecError, ModelError,
    ModeError or DatasetError.
    """
    clips: list[ClipRecord] = []
    if isinstance(spec, EvaluationSpec):
        work.check(spec.variants)
        catalogue.check_task(spec.task, (v.model for v in spec.variants))
        data_set = data_set or dataset.of(spec)
        clips = clips_of(data_set)
        spec = replace(spec, dataset=data_set.where, digest=data_set.digest)
        refusal = evaluation_refusal(spec.variants)
    else:
        refusal = estimate(spec).refusal
    if refusal:
        raise Refused(refusal)
    return spec, clips


def clips_of(data_set: Dataset) -> list[ClipRecord]:
    """The clip records of a data set, as they are when an evaluation starts."""
    return [ClipRecord(i, c.id, str(c.path), c.text) for i, c in enumerate(data_set.clips)]


def recover(store: Store) -> None:
    """Mark what a crash left live as interrupted, and end its workers. Only for the holder of the lease."""
    if store.interrupt_live(INTERRUPTED):
        end_orphans()
        cache.sweep()


def create(store: Store, spec: RunSpec | EvaluationSpec, clips: Sequence[ClipRecord], held: Held) -> Run | Evaluation:
    """Store a new run or evaluation and return it; the lease names it from now on. Raises StoreError."""
    run_id = store.create_run(spec, host.device())
    if clips:
        store.set_clips(run_id, clips)
    return named(store, run_id, held)


def named(store: Store, run_id: str, held: Held) -> Run | Evaluation:
    """Return a stored run or evaluation after the lease was signed with its name."""
    record = store.run(run_id) or store.evaluation(run_id)
    assert record
    held.sign(f"{'run' if isinstance(record, Run) else 'evaluation'} {run_id}")
    return record


def carry_out(
    record: Run | Evaluation,
    store: Store,
    pool: Pool,
    observe: Observer | None = None,
    limits: Limits | None = None,
    cut_off: Callable[[], bool] = lambda: False,
) -> None:
    """Carry out a stored run or evaluation, new or resumed, and store how it ended.

    `cut_off` says whether a cancelled pool means that this process ends: then the run is interrupted, not cancelled.
    Raises StoreError if the end can't be stored.
    """
    observe = observe or (lambda _: None)
    try:
        message = (
            Runner(record, store, pool, observe, limits).run()
            if isinstance(record, Run)
            else Evaluator(record, store, pool, observe, limits).run()
        )
        store.set_state(record.id, "done", message)
    except Cancelled:
        if cut_off():
            store.set_state(record.id, "interrupted", INTERRUPTED)
        else:
            store.set_state(record.id, "cancelled", "Cancelled. What was measured is kept.")
    except (RunFailed, StoreError) as e:
        store.set_state(record.id, "failed", str(e))
    except Exception as e:  # a fault of Earbench's own: store it where pages show it
        log = traceback.format_exc()
        pool.cancel()  # whatever it has left running
        store.add_failure(record.id, Failure(None, "run", "error", f"{type(e).__name__}: {e}", log))
        store.set_state(record.id, "failed", f"Earbench itself failed: {type(e).__name__}: {e}")
