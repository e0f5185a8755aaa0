"""Run an evaluation from start to end: every variant transcribes every clip once, and its output is stored.

Timing and scoring are separate: this module stores forward times and raw texts; `bench.results.evaluation` counts
errors when an evaluation is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artefacts import cache
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
from bench.workers import start
from bench.workers.blocks import Block, Blocks
from bench.workers.client import Cancelled, Pool, Worker, WorkerError
from bench.workers.outcomes import Attempts, split
from bench.workers.start import Limits

MOMENT = SAMPLE_RATE_HZ // 4  # samples: long enough to touch every weight, short enough to cost little


class Evaluator:
    """Runs one evaluation; `run()` returns its final message, if any."""

    def __init__(
        self,
        evaluation: Evaluation,
        store: Store,
        pool: Pool,
        observe: Callable[[Progress], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare an evaluation; nothing starts before `run()`. `observe` is called whenever the progress changes."""
        self.id, self.spec, self.store, self.pool, self.observe = evaluation.id, evaluation.spec, store, pool, observe
        self.limits = limits or Limits()
        self.evaluation, self.attempt = evaluation, Attempts(evaluation.id, store)
        self.task = catalogue.task(self.spec.task)
        self.clips = store.clips(self.id)
        self.done = {(p.clip, p.variant) for p in store.predictions(self.id)}
        self.unreadable: set[int] = set()
        self.baselines = {p: compared[0] for compared in self.spec.comparisons.values() for p in compared}

    def run(self) -> str | None:
        """Transcribe what is not transcribed yet. Raises Cancelled, and RunFailed if nothing can be transcribed."""
        self.store.supersede_unfinished(self.id)
        outcomes = start.prepare(self.evaluation, self.store, self.attempt, self.pool, self.limits, self._stage)
        artefacts, failures = split(self._fair(outcomes))
        self.store.set_state(self.id, "running")

        def need_bytes(position: int) -> int:
            v = self.spec.variants[position]
            return memory.open_bytes(v, artefacts[position].size_bytes, longest_pass(v.model))

        def reserve_bytes(position: int) -> int:
            model = self.spec.variants[position].model
            return memory.pass_bytes(model, longest_pass(model))

        blocks = Blocks(
            self.evaluation, self.store, self.attempt, self.pool, self.limits, self._stage, need_bytes, reserve_bytes
        )
        blocks.plan([p for p in artefacts if any((c.position, p) not in self.done for c in self.clips)], artefacts)
        while blocks.waiting:
            with blocks.next() as block:
                self._block(block, later=len(blocks.waiting))
            failures |= split(block.outcomes)[1]
        if not self.done:
            raise RunFailed(
                "Nothing could be transcribed: every variant failed."
                if len(failures) == len(self.spec.variants)
                else "Nothing could be transcribed: no clip could be read."
            )
        problems = [f"{len(failures)} of {len(self.spec.variants)} variants failed"] if failures else []
        problems += [f"{len(self.unreadable)} of {len(self.clips)} clips can't be read"] if self.unreadable else []
        return f"{' and '.join(problems)}; the rest is kept." if problems else None

    def _fair(self, outcomes: dict[int, Artefact | Failure]) -> dict[int, Artefact | Failure]:
        """Fail variants that were calibrated or tuned on these clips: they would look better than they are."""
        artefacts, _ = split(outcomes)
        build_digests = {p: set(cache.manifest_of(a.digest).get("clips", ())) for p, a in artefacts.items()}
        if not any(build_digests.values()):
            return outcomes
        clip_digests = [datasets_folder.sha256(Path(c.path)) for c in self.clips]

        def check(position: int) -> Artefact:
            if shared := sum(digest in build_digests[position] for digest in clip_digests):
                v = self.spec.variants[position]
                raise WorkerError(
                    "unfair",
                    f"{v.spelled} looked at {shared} of these {len(clip_digests)} clips while it was built, so it "
                    "would be judged on what it has seen. Evaluate on other clips (another split), or build "
                    f"it with others: {v.mode}:data=FOLDER.",
                )
            return artefacts[position]

        return outcomes | {p: self.attempt(p, "build", partial(check, p)) for p in artefacts}

    def _stage(self, text: str) -> None:
        self.observe(Progress(text))

    def _block(self, block: Block, later: int) -> None:
        """Transcribe clip by clip, the variants in alternating order, so that drift affects all equally.

        `later` is the number of variants that wait for a later block, because memory does not hold them now.
        """
        workers, _ = split(block.outcomes)
        warm: set[int] = set()
        start_s, blocks = time.monotonic(), 1 + later / max(1, len(workers))
        pending = [c for c in self.clips if any((c.position, p) not in self.done for p in workers)]
        for number, clip in enumerate(pending):
            if self.pool.cancelled:  # an unreadable clip asks no worker, so no worker would raise it
                raise Cancelled
            self._report_progress(number, len(pending), clip, start_s, blocks)
            alive = sorted(filter(block.is_open, workers), reverse=number % 2 == 1)
            due = [p for p in alive if (clip.position, p) not in self.done]
            with self._decoded(clip) as decoded:
                if decoded is None:
                    continue
                path, length_s, moment = decoded
                predictions = []
                for p in due:
                    predict = partial(self._predict, p, workers[p], path, moment, cold=p not in warm)
                    reply = self.attempt(p, f"clip {clip.id}", predict)
                    if isinstance(reply, Failure):
                        block.fail(p, reply)
                        continue
                    warm.add(p)
                    paired = self.baselines[p] in due
                    output = self.task.output_from(reply["output"])
                    predictions.append(Prediction(p, clip.position, reply["seconds"], output, paired))
                if predictions:
                    self.store.add_predictions(self.id, length_s, predictions)
                    self.done |= {(p.clip, p.variant) for p in predictions}
            if not block.open_count:
                return

    def _predict(self, p: int, worker: Worker, path: Path, moment: Path, *, cold: bool) -> dict[str, Any]:
        """Let a worker transcribe a clip. A worker's first pass is cold and is not stored, so it makes another one."""
        model = self.spec.variants[p].model
        if cold:
            transcribe(worker, model, path, self.limits)
        return transcribe(worker, model, path, self.limits, before=moment)

    @contextmanager
    def _decoded(self, clip: ClipRecord) -> Iterator[tuple[Path, float, Path] | None]:
        """Yield the clip as a .npy file, its length in seconds, and its first MOMENT samples as another file.

        Yields None, and stores a failure, if the clip can't be read.
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

    def _report_progress(self, number: int, count: int, clip: ClipRecord, start_s: float, blocks: float) -> None:
        eta_s = (time.monotonic() - start_s) / number * (blocks * count - number) if number >= 2 else None
        pair_count = len(self.clips) * len(self.spec.variants)
        self.observe(
            Progress(
                stage=f"transcribing {clip.id}",
                clip=number + 1,
                clips=count,
                eta_s=eta_s,
                done_ratio=len(self.done) / pair_count,
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
    """Let a paused worker transcribe a .npy file, then pause it again.

    Each chunk of a long file counts as a sign of life. Other workers used the CPU caches during the pause, so the first
    pass is slower than the following ones: where time matters, pass a short file as `before`. It is transcribed first,
    and its time is discarded. Raises WorkerError, Cancelled.
    """
    (shape,) = longest_pass(model)
    chunk_s = work.work(model, *shape) / CPU_MAC_PER_S
    timeout_s = max(limits.reply_s, limits.slowest_passes * chunk_s)
    worker.resume()
    if before:
        worker.ask("predict", timeout_s, path=str(before))
    reply: dict[str, Any] = worker.ask("predict", timeout_s, on_progress, path=str(path))
    worker.pause()
    return reply


@contextmanager
def samples_file(samples: audio.Array) -> Iterator[Path]:
    """Write (samples,) float32 to a temporary .npy file that workers can read; it is deleted at the end."""
    with audio.temporary_folder() as folder:
        path = folder / "samples.npy"
        np.save(path, samples)
        yield path
