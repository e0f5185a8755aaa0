"""One evaluation from start to end: every variant transcribes every clip once, and what it heard is stored.

Timing and scoring are apart: here are forward passes and raw texts, `evaluation` counts errors when it is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.artefacts import cache
from bench.core import paths
from bench.core.records import Artefact, ClipRecord, Evaluation, Failure, Prediction
from bench.core.specs import SAMPLE_RATE_HZ
from bench.core.store import Store
from bench.datasets import folder as datasets_folder
from bench.families import catalogue
from bench.jobs import memory, work
from bench.jobs.benchmark import CPU_MAC_PER_S, Progress, RunFailed
from bench.jobs.memory import longest_pass
from bench.sound import audio
from bench.sound.audio import AudioError
from bench.workers.client import Cancelled, Pool, Worker, WorkerError
from bench.workers.start import Limits, Variants

MOMENT = SAMPLE_RATE_HZ // 4  # samples: long enough to touch every weight, short enough to cost little


class Evaluator:
    """Carries out one evaluation; `run()` returns the message for its end."""

    def __init__(
        self,
        evaluation: Evaluation,
        store: Store,
        pool: Pool,
        observe: Callable[[Progress], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Nothing starts before `run()`. `observe` is called with every change of progress."""
        self.id, self.spec, self.store, self.pool, self.observe = evaluation.id, evaluation.spec, store, pool, observe
        self.limits = limits or Limits()
        self.variants = Variants(evaluation, store, pool, self.limits, lambda text: observe(Progress(text)))
        self.task = catalogue.task(self.spec.task)
        self.clips = store.clips(self.id)
        self.done = {(p.clip, p.variant) for p in store.predictions(self.id)}
        self.unreadable: set[int] = set()
        self.baselines = {p: compared[0] for compared in self.spec.comparisons.values() for p in compared}

    def run(self) -> str | None:
        """Transcribe what is not transcribed yet. Raises Cancelled, and RunFailed if nothing works."""
        self.store.supersede_unfinished(self.id)
        built = self.variants.prepare()
        self._leave_out_who_saw_the_clips(built)
        self.store.set_state(self.id, "running")
        positions = [p for p in range(len(self.spec.variants)) if p in built]

        def need(position: int) -> int:
            v = self.spec.variants[position]
            return memory.open_bytes(v, built[position].size_bytes, longest_pass(v.model))

        def reserve(position: int) -> int:
            model = self.spec.variants[position].model
            return memory.pass_bytes(model, longest_pass(model))

        rest = [p for p in positions if any((c.position, p) not in self.done for c in self.clips)]
        while rest:
            workers: dict[int, Worker] = {}
            try:
                block = self.variants.open_block(rest, built, workers, need, reserve)
                rest = [p for p in rest if p not in block and p not in self.variants.failed]
                self._block(workers, later=len(rest))
            finally:
                for worker in workers.values():
                    worker.close()
        failed = self.variants.failed
        if not self.done:
            raise RunFailed(
                "Nothing could be transcribed: every variant failed."
                if len(failed) == len(self.spec.variants)
                else "Nothing could be transcribed: no clip could be read."
            )
        told = [f"{len(failed)} of {len(self.spec.variants)} variants failed"] if failed else []
        told += [f"{len(self.unreadable)} of {len(self.clips)} clips can't be read"] if self.unreadable else []
        return f"{' and '.join(told)}; the rest is kept." if told else None

    def _leave_out_who_saw_the_clips(self, found: dict[int, Artefact]) -> None:
        """A mode that was calibrated or tuned on clips of this evaluation would look better than it is."""
        seen = {p: set(cache.manifest_of(a.digest).get("clips", ())) for p, a in found.items()}
        if not any(seen.values()):
            return
        here = [datasets_folder.sha256(Path(c.path)) for c in self.clips]
        for p, digests in list(seen.items()):
            with self.variants.noting(p, "build"):
                if shared := sum(digest in digests for digest in here):
                    v = self.spec.variants[p]
                    raise WorkerError(
                        "unfair",
                        f"{v.spelled} looked at {shared} of these {len(here)} clips while it was built, so it would be "
                        "judged on what it has seen. Evaluate on other clips (another split), or build it with others: "
                        f"{v.mode}:data=FOLDER.",
                    )
            if p in self.variants.failed:
                found.pop(p)

    def _block(self, workers: dict[int, Worker], later: int) -> None:
        """Clip by clip, the variants in turn forwards and backwards, so that drift falls on all alike.

        So many variants come in `later` blocks, for want of memory.
        """
        warm: set[int] = set()
        begun, blocks = time.monotonic(), 1 + later / max(1, len(workers))
        todo = [c for c in self.clips if any((c.position, p) not in self.done for p in workers)]
        for number, clip in enumerate(todo):
            if self.pool.cancelled:  # a clip that can't be read asks no worker, so none would say it
                raise Cancelled
            self._tell(number, len(todo), clip, begun, blocks)
            wanted = [p for p in sorted(workers, reverse=number % 2 == 1) if (clip.position, p) not in self.done]
            with self._decoded(clip) as decoded:
                if decoded is None:
                    continue
                path, length_s, moment = decoded
                found = []
                for p in wanted:
                    with self.variants.noting(p, f"clip {clip.id}"):
                        if p not in warm:  # a worker's first pass of a length is cold, and belongs to no clip
                            self._ask(p, workers[p], path)
                            warm.add(p)
                        answer = self._ask(p, workers[p], path, before=moment)
                        paired = self.baselines[p] in wanted
                        output = self.task.output_from(answer["output"])
                        found.append(Prediction(p, clip.position, answer["seconds"], output, paired))
                    if p in self.variants.failed:
                        workers.pop(p).close()
                if found:
                    self.store.add_predictions(self.id, length_s, found)
                    self.done |= {(p.clip, p.variant) for p in found}
            if not workers:
                return

    def _ask(self, p: int, worker: Worker, path: Path, before: Path | None = None) -> dict[str, Any]:
        return transcribe(worker, self.spec.variants[p].model, path, self.limits, before=before)

    @contextmanager
    def _decoded(self, clip: ClipRecord) -> Iterator[tuple[Path, float, Path] | None]:
        """The clip as a .npy file, its length in seconds, and its first moment as another file.

        None, noted as a failure, if it can't be read.
        """
        if clip.position in self.unreadable:
            yield None
            return
        try:
            sound = audio.decode(Path(clip.path))
        except AudioError as e:
            self.unreadable.add(clip.position)
            self.store.add_failure(self.id, Failure(None, f"clip {clip.id}", "unreadable", str(e)))
            yield None
            return
        with samples_file(sound.samples) as path, samples_file(sound.samples[:MOMENT]) as moment:
            yield path, sound.duration_s, moment

    def _tell(self, number: int, count: int, clip: ClipRecord, begun: float, blocks: float) -> None:
        left = (time.monotonic() - begun) / number * (blocks * count - number) if number >= 2 else None
        pairs = len(self.clips) * len(self.spec.variants)
        self.observe(
            Progress(
                stage=f"transcribing {clip.id}",
                clip=number + 1,
                clips=count,
                eta_s=left,
                done_ratio=len(self.done) / pairs,
            )
        )


def transcribe(
    worker: Worker,
    model: str,
    path: Path,
    limits: Limits,
    on_progress: Callable[[str], None] | None = None,
    *,
    before: Path | None = None,
) -> dict[str, Any]:
    """Let a paused worker transcribe a .npy file, and pause it again; every chunk of a long one is a sign of life.

    Others used the caches while it was paused, so its first pass is slower than those that follow: where the time
    counts, it transcribes the short file `before` first, whose time is forgotten. Raises WorkerError, Cancelled.
    """
    (shape,) = longest_pass(model)
    chunk_s = work.work(model, *shape) / CPU_MAC_PER_S
    timeout_s = max(limits.reply_s, limits.slowest_passes * chunk_s)
    worker.resume()
    if before:
        worker.ask("predict", timeout_s, path=str(before))
    answer: dict[str, Any] = worker.ask("predict", timeout_s, on_progress, path=str(path))
    worker.pause()
    return answer


@contextmanager
def samples_file(samples: audio.Array) -> Iterator[Path]:
    """(samples,) float32 as a .npy file that workers can read, for as long as it is wanted."""
    folder = paths.cache() / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns()}.npy"
    np.save(path, samples)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
