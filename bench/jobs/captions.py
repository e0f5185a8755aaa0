"""Live captions: what a microphone hears as text by several variants, while it is spoken.

A thread transcribes the last seconds again and again. What two passes in a row agree on is committed and never changes;
the rest stays tentative (LocalAgreement: Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and
translation by partial hypothesis selection"; Macháček et al. 2023, "Turning Whisper into a real-time transcription
system").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from bench.core.records import Transcript, Transcription, VariantText, Word
from bench.core.specs import SAMPLE_RATE_HZ, Variant
from bench.jobs.lease import Refused
from bench.jobs.transcription import Busy, Transcriber
from bench.sound.audio import MAX_DURATION_S, Array
from bench.sound.microphone import Level, MicrophoneError, Recorder
from bench.workers.client import Cancelled

WINDOW_S = 8.0  # the most that one pass hears
STEP_S = 0.5  # a pass for less news would hardly hear a word
MARGIN_S = 1.0  # words nearer to the end of what was heard may still change
CONTEXT_S = 1.5  # of committed audio that the next pass hears again, so that it does not begin within a word


class Draft:
    """One variant's text as it grows: hypotheses of overlapping windows in, committed and tentative words out.

    Times are seconds since the recording began.
    """

    def __init__(self) -> None:
        """Nothing was heard."""
        self.committed: list[Word] = []
        self.tentative: list[Word] = []
        self.heard_s = 0.0  # the end of the last window
        self.skipped_s = 0.0  # what no window held
        self.begin_s = 0.0  # of the next window

    def window(self, now_s: float) -> tuple[float, float]:
        """(begin, end) of what the next pass is to hear.

        Where that would be too much, because passes are slow or hypotheses never agree, the oldest is let go: its words
        are committed as they stand, and audio that no pass heard counts as skipped.
        """
        begin_s = now_s - WINDOW_S
        if begin_s > self.begin_s:
            self._commit(sum(w.begin_s < begin_s for w in self.tentative))
            begin_s = max(begin_s, self._done_s)
            self.skipped_s += max(0.0, begin_s - self.heard_s)
            self.begin_s = begin_s
        return self.begin_s, now_s

    def hear(self, words: Sequence[Word], begin_s: float, end_s: float) -> None:
        """A pass over the window from `begin_s` to `end_s` heard these words, their times counted from its begin."""
        found = [replace(w, begin_s=w.begin_s + begin_s, end_s=w.end_s + begin_s) for w in words]
        found = [w for w in found if (w.begin_s + w.end_s) / 2 > self._done_s]  # the rest is context
        agreed = 0
        for before, now in zip(self.tentative, found, strict=False):
            if before.text != now.text or now.end_s > end_s - MARGIN_S:
                break
            agreed += 1
        self.tentative, self.heard_s = found, end_s
        self._commit(agreed)
        # The next window begins where a committed word ends; in a pause, there is no word to be cut.
        first_open_s = self.tentative[0].begin_s if self.tentative else end_s - MARGIN_S
        cuts = [w.end_s for w in self.committed[-50:] if w.end_s <= first_open_s - CONTEXT_S]
        if not self.tentative:
            cuts.append(first_open_s - CONTEXT_S)
        self.begin_s = max([begin_s, *cuts])

    def finish(self) -> None:
        """Nothing more comes: what is tentative stands."""
        self._commit(len(self.tentative))

    @property
    def _done_s(self) -> float:
        return self.committed[-1].end_s if self.committed else 0.0

    def _commit(self, count: int) -> None:
        self.committed += self.tentative[:count]
        self.tentative = self.tentative[count:]


@dataclass(frozen=True, slots=True)
class Caption:
    """One variant's text at a moment."""

    variant: Variant
    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    lag_s: float | None  # how much sound came that the text does not cover yet; None before and after
    pass_s: float | None  # the last pass's forward time
    skipped_s: float
    error: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that can be shown of live captions at a moment."""

    live: bool
    stage: str  # what is done before listening begins; "" from then on
    captions: tuple[Caption, ...]
    elapsed_s: float
    level: Level | None
    rates: tuple[int, int] | None
    overflows: int
    message: str  # why it ended, unless it was simply stopped


class Source(Protocol):
    """What is wanted of a Recorder."""

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
    """One session of live captions: a thread that listens from its making until stopped, 10 minutes, or an error."""

    def __init__(
        self,
        transcriber: Transcriber,
        variants: Sequence[Variant],
        device: int | None = None,
        record: Callable[[int | None], Source] = Recorder,
    ) -> None:
        """`device` is a microphone's index, by default the default one. Errors appear in the snapshot."""
        self._transcriber, self._variants, self._device, self._record = transcriber, tuple(variants), device, record
        self._lock = threading.Lock()
        self._drafts = {v: Draft() for v in self._variants}
        self._pass_s: dict[Variant, float] = {}
        self._errors: dict[Variant, str] = {}
        self._stage, self._message = "getting ready", ""
        self._source: Source | None = None
        self._audio, self._audio_begin = np.zeros(0, np.float32), 0  # the part that windows may still need
        self._stop = threading.Event()
        self._cut_off = False
        self.created_s = time.time()
        self._thread = threading.Thread(target=self._run, name="captions", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether it still listens, or finishes what it heard."""
        return self._thread.is_alive()

    def snapshot(self) -> Snapshot:
        """What to show now."""
        live, source = self.live, self._source
        elapsed_s = source.elapsed_s if source else 0.0
        with self._lock:
            captions = tuple(
                Caption(
                    v,
                    tuple(d.committed),
                    tuple(d.tentative),
                    max(0.0, elapsed_s - d.heard_s) if live and d.heard_s and v not in self._errors else None,
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
        """What was heard so far, for the history. Windows overlap, so there are no seconds of passes to compare."""
        s = self.snapshot()
        texts = []
        for c in s.captions:
            words = (*c.committed, *c.tentative)
            heard = Transcription(" ".join(w.text for w in words), words) if words or not c.error else None
            texts.append(VariantText(c.variant, None, heard, c.error if heard is None else ""))
        return Transcript(self.created_s, "live captions", s.elapsed_s, "", tuple(texts))

    def stop(self) -> None:
        """End it: what was said until now is still transcribed. Returns at once."""
        self._stop.set()

    def end(self, why: str) -> None:
        """End it now, without a last pass. Waits a few seconds at most."""
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
        except Exception as e:  # the thread has nobody above it: say it where people look
            self._message = f"Earbench itself failed: {type(e).__name__}: {e}"
        finally:
            with self._lock:
                for draft in self._drafts.values():
                    draft.finish()

    def _warm_up(self) -> None:
        """One pass over a moment of silence, so that the first words do not wait for models to be opened."""

        def say(text: str) -> None:
            self._stage = text

        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        for found in self._transcriber.transcribe(silence, self._variants, say):
            if found.error:
                self._errors[found.variant] = found.error
        self._stage = ""

    def _listen(self, source: Source) -> None:
        while not self._stop.is_set() and (waiting := self._waiting()):
            running = source.running
            block = source.read(0.1)
            self._take(block)
            if not running and not len(block):
                self._message = f"Captions end after {MAX_DURATION_S / 60:g} minutes. Start them again to go on."
                break
            v = min(waiting, key=lambda v: self._drafts[v].heard_s)  # in turn
            if self._now_s - self._drafts[v].heard_s >= STEP_S and not self._cut_off:  # a benchmark may wait for us
                self._pass(v)
        source.stop()
        while len(block := source.read()):
            self._take(block)
        for v in () if self._cut_off else self._waiting():
            self._pass(v)

    def _waiting(self) -> list[Variant]:
        return [v for v in self._variants if v not in self._errors]

    @property
    def _now_s(self) -> float:
        return (self._audio_begin + len(self._audio)) / SAMPLE_RATE_HZ

    def _take(self, block: Array) -> None:
        """Keep what came; let go what no window needs any more."""
        needed_s = min((self._drafts[v].begin_s for v in self._waiting()), default=self._now_s)
        needed = min(max(0, int(needed_s * SAMPLE_RATE_HZ) - self._audio_begin), len(self._audio))
        self._audio = np.concatenate([self._audio[needed:], block])
        self._audio_begin += needed

    def _pass(self, v: Variant) -> None:
        """One variant hears its window. Raises as Transcriber.transcribe."""
        draft = self._drafts[v]
        with self._lock:
            begin_s, end_s = draft.window(self._now_s)
        begin = int(begin_s * SAMPLE_RATE_HZ) - self._audio_begin
        if end_s <= draft.heard_s or begin >= len(self._audio):
            return
        (found,) = self._transcriber.transcribe(self._audio[begin:], [v])
        with self._lock:
            if found.error or not found.transcription:
                self._errors[v] = found.error
                return
            self._pass_s[v] = found.seconds or 0.0
            draft.hear(found.transcription.words, begin_s, end_s)
