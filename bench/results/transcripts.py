"""Transcripts that are kept: with their audio only where asked, scored, and as rows for a CSV."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core import paths, scoring
from bench.core.records import Transcript, VariantText
from bench.core.scoring import Errors
from bench.core.store import Store
from bench.device import host
from bench.results.tables import Row, device_columns
from bench.sound import audio


@dataclass(frozen=True, slots=True)
class Score:
    """What can be said of one text. Errors are None where there is nothing to count them against."""

    words: Errors | None
    characters: Errors | None
    speedup_ratio: float | None  # over the first text that has a time
    real_time_ratio: float | None
    confidence: float | None  # mean over words


def against(texts: Iterable[VariantText], reference: str) -> str | None:
    """The text that all are compared with: the reference if there is one, else the first variant's, else None."""
    if scoring.normalise(reference):
        return reference
    return next((t.transcription.text for t in texts if t.transcription), None)


def score(text: VariantText, t: Transcript) -> Score:
    """A transcript's text against its reference, or else against the first text."""
    base, heard = against(t.texts, t.reference), text.transcription
    known = heard is not None and base is not None
    first_s = next((x.seconds for x in t.texts if x.seconds), None)
    return Score(
        scoring.words(base, heard.text) if known and heard and base is not None else None,
        scoring.characters(base, heard.text) if known and heard and base is not None else None,
        first_s / text.seconds if first_s and text.seconds else None,
        text.seconds / t.length_s if text.seconds and t.length_s else None,
        sum(w.confidence for w in heard.words) / len(heard.words) if heard and heard.words else None,
    )


def keep(store: Store, t: Transcript, samples: audio.Array | None = None) -> Transcript:
    """Store a transcript made here, and its audio if given: (n,) at 16 kHz. Returns it with its id.

    Raises OSError or StoreError, and then leaves nothing behind.
    """
    t = replace(t, device=host.device())
    if samples is None:
        return replace(t, id=store.add_transcript(t))
    t = replace(t, audio=f"audio/{time.time_ns()}.wav")  # within the data folder, which may move
    path = paths.data_folder() / str(t.audio)
    path.parent.mkdir(exist_ok=True)
    try:
        audio.write_wav(path, samples)
        return replace(t, id=store.add_transcript(t))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def forget(store: Store, t: Transcript) -> None:
    """Delete a transcript and its audio. Raises StoreError, and then both are still there, or OSError."""
    if t.id is not None:
        store.delete_transcript(t.id)
    if found := audio_path(t):
        found.unlink(missing_ok=True)


def audio_path(t: Transcript) -> Path | None:
    """Where a transcript's audio lies; None if none was kept, or it is gone."""
    if not t.audio:
        return None
    folder = paths.data_folder() / "audio"
    path = (paths.data_folder() / t.audio).resolve()
    return path if path.parent == folder and path.is_file() else None


def rows(transcripts: Iterable[Transcript]) -> list[Row]:
    """One row a transcript and variant. Errors are counted against the reference alone: without one they are empty."""
    out: list[Row] = []
    for t in transcripts:
        for x in t.texts:
            s = score(x, t)
            w, c = (s.words, s.characters) if scoring.normalise(t.reference) else (None, None)
            row: Row = {
                "transcript": t.id,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(t.created_s)),
                "source": t.source,
                "length_s": t.length_s,
                "model": x.variant.model,
                "mode": x.variant.spelled,
                "threads": x.variant.placement.threads,
                "text": x.transcription.text if x.transcription else None,
                "reference": t.reference or None,
                "seconds": x.seconds,
                "speedup_ratio": s.speedup_ratio,
                "real_time_ratio": s.real_time_ratio,
                "wer_ratio": w.rate if w else None,
                "cer_ratio": c.rate if c else None,
                "substitutions": w.substitutions if w else None,
                "deletions": w.deletions if w else None,
                "insertions": w.insertions if w else None,
                "reference_words": w.reference_count if w else None,
                "mean_confidence_ratio": s.confidence,
                "error": x.error or None,
                "device": t.device.name if t.device else None,
                **(device_columns(t.device) if t.device else {}),
                "placement": str(x.variant.placement),
            }
            out.append(row)
    columns = dict.fromkeys(name for row in out for name in row)  # other versions may have been there at other times
    columns["placement"] = columns.pop("placement", None)  # it came with a later schema, so it comes last
    return [{name: row.get(name) for name in columns} for row in out]
