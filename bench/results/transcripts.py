"""Score transcripts, and convert them to rows for a CSV."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from bench.core import scoring
from bench.core.records import Transcript, VariantText
from bench.core.scoring import Errors
from bench.results.tables import Row, device_columns


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one text. Errors are None if there is nothing to count them against."""

    words: Errors | None
    characters: Errors | None
    speedup_ratio: float | None  # relative to the first text that has a time
    real_time_ratio: float | None
    confidence: float | None  # mean over words


def against(texts: Iterable[VariantText], reference: str) -> str | None:
    """The text to compare with: the reference if there is one, else the first transcription, else None."""
    if scoring.normalise(reference):
        return reference
    return next((t.transcription.text for t in texts if t.transcription), None)


def score(text: VariantText, t: Transcript) -> Score:
    """Score one of a transcript's texts against its reference, or else against the first text."""
    reference, transcription = against(t.texts, t.reference), text.transcription
    comparable = transcription is not None and reference is not None
    first_s = next((x.seconds for x in t.texts if x.seconds), None)
    return Score(
        scoring.words(reference, transcription.text)
        if comparable and transcription and reference is not None
        else None,
        scoring.characters(reference, transcription.text)
        if comparable and transcription and reference is not None
        else None,
        first_s / text.seconds if first_s and text.seconds else None,
        text.seconds / t.length_s if text.seconds and t.length_s else None,
        sum(w.confidence for w in transcription.words) / len(transcription.words)
        if transcription and transcription.words
        else None,
    )


def rows(transcripts: Iterable[Transcript]) -> list[Row]:
    """One row per transcript and variant. Errors count against the reference alone; without one they are empty."""
    out: list[Row] = []
    for t in transcripts:
        for text in t.texts:
            s = score(text, t)
            w, c = (s.words, s.characters) if scoring.normalise(t.reference) else (None, None)
            row: Row = {
                "transcript": t.id,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(t.created_s)),
                "source": t.source,
                "length_s": t.length_s,
                "model": text.variant.model,
                "mode": text.variant.spelled,
                "threads": text.variant.placement.threads,
                "text": text.transcription.text if text.transcription else None,
                "reference": t.reference or None,
                "seconds": text.seconds,
                "speedup_ratio": s.speedup_ratio,
                "real_time_ratio": s.real_time_ratio,
                "wer_ratio": w.rate if w else None,
                "cer_ratio": c.rate if c else None,
                "substitutions": w.substitutions if w else None,
                "deletions": w.deletions if w else None,
                "insertions": w.insertions if w else None,
                "reference_words": w.reference_count if w else None,
                "mean_confidence_ratio": s.confidence,
                "error": text.error or None,
                "device": t.device.name if t.device else None,
                **(device_columns(t.device) if t.device else {}),
                "placement": str(text.variant.placement),
            }
            out.append(row)
    columns = dict.fromkeys(name for row in out for name in row)  # versions differ between devices and over time
    columns["placement"] = columns.pop("placement", None)  # added by a later schema, so it comes last
    return [{name: row.get(name) for name in columns} for row in out]
