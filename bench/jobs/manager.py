"""The background thread: one job at a time per device, its state, cancellation, and recovery after a crash."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TextIO

from bench.artefacts import cache
from bench.core import paths
from bench.core.records import RESUMABLE_STATES, ClipRecord, Evaluation, Run
from bench.core.specs import EvaluationSpec, RunSpec
from bench.core.store import Store, StoreError
from bench.datasets import dataset
from bench.datasets.dataset import Dataset
from bench.device import host
from bench.families import catalogue
from bench.jobs import work
from bench.jobs.benchmark import Progress
from bench.jobs.forecast import estimate, evaluation_refusal
from bench.jobs.lease import Lease, Refused, clear, sign
from bench.jobs.measure import INTERRUPTED, carry_out
from bench.jobs.transcription import Transcriber
from bench.workers.client import Pool, end_orphans
from bench.workers.start import Limits

if TYPE_CHECKING:
    from bench.jobs.captions import Captions


@dataclass(slots=True)
class Job:
    """The run or evaluation that is live in this process."""

    run_id: str
    kind: Literal["benchmark", "evaluation"]
    pool: Pool
    progress: Progress
    thread: threading.Thread | None = None
    cut_off: bool = False  # cancelled by the end of this process, not by a person

    @property
    def what(self) -> str:
        """The kind of job, as the start of a sentence."""
        return "A benchmark" if self.kind == "benchmark" else "An evaluation"


class Jobs:
    """The job manager, one per process; see `jobs()`."""

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        """Mark what a crash left as interrupted, unless another process is working on this folder."""
        self.store, self._limits = store, limits
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._lease = Lease(paths.data_folder() / "earbench.lock")
        self.transcriber = Transcriber(self.hold, limits)
        self.captions: Captions | None = None  # the newest session, shown in every browser
        atexit.register(self.shutdown)
        self.recover()

    # --- what runs

    @property
    def live(self) -> Job | None:
        """The job of this process while it runs, else None."""
        job = self._job
        return job if job and job.thread and job.thread.is_alive() else None

    def holder(self) -> str | None:
        """Which other process holds the device, as a sentence; None if none does."""
        if self.live or self.transcriber.busy:
            return None
        return self._lease.holder()

    def recover(self) -> list[str]:
        """Mark runs whose process died as interrupted. Returns their ids."""
        if self.live:
            return []
        file = self._lease.try_take()
        if file is None:
            return []
        with file:
            if interrupted := self.store.interrupt_live(INTERRUPTED):
                end_orphans()
                cache.sweep()
            return interrupted

    # --- start, resume, cancel

    def start(self, spec: RunSpec | EvaluationSpec, data_set: Dataset | None = None) -> str:
        """Start a run or an evaluation and return its id; if a job is live already, return that job's id.

        `data_set` is an evaluation's data set, if the caller has loaded it already (`dataset.of`). Raises Refused,
        ModelError, ModeError, DatasetError or StoreError.
        """
        with self._lock:
            if job := self.live:
                return job.run_id
            clips: list[ClipRecord] = []
            if isinstance(spec, EvaluationSpec):
                work.check(spec.variants)
                catalogue.check_task(spec.task, (v.model for v in spec.variants))
                data_set = data_set or dataset.of(spec)
                clips, spec = _clips(data_set), replace(spec, dataset=data_set.where, digest=data_set.digest)
                refusal = evaluation_refusal(spec.variants)
            else:
                refusal = estimate(spec).refusal
            if refusal:
                raise Refused(refusal)
            file = self._take_over()
            try:
                run_id = self.store.create_run(spec, host.device())
                if clips:
                    self.store.set_clips(run_id, clips)
                self._begin(run_id, file)
            except BaseException:
                file.close()
                raise
            return run_id

    def resume(self, run_id: str) -> str:
        """Resume an interrupted or cancelled run: finished groups, or clips, are kept.

        Raises Refused, ModelError, DatasetError or StoreError.
        """
        with self._lock:
            if job := self.live:
                return job.run_id
            if self._captioning:  # don't end captions for a run that can't be resumed
                self._check_resumable(run_id)
            file = self._take_over()  # before the check: it marks what a crash left live as interrupted
            try:
                self._check_resumable(run_id)
                self.store.set_state(run_id, "preparing")
                self._begin(run_id, file)
            except BaseException:
                file.close()
                raise
            return run_id

    def cancel(self) -> None:
        """Cancel the live job: its workers are killed, and what was measured is kept."""
        job = self.live
        if job and not job.pool.cancelled:
            job.pool.cancel()
            with suppress(StoreError):  # a full disk must not keep a run from being cancelled
                self.store.set_state(job.run_id, "cancelling")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the live job to end; False if it still runs after the timeout."""
        job = self._job
        if job and job.thread:
            job.thread.join(timeout_s)
            return not job.thread.is_alive()
        return True

    def shutdown(self) -> None:
        """Kill the workers because the process ends. The thread marks the run, or else the next start does."""
        self.transcriber.cancel()
        if job := self.live:
            job.cut_off = True
            job.pool.cancel()
            if job.thread:
                job.thread.join(2)

    def caption(self, make: Callable[[], Captions]) -> Captions:
        """The live captions, or new ones: two browsers that start captions at once share one session."""
        with self._lock:
            if not (self.captions and self.captions.live):
                self.captions = make()
            return self.captions

    @property
    def _captioning(self) -> bool:
        return self.captions is not None and self.captions.live

    def _end_captions(self) -> None:
        """End the captions because a measurement begins."""
        if self.captions:
            self.captions.end("A measurement began, and captions beside it would spoil its times: they ended.")

    def _take_over(self) -> TextIO:
        """Acquire the lease; if only this process's live captions hold it, end them first.

        Raises Refused, and then the captions continue.
        """
        try:
            return self._take()
        except Refused:
            if not self._captioning or not self._lease.is_ours():
                raise
        self._end_captions()
        return self._take()

    @contextmanager
    def hold(self, what: str = "a transcription") -> Iterator[None]:
        """Hold the device for work during which nothing can be measured. Raises Refused."""
        if job := self.live:
            raise Refused(
                f"{job.what} is under way, and {what} "
                "beside it would spoil its times. Wait for it to end, or cancel it, then try again."
            )
        with self._take() as file:
            sign(file, what)
            yield

    def _check_resumable(self, run_id: str) -> None:
        run = self.store.run(run_id) or self.store.evaluation(run_id)
        if run is None:
            raise Refused(f"There is no run {run_id}. `python -m bench runs` lists them.")
        if run.state not in RESUMABLE_STATES:
            raise Refused(f"Run {run_id} is {run.state}. Only a run that was cancelled or interrupted can be resumed.")
        for name in {v.model for v in run.spec.variants}:
            catalogue.find(name)
        if isinstance(run, Evaluation):
            clip_set = dataset.of(run.spec)
            changed = _clips(clip_set) != [replace(c, length_s=None) for c in self.store.clips(run_id)]
            if changed or run.spec.digest not in ("", clip_set.digest):  # "": stored by a version without digests
                raise Refused(
                    f"The clips in {run.spec.dataset} are not what they were when evaluation {run_id} began: "
                    "start a new one."
                )
        if run.device.id != host.device().id or run.device.versions != host.device().versions:
            raise Refused(
                f"Run {run_id} was measured on {run.device.name} with {_versions(run.device.versions)}; here is "
                f"{host.device().name} with {_versions(host.device().versions)}. Passes of both in one run "
                "would not be comparable: start a new run."
            )

    # --- the thread

    def _begin(self, run_id: str, file: TextIO) -> None:
        record = self.store.run(run_id) or self.store.evaluation(run_id)
        assert record
        self._end_captions()
        kind: Literal["benchmark", "evaluation"] = "benchmark" if isinstance(record, Run) else "evaluation"
        sign(file, f"{'run' if kind == 'benchmark' else kind} {run_id}")
        self.transcriber.close()  # its warm workers would take memory, and time when they close
        job = Job(run_id, kind, Pool(), Progress())
        job.thread = threading.Thread(target=self._work, args=(job, record, file), name=f"run {run_id}", daemon=True)
        self._job = job
        job.thread.start()

    def _work(self, job: Job, run: Run | Evaluation, file: TextIO) -> None:
        def observe(progress: Progress) -> None:
            job.progress = progress

        try:
            self._carry_out(job, run, observe)
        except StoreError:  # the disk is full, and pages say so: the run is marked as interrupted once it can be stored
            traceback.print_exc()
        finally:
            with file:  # closing it releases the lease
                cache.sweep()

    def _carry_out(self, job: Job, run: Run | Evaluation, observe: Callable[[Progress], None]) -> None:
        """Run the job from start to end and store how it ended. Raises StoreError if that can't be written."""
        carry_out(run, self.store, job.pool, observe, self._limits, lambda: job.cut_off)

    def _take(self) -> TextIO:
        """Acquire the lease and mark what a crash left live as interrupted. Raises Refused, StoreError."""
        file = self._lease.take()
        try:
            if self.store.interrupt_live(INTERRUPTED):
                end_orphans()
            clear(file)
        except BaseException:
            file.close()
            raise
        return file


_jobs_lock = threading.Lock()


def jobs() -> Jobs:
    """The job manager of this process. Raises StoreError if the database can't be used."""
    with _jobs_lock:  # two pages that open at once must not create two managers
        return _jobs()


@lru_cache(maxsize=1)
def _jobs() -> Jobs:
    return Jobs(Store(paths.database()))


def _clips(clip_set: Dataset) -> list[ClipRecord]:
    """The clip records of a data set, as they are when an evaluation starts."""
    return [ClipRecord(i, c.id, str(c.path), c.text) for i, c in enumerate(clip_set.clips)]


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
