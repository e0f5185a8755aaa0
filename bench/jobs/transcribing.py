"""The transcription of one recording as a job: it goes on when the page is left, and its texts are kept."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.core.errors import EarbenchError
from bench.core.records import Transcript
from bench.core.specs import SAMPLE_RATE_HZ, Variant
from bench.core.store import Store, StoreError
from bench.jobs import recordings
from bench.jobs.benchmark import Progress
from bench.jobs.job import Job
from bench.jobs.transcription import Transcriber
from bench.sound.audio import Array
from bench.workers.client import Cancelled


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording to transcribe. Two with the same key are the same sound."""

    key: str
    source: str  # where the audio came from, as shown to users
    samples: Array  # (n,) float32 at 16 kHz
    reference: str = ""
    keep_audio: bool = False

    @property
    def length_s(self) -> float:
        """The length in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


class Transcribing(Job):
    """The transcription of one recording as a job; `transcript` is its result, `problem` says why there is none."""

    def __init__(self, recording: Recording, variants: Sequence[Variant], transcriber: Transcriber) -> None:
        """Nothing starts here."""
        super().__init__(secrets.token_hex(4), "transcription")
        self.recording, self.variants, self._transcriber = recording, tuple(variants), transcriber
        self.transcript: Transcript | None = None
        self.problem = ""  # why there is no transcript, or why it is not in the history
        self._asked_to_end = False

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end."""
        return self._asked_to_end

    def cancel(self) -> None:
        """Ask it to end: its workers are killed."""
        self._asked_to_end = True
        self._transcriber.cancel()

    def work(self, store: Store) -> None:
        """Transcribe, and keep the transcript in the store. Raises nothing: what goes wrong becomes the problem."""

        def observe(progress: Progress) -> None:
            self.progress = progress
            if self._asked_to_end:  # asked before the transcriber had begun
                self._transcriber.cancel()

        r = self.recording
        try:
            texts = self._transcriber.transcribe(r.samples, self.variants, observe)
        except Cancelled:
            self.problem = (
                "The transcription was cancelled."
                if self._asked_to_end
                else "The transcription was cancelled, because the program ends."
            )
            return
        except EarbenchError as e:
            self.problem = str(e)
            return
        except OSError as e:
            self.problem = f"The sound can't be handed to the models ({e.strerror}). Free some space, then try again."
            return
        except Exception as e:  # nothing above this thread reports errors
            traceback.print_exc()
            self.problem = f"Earbench itself failed: {type(e).__name__}: {e}"
            return
        transcript = Transcript(time.time(), r.source, r.length_s, r.reference, tuple(texts))
        try:
            transcript = recordings.keep(store, transcript, r.samples if r.keep_audio else None)
        except OSError as e:
            self.problem = f"It can't be kept in the history ({e.strerror}). Free some space, then try again."
        except StoreError as e:
            self.problem = f"It can't be kept in the history: {e}"
        self.transcript = transcript

    def set_reference(self, store: Store, reference: str) -> None:
        """Change the words that were said, in the history too. Raises StoreError; then only the history lacks them."""
        if self.transcript and self.transcript.reference != reference:
            self.transcript = replace(self.transcript, reference=reference)
            if self.transcript.id is not None:
                store.set_reference(self.transcript.id, reference)
