"""The background thread: one job at a time per device, its state, cancellation, and recovery after a crash."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from bench.artefacts import cache
from bench.core import paths
from bench.core.lease import NAME, Held, Lease, Refused
from bench.core.records import RESUMABLE_STATES, Evaluation, Run
from bench.core.specs import EvaluationSpec, RunSpec, Variant
from bench.core.store import Store, StoreError
from bench.datasets import dataset
from bench.datasets.dataset import Dataset
from bench.device import host
from bench.families import catalogue
from bench.jobs import state
from bench.jobs.benchmark import Progress
from bench.jobs.job import Job, Measurement
from bench.jobs.measure import accept, carry_out, clips_of, create, named, recover
from bench.jobs.transcribing import Recording, Transcribing
from bench.jobs.transcription import Transcriber
from bench.workers.start import Limits

if TYPE_CHECKING:
    from bench.jobs.captions import Captions

Record = TypeVar("Record", Run, Evaluation)


class Jobs:
    """The job manager, one per process; see `jobs()`."""

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        """Mark what a crash left as interrupted, unless another process is working on this folder."""
        self.store, self._limits = store, limits
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._lease = Lease(paths.data_folder() / NAME)
        self.transcriber = Transcriber(self.hold, limits)
        self.transcription: Transcribing | None = None  # the newest one, shown in every browser
        self.captions: Captions | None = None  # the newest session, shown in every browser
        atexit.register(self.shutdown)
        if held := self._lease.try_take("recovering what a crash left"):
            with held, suppress(StoreError):  # a full disk: results can still be read, and the next start says so
                recover(self.store)

    # --- what runs. Looking takes no lock and changes nothing

    @property
    def live(self) -> Job | None:
        """The job of this process while it runs, else None."""
        job = self._job
        return job if job and job.live else None

    def holder(self) -> str | None:
        """Which other process holds the device, as a sentence; None if none does."""
        holder = None if self._lease.is_ours else self._lease.holder()
        return holder.sentence if holder else None

    def busy(self, doing: str = "another job") -> str:
        """Why `doing` must wait, as a sentence: a job of this process or of another; "" if the device is free."""
        job = self.live
        return job.busy(doing) if job else self.holder() or ""

    def current(self, record: Record) -> Record:
        """The record as it stands: interrupted, if it is stored as live and its process has died."""
        job = self.live
        return record if job and job.id == record.id else state.current(record, self._lease)

    # --- start, resume, cancel

    def start(self, spec: RunSpec | EvaluationSpec, data_set: Dataset | None = None) -> str:
        """Start a run or an evaluation and return its id; if the same spec runs already, return that run's id.

        `data_set` is an evaluation's data set, if the caller has loaded it already (`dataset.of`). Raises Refused (also
        if another job is live), ModelError, ModeError, DatasetError or StoreError.
        """
        with self._lock:
            if job := self.live:
                if isinstance(job, Measurement) and job.spec == spec:
                    return job.id
                raise Refused(job.refusal)
            request = spec
            spec, clips = accept(spec, data_set)
            held = self._take_over("a benchmark" if isinstance(spec, RunSpec) else "an evaluation")
            try:
                record = create(self.store, spec, clips, held)
                self._begin(record, request, held)
            except BaseException:
                held.release()
                raise
            return record.id

    def resume(self, run_id: str) -> str:
        """Resume an interrupted or cancelled run: finished groups, or clips, are kept.

        Raises Refused, ModelError, DatasetError or StoreError.
        """
        with self._lock:
            if job := self.live:
                if job.id == run_id:
                    return run_id
                raise Refused(job.refusal)
            if self._captioning:  # don't end captions for a run that can't be resumed
                self._check_resumable(run_id)
            held = self._take_over(f"run {run_id}")  # before the check: it marks what a crash left as interrupted
            try:
                self._check_resumable(run_id)
                self.store.set_state(run_id, "preparing")
                record = named(self.store, run_id, held)
                self._begin(record, record.spec, held)
            except BaseException:
                held.release()
                raise
            return run_id

    def transcribe(self, recording: Recording, variants: Sequence[Variant]) -> Transcribing:
        """Start the transcription of a recording; if the same one runs already, return that job. Raises Refused."""
        with self._lock:
            if job := self.live:
                if isinstance(job, Transcribing) and (job.recording.key, job.variants) == (
                    recording.key,
                    tuple(variants),
                ):
                    return job
                raise Refused(job.refusal)
            if sentence := self.holder():
                raise Refused(f"{sentence} Wait for it, or cancel it there.")
            transcribing = Transcribing(recording, variants, self.transcriber)
            self._job = self.transcription = transcribing
            transcribing.start(lambda: transcribing.work(self.store))
            return transcribing

    def cancel(self) -> None:
        """Cancel the live job: its workers are killed, and what was measured is kept."""
        job = self.live
        if job and not job.cancelled:
            job.cancel()
            if isinstance(job, Measurement):
                with suppress(StoreError):  # a full disk must not keep a run from being cancelled
                    self.store.set_state(job.id, "cancelling")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the live job to end; False if it still runs after the timeout."""
        job = self._job
        return job.wait(timeout_s) if job else True

    def shutdown(self) -> None:
        """Kill the workers because the process ends. The thread marks the run, or else the next start does."""
        self.transcriber.cancel()
        job = self.live
        if isinstance(job, Measurement):
            job.cut_off = True
            job.cancel()
            job.wait(2)

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

    def _take_over(self, what: str) -> Held:
        """Take the lease; if only this process's live captions hold it, end them first.

        Raises Refused, and then the captions continue.
        """
        try:
            return self._take(what)
        except Refused:
            if not self._captioning or not self._lease.is_ours:
                raise
        self._end_captions()
        return self._take(what)

    @contextmanager
    def hold(self, what: str = "a transcription") -> Iterator[None]:
        """Hold the device for work during which nothing can be measured. Raises Refused."""
        job = self.live
        if isinstance(job, Measurement):
            raise Refused(job.busy(what))
        with self._take(what):
            yield

    def _check_resumable(self, run_id: str) -> None:
        run = self.store.run(run_id) or self.store.evaluation(run_id)
        if run is None:
            raise Refused(f"There is no run {run_id}. `python -m bench runs` lists them.")
        if run.state not in RESUMABLE_STATES:
            raise Refused(f"Run {run_id} is {run.state}. Only a run that was cancelled or interrupted can be resumed.")
        if run.device.id != host.device().id or run.device.versions != host.device().versions:
            raise Refused(
                f"Run {run_id} was measured on {run.device.name} with {_versions(run.device.versions)}; here is "
                f"{host.device().name} with {_versions(host.device().versions)}. Passes of both in one run "
                "would not be comparable: start a new run."
            )
        for name in {v.model for v in run.spec.variants}:
            catalogue.find(name)
        if isinstance(run, Evaluation):
            clip_set = dataset.of(run.spec)
            changed = clips_of(clip_set) != [replace(c, length_s=None) for c in self.store.clips(run_id)]
            if changed or run.spec.digest not in ("", clip_set.digest):  # "": stored by a version without digests
                raise Refused(
                    f"The clips in {run.spec.dataset} are not what they were when evaluation {run_id} began: "
                    "start a new one."
                )

    # --- the thread

    def _begin(self, record: Run | Evaluation, spec: RunSpec | EvaluationSpec, held: Held) -> None:
        """Start the thread of a run or an evaluation. `spec` is the request, as it was made."""
        self._end_captions()
        self.transcriber.close()  # its warm workers would take memory, and time when they close
        job = Measurement(record.id, "benchmark" if isinstance(record, Run) else "evaluation", spec)
        self._job = job
        job.start(lambda: self._work(job, record, held))

    def _work(self, job: Measurement, run: Run | Evaluation, held: Held) -> None:
        def observe(progress: Progress) -> None:
            job.progress = progress

        try:
            carry_out(run, self.store, job.pool, observe, self._limits, lambda: job.cut_off)
        except StoreError:  # the disk is full, and pages say so: the run is marked as interrupted once it can be stored
            traceback.print_exc()
        finally:
            with held:
                cache.sweep()

    def _take(self, what: str) -> Held:
        """Take the lease and mark what a crash left live as interrupted. Raises Refused, StoreError."""
        held = self._lease.take(what)
        try:
            recover(self.store)
        except BaseException:
            held.release()
            raise
        return held


_jobs_lock = threading.Lock()


def jobs() -> Jobs:
    """The job manager of this process. Raises StoreError if the database can't be used."""
    with _jobs_lock:  # two pages that open at once must not create two managers
        return _jobs()


@lru_cache(maxsize=1)
def _jobs() -> Jobs:
    return Jobs(Store(paths.database()))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
