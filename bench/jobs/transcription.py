"""Transcribe a recording with several variants, one after another, by workers that stay warm for a while.

There is one transcriber per process, shared by all pages. It holds the device's lease while it computes, so a benchmark
in another process and a transcription never disturb each other. A benchmark in this process closes the warm workers
first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from bench.core.errors import EarbenchError
from bench.core.records import VariantText, transcription_from
from bench.core.specs import SAMPLE_RATE_HZ, Variant
from bench.device.cpu import available_memory_bytes
from bench.families import catalogue
from bench.families.tasks.transcription import TRANSCRIPTION
from bench.jobs import memory
from bench.jobs.benchmark import Progress
from bench.jobs.evaluation import samples_file, transcribe
from bench.jobs.memory import longest_pass
from bench.sound.audio import Array
from bench.workers.client import Cancelled, Pool, Worker, WorkerError
from bench.workers.start import Limits, build, open_worker

WARM_S = 300.0

Observe = Callable[[Progress], None]


class Busy(EarbenchError):
    """Another recording is being transcribed; the message says what to do."""


class Transcriber:
    """Keeps one worker per variant. Several threads may use it; one transcribes at a time."""

    def __init__(
        self, hold: Callable[[], AbstractContextManager[None]], limits: Limits | None = None, warm_s: float = WARM_S
    ) -> None:
        """`hold` holds the device during computation, and raises if it is not available."""
        self._hold, self._limits, self._warm_s = hold, limits or Limits(), warm_s
        self._busy = threading.Lock()
        self._workers: dict[Variant, Worker] = {}
        self._pool = Pool()
        self._timer: threading.Timer | None = None

    @property
    def warm(self) -> list[Variant]:
        """The variants with an open worker, which cost only their forward pass."""
        return list(self._workers)

    def transcribe(
        self, samples: Array, variants: Sequence[Variant], observe: Observe = lambda _: None, wait_s: float = 60.0
    ) -> list[VariantText]:
        """Return one text per variant, in order. A variant that fails has its error there, and the others go on.

        samples: (n,) float32 at 16 kHz. `observe` is called with each step. Raises Busy, Cancelled, and what `hold`
        raises.
        """
        if not self._busy.acquire(timeout=wait_s):
            raise Busy("Another recording is being transcribed. Wait for it to end, then press the button again.")
        try:
            self._begin()
            with self._hold(), samples_file(samples) as path:
                texts = []
                for number, v in enumerate(variants):
                    steps = _Steps(v.spelled, number, len(variants), observe)
                    try:
                        worker = self._worker(v, keep=variants, say=steps.stage)
                        steps.transcribing()
                        reply = transcribe(worker, v.model, path, self._limits, steps.chunk)
                        texts.append(VariantText(v, reply["seconds"], transcription_from(reply["output"])))
                    except EarbenchError as e:
                        if failed := self._workers.pop(v, None):
                            failed.close()
                        texts.append(VariantText(v, error=str(e)))
                    except BaseException:  # the caller left before the reply, which the next request would read
                        if abandoned := self._workers.pop(v, None):
                            abandoned.close()
                        raise
                return texts
        finally:
            self._start_timer()
            self._busy.release()

    def cancel(self) -> None:
        """Kill the workers; calls that wait for a text raise Cancelled."""
        self._pool.cancel()

    def close(self) -> None:
        """Close all workers, e.g. because a benchmark begins. A transcription under way is cancelled."""
        self._pool.cancel()
        with self._busy:
            self._begin()

    def _worker(self, v: Variant, keep: Iterable[Variant], say: Callable[[str], None]) -> Worker:
        if self._pool.cancelled:
            raise Cancelled
        if warm_worker := self._workers.pop(v, None):
            self._workers[v] = warm_worker  # now the last to be closed
            return warm_worker
        catalogue.check_task(TRANSCRIPTION.NAME, [v.model])
        artefact, _ = build(v, self._pool, self._limits, say)
        need_bytes = memory.open_bytes(v, artefact.size_bytes, longest_pass(v.model))
        # The least recently used first. Workers of this recording run one after another, so they can be closed too.
        for other in sorted(self._workers, key=lambda w: w in keep):
            if available_memory_bytes() >= need_bytes:
                break
            self._drop([other])
        if available_memory_bytes() < need_bytes:
            raise WorkerError(
                "out of memory",
                f"{v.spelled} needs about {need_bytes / 1e9:.1f} GB of memory, more than is free. Leave it out, "
                "choose a smaller model, or close other programs.",
            )
        worker, _ = open_worker(v, artefact, self._pool, self._limits, say)
        try:
            with samples_file(np.zeros(SAMPLE_RATE_HZ, np.float32)) as path:  # the cold pass
                transcribe(worker, v.model, path, self._limits)
        except BaseException:
            worker.close()
            raise
        self._workers[v] = worker
        return worker

    def _begin(self) -> None:
        """Stop the idle timer; drop the workers that a cancel killed."""
        self._stop_timer()
        if self._pool.cancelled:
            self._drop(list(self._workers))
            self._pool = Pool()

    def _drop(self, variants: list[Variant]) -> None:
        for v in variants:
            self._workers.pop(v).close()

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._warm_s, self._close_idle)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _close_idle(self) -> None:
        """Close the workers because they were idle for a while."""
        if self._busy.acquire(blocking=False):
            try:
                self._drop(list(self._workers))
            finally:
                self._busy.release()


class _Steps:
    """Turns the steps of one variant into the progress of the whole transcription."""

    def __init__(self, name: str, number: int, count: int, observe: Observe) -> None:
        """Variant `number` of `count`."""
        self._name, self._number, self._count, self._observe = name, number, count, observe
        self._first: tuple[float, int] | None = None  # when the first chunk was done, and its number

    def stage(self, text: str) -> None:
        """A worker is being built or opened."""
        self._observe(Progress(text, done_ratio=self._number / self._count))

    def transcribing(self) -> None:
        """The pass begins."""
        self.stage(f"transcribing with {self._name}")

    def chunk(self, done: str) -> None:
        """Of a long recording, a chunk is done: "3/20"."""
        chunk, _, chunks = done.partition("/")
        now_s = time.monotonic()
        self._first = self._first or (now_s, int(chunk))
        first_s, first_chunk = self._first
        eta_s = None
        if int(chunk) > first_chunk:
            remaining = int(chunks) - int(chunk) + int(chunks) * (self._count - self._number - 1)
            eta_s = (now_s - first_s) / (int(chunk) - first_chunk) * remaining
        ratio = (self._number + int(chunk) / int(chunks)) / self._count
        stage = f"transcribing with {self._name}: chunk {done}"
        self._observe(Progress(stage, eta_s=eta_s, done_ratio=ratio))
