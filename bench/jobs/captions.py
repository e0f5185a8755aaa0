"""Live captions: several variants transcribe a microphone while somebody speaks.

A thread transcribes the last seconds repeatedly. Words that two consecutive passes agree on are committed and never
change; the rest stays tentative (LocalAgreement: Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition
and translation by partial hypothesis selection"; Macháček et al. 2023, "Turning Whisper into a real-time transcription
system").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from bench.core.lease import Refused
from bench.core.records import Transcript, Transcription, VariantText, Word
from bench.core.specs import SAMPLE_RATE_HZ, Variant
from bench.jobs.benchmark import Progress
from bench.jobs.transcription import Busy, Transcriber
from bench.sound.audio import MAX_DURATION_S, Array
from bench.sound.microphone import Level, MicrophoneError, Recorder
from bench.workers.client import Cancelled

WINDOW_S = 8.0  # the longest window of one pass
STEP_S = 0.5  # with less new audio, a pass would hardly add a word
MARGIN_S = 1.0  # words nearer to the end of the window may still change
CONTEXT_S = 1.5  # committed audio that the next pass transcribes again, so that its window does not begin within a word


class Draft:
    """One variant's growing text: merges hypotheses of overlapping windows into committed and tentative words.

    Times are seconds since the recording began.
    """

    def __init__(self) -> None:
        """Start with an empty text."""
        self.committed: list[Word] = []
        self.tentative: list[Word] = []
        self.done_s = 0.0  # end of the last transcribed window
        self.skipped_s = 0.0  # audio that no window covered
        self.begin_s = 0.0  # start of the next window

    def window(self, now_s: float) -> tuple[float, float]:
        """Return (begin, end) of the next window to transcribe.

        If it would be too long, because passes are slow or hypotheses never agree, the oldest part is dropped: its
        words are committed as they stand, and audio that no pass covered counts as skipped.
        """
        begin_s = now_s - WINDOW_S
        if begin_s > self.begin_s:
            self._commit(sum(w.begin_s < begin_s for w in self.tentative))
            begin_s = max(begin_s, self._committed_s)
            self.skipped_s += max(0.0, begin_s - self.done_s)
            self.begin_s = begin_s
        return self.begin_s, now_s

    def add(self, words: Sequence[Word], begin_s: float, end_s: float) -> None:
        """Merge the words of a pass over the window from `begin_s` to `end_s`. Their times count from its start."""
        hypothesis = [replace(w, begin_s=w.begin_s + begin_s, end_s=w.end_s + begin_s) for w in words]
        hypothesis = [w for w in hypothesis if (w.begin_s + w.end_s) / 2 > self._committed_s]  # the rest is context
        agreed_count = 0
        for previous, current in zip(self.tentative, hypothesis, strict=False):
            if previous.text != current.text or current.end_s > end_s - MARGIN_S:
                break
            agreed_count += 1
        self.tentative, self.done_s = hypothesis, end_s
        self._commit(agreed_count)
        # The next window begins where a committed word ends; in a pause, there is no word to cut.
        first_tentative_s = self.tentative[0].begin_s if self.tentative else end_s - MARGIN_S
        cuts = [w.end_s for w in self.committed[-50:] if w.end_s <= first_tentative_s - CONTEXT_S]
        if not self.tentative:
            cuts.append(first_tentative_s - CONTEXT_S)
        self.begin_s = max([begin_s, *cuts])

    def finish(self) -> None:
        """End the text: commit all tentative words."""
        self._commit(len(self.tentative))

    @property
    def _committed_s(self) -> float:
        return self.committed[-1].end_s if self.committed else 0.0

    def _commit(self, count: int) -> None:
        self.committed += self.tentative[:count]
        self.tentative = self.tentative[count:]


@dataclass(frozen=True, slots=True)
class Caption:
    """One variant's text at one moment."""

    variant: Variant
    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    lag_s: float | None  # audio not transcribed yet; None before the first pass and after the end
    pass_s: float | None  # forward time of the last pass
    skipped_s: float
    error: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of live captions at one moment, for display."""

    live: bool
    stage: str  # the current step of preparation; "" once listening begins
    captions: tuple[Caption, ...]
    elapsed_s: float
    level: Level | None
    rates: tuple[int, int] | None
    overflows: int
    message: str  # why the session ended, unless it was simply stopped


class Source(Protocol):
    """The part of Recorder that captions use."""

    def read(self, timeout_s: float = 0.0) -> Array:
        """See Recorder."""

    def stop(self) -> None:
        """See Recorder."""

    @property
    def running(self) -> bool:
        """See Recorder."""

    @property
    def level(self) -> Level | None:
        """See Recorder."""

    @property
    def rates(self) -> tuple[int, int] | None:
        """See Recorder."""

    @property
    def overflows(self) -> int:
        """See Recorder."""

    @property
    def elapsed_s(self) -> float:
        """See Recorder."""


class Captions:
    """One session of live captions: a thread that listens from construction until stopped, 10 minutes, or an error."""

    def __init__(
        self,
        transcriber: Transcriber,
        variants: Sequence[Variant],
        device: int | None = None,
        record: Callable[[int | None], Source] = Recorder,
    ) -> None:
        """Start the thread. `device` is a microphone's index, None the default one. Errors appear in the snapshot."""
        self._transcriber, self._variants, self._device, self._record = transcriber, tuple(variants), device, record
        self._lock = threading.Lock()
        self._drafts = {v: Draft() for v in self._variants}
        self._pass_s: dict[Variant, float] = {}
        self._errors: dict[Variant, str] = {}
        self._stage, self._message = "getting ready", ""
        self._source: Source | None = None
        self._audio, self._audio_begin = np.zeros(0, np.float32), 0  # the part that later windows may need
        self._stop = threading.Event()
        self._cut_off = False
        self.created_s = time.time()
        self._thread = threading.Thread(target=self._run, name="captions", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether it still listens, or transcribes its last audio."""
        return self._thread.is_alive()

    def snapshot(self) -> Snapshot:
        """Return the current state."""
        live, source = self.live, self._source
        elapsed_s = source.elapsed_s if source else 0.0
        with self._lock:
            captions = tuple(
                Caption(
                    v,
                    tuple(d.committed),
                    tuple(d.tentative),
                    max(0.0, elapsed_s - d.done_s) if live and d.done_s and v not in self._errors else None,
                    self._pass_s.get(v),
                    d.skipped_s,
                    self._errors.get(v, ""),
                )
                for v, d in self._drafts.items()
            )
        return Snapshot(
            live,
            self._stage if live else "",
            captions,
            elapsed_s,
            source.level if source and live else None,
            source.rates if source else None,
            source.overflows if source else 0,
            self._message,
        )

    def transcript(self) -> Transcript:
        """The text so far, for the history. Windows overlap, so it has no pass times to compare."""
        s = self.snapshot()
        texts = []
        for c in s.captions:
            words = (*c.committed, *c.tentative)
            transcription = Transcription(" ".join(w.text for w in words), words) if words or not c.error else None
            texts.append(VariantText(c.variant, None, transcription, c.error if transcription is None else ""))
        return Transcript(self.created_s, "live captions", s.elapsed_s, "", tuple(texts))

    def stop(self) -> None:
        """Stop listening: audio recorded so far is still transcribed. Returns at once."""
        self._stop.set()

    def end(self, why: str) -> None:
        """End now, without a last pass; `why` becomes the message. Waits a few seconds at most."""
        if not self.live:
            return
        self._message, self._cut_off = why, True
        self._stop.set()
        self._transcriber.cancel()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            self._warm_up()
            if self._stop.is_set():
                return
            self._source = self._record(self._device)
            try:
                self._listen(self._source)
            finally:
                self._source.stop()
        except (Busy, MicrophoneError, Refused) as e:
            self._message = self._message or str(e)
        except Cancelled:
            self._message = self._message or "The captions were cancelled by another page. Start them again."
        except Exception as e:  # nothing above this thread reports errors: show it in the snapshot
            self._message = f"Earbench itself failed: {type(e).__name__}: {e}"
        finally:
            with self._lock:
                for draft in self._drafts.values():
                    draft.finish()

    def _warm_up(self) -> None:
        """Transcribe one second of silence, so that the first words do not wait for models to open."""

        def observe(progress: Progress) -> None:
            self._stage = progress.stage

        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        for result in self._transcriber.transcribe(silence, self._variants, observe):
            if result.error:
                self._errors[result.variant] = result.error
        self._stage = ""

    def _listen(self, source: Source) -> None:
        while not self._stop.is_set() and (active := self._active()):
            running = source.running
            block = source.read(0.1)
            self._append(block)
            if not running and not len(block):
                self._message = f"Captions end after {MAX_DURATION_S / 60:g} minutes. Start them again to go on."
                break
            v = min(active, key=lambda v: self._drafts[v].done_s)  # variants take turns
            if self._now_s - self._drafts[v].done_s >= STEP_S and not self._cut_off:  # a benchmark may be waiting
                self._pass(v)
        source.stop()
        while len(block := source.read()):
            self._append(block)
        for v in () if self._cut_off else self._active():
            self._pass(v)

    def _active(self) -> list[Variant]:
        return [v for v in self._variants if v not in self._errors]

    @property
    def _now_s(self) -> float:
        return (self._audio_begin + len(self._audio)) / SAMPLE_RATE_HZ

    def _append(self, block: Array) -> None:
        """Append a block and drop audio that no window needs any more."""
        needed_s = min((self._drafts[v].begin_s for v in self._active()), default=self._now_s)
        first_needed = min(max(0, int(needed_s * SAMPLE_RATE_HZ) - self._audio_begin), len(self._audio))
        self._audio = np.concatenate([self._audio[first_needed:], block])
        self._audio_begin += first_needed

    def _pass(self, v: Variant) -> None:
        """Transcribe one variant's window. Raises like Transcriber.transcribe."""
        draft = self._drafts[v]
        with self._lock:
            begin_s, end_s = draft.window(self._now_s)
        begin = int(begin_s * SAMPLE_RATE_HZ) - self._audio_begin
        if end_s <= draft.done_s or begin >= len(self._audio):
            return
        (result,) = self._transcriber.transcribe(self._audio[begin:], [v])
        with self._lock:
            if result.error or not result.transcription:
                self._errors[v] = result.error
                return
            self._pass_s[v] = result.seconds or 0.0
            draft.add(result.transcription.words, begin_s, end_s)
