"""Speech -> text. Errors are counted in words (WER) and in characters (CER)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.core import scoring
from bench.core.records import Transcription, transcription_from
from bench.datasets import dataset, folder
from bench.families.tasks.task import Counts, Example, Metric, Task
from bench.sound import audio


class TranscriptionTask(Task):
    """See the module."""

    NAME = "transcription"
    VERB = "transcribes speech"
    METRICS = (Metric("wer", "WER", "words"), Metric("cer", "CER", "characters"))

    def count(self, target: str, output: Transcription, normaliser: str) -> Counts:
        """Count the word and character errors of a text against its reference."""
        return {
            "wer": scoring.words(target, output.text, normaliser),
            "cer": scoring.characters(target, output.text, normaliser),
        }

    def output_from(self, stored: Any) -> Transcription:
        """See the class."""
        return transcription_from(stored)

    def examples(self, where: str, limit: int) -> Sequence[Example]:
        """Return clips of a data set's split `calibrate`, by default the shipped data set's. Raises DatasetError."""
        clips = dataset.find(where or str(dataset.bundled()), "calibrate")
        chosen = dataset.choose(clips, limit, seed=0) if limit else clips
        return [
            Example(clip.id, folder.sha256(clip.path), lambda path=clip.path: audio.decode(path).samples, clip.text)  # type: ignore[misc]
            for clip in chosen.clips
        ]


TRANSCRIPTION = TranscriptionTask()
