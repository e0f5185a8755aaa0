"""Word and character errors of texts, aligned words, and a variant's WER compared with its baseline's.

A rate is summed errors over summed words or characters, never a mean of ratios. The `Errors` of clips add up to those
of the corpus.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from bench.core.stats import CONFIDENCE

if TYPE_CHECKING:
    import jiwer

_DRAWS_AT_ONCE = 2**20  # 8 MB of indices at most, for any number of clips and resamples
_APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ`´"), "'")


@dataclass(frozen=True, slots=True)
class Normaliser:
    """A function that is applied to both texts before they are compared, and the note that describes it to users."""

    note: str
    apply: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Errors:
    """Unit counts (words or characters) of a minimum-error alignment of a hypothesis with its reference.

    The number of errors is the edit distance (Levenshtein 1966). Its split into kinds may differ between tools where
    several alignments reach the minimum.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference_count(self) -> int:
        """Number of units in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def count(self) -> int:
        """Number of errors of all kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit. Above 1 with many insertions; None if the reference is empty."""
        return self.count / self.reference_count if self.reference_count else None


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of neighbouring words in an alignment that are all of one kind."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    reference: tuple[str, ...]  # empty for insert
    hypothesis: tuple[str, ...]  # empty for delete


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant's WER and its difference from the baseline's, with 95 % intervals. None: can't be computed."""

    wer: float | None
    wer_low: float | None
    wer_high: float | None
    delta: float | None  # variant minus baseline: above 0 the variant is worse
    delta_low: float | None
    delta_high: float | None
    no_worse_ratio: float | None  # share of clips on which the variant has at most as many errors as the baseline


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _basic(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = "".join(" " if c != "'" and unicodedata.category(c).startswith("P") else c for c in text)
    return _collapsed(re.sub(r"(?<!\w)'|'(?!\w)", " ", text))


NORMALISERS: dict[str, Normaliser] = {
    "basic": Normaliser(
        "Lower case; punctuation but apostrophes within words becomes a space; compatible characters (NFKC) are one.",
        _basic,
    ),
    "none": Normaliser(
        "Texts as they are, but for white space: case and punctuation count as differences.", _collapsed
    ),
}


def normalise(text: str, name: str = "basic") -> str:
    """Normalised text, with single spaces between words. Raises ValueError for an unknown normaliser."""
    if name not in NORMALISERS:
        raise ValueError(f"There is no text normaliser “{name}”. Allowed: {', '.join(NORMALISERS)}.")
    return NORMALISERS[name].apply(text)


def words(reference: str, hypothesis: str, normaliser: str = "basic") -> Errors:
    """Word errors; their rate is the WER. Either text may be empty."""
    return _errors(_aligned(reference, hypothesis, normaliser))


def characters(reference: str, hypothesis: str, normaliser: str = "basic") -> Errors:
    """Character errors, spaces between words included; their rate is the CER. Either text may be empty."""
    import jiwer  # imported late: workers use `Errors` but never count them

    return _errors(jiwer.process_characters(normalise(reference, normaliser), normalise(hypothesis, normaliser)))


def align(reference: str, hypothesis: str, normaliser: str = "basic") -> list[Piece]:
    """The two texts' aligned words, in order. Together the pieces hold every normalised word exactly once."""
    alignment = _aligned(reference, hypothesis, normaliser)
    reference_words, hypothesis_words = alignment.references[0], alignment.hypotheses[0]
    return [
        Piece(
            cast(Literal["equal", "substitute", "delete", "insert"], chunk.type),
            tuple(reference_words[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hypothesis_words[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in alignment.alignments[0]
    ]


def bootstrap(
    baseline: Sequence[Errors], variant: Sequence[Errors], seed: int = 0, resamples: int = 10_000
) -> Comparison:
    """The variant's WER and its difference from the baseline's, with bootstrap intervals paired by clip.

    Both arguments hold word errors of the same clips in the same order. Each resample draws clips with replacement, the
    same ones for both, and the intervals are percentiles over the resamples (Bisani and Ney 2004, "Bootstrap estimates
    for confidence intervals in ASR performance evaluation"). The intervals show how much the choice of clips matters.
    They are None for fewer than two clips or if no reference has a word. The same seed draws the same clips for every
    variant. Raises ValueError if the arguments can't be of the same clips.
    """
    if len(baseline) != len(variant):
        raise ValueError(
            f"The baseline has {len(baseline)} clips and the variant {len(variant)}; a comparison is paired by clip. "
            "Give the errors of the clips that both have."
        )
    for i, (b, v) in enumerate(zip(baseline, variant, strict=True)):
        if b.reference_count != v.reference_count:
            raise ValueError(
                f"Clip {i}'s reference has {b.reference_count} words for the baseline and {v.reference_count} for the "
                "variant. Give the clips in the same order, scored by the same normaliser."
            )
    clips = len(variant)
    no_worse = sum(v.count <= b.count for b, v in zip(baseline, variant, strict=True))
    no_worse_ratio = no_worse / clips if clips else None
    # Rows: reference words, errors of the variant, errors of the variant minus errors of the baseline.
    table = np.array([(v.reference_count, v.count, v.count - b.count) for b, v in zip(baseline, variant, strict=True)])
    table = table.reshape(clips, 3).T.astype(np.float64)  # (3, clips)
    reference, errors, extra_errors = table.sum(axis=1)
    if not reference:
        return Comparison(None, None, None, None, None, None, no_worse_ratio)
    wer, delta = float(errors / reference), float(extra_errors / reference)
    if clips < 2:
        return Comparison(wer, None, None, delta, None, None, no_worse_ratio)
    rng, sums, rows = np.random.default_rng(seed), np.empty((3, resamples)), max(1, _DRAWS_AT_ONCE // clips)
    for first in range(0, resamples, rows):
        clip_indices = rng.integers(0, clips, (min(rows, resamples - first), clips))
        for row, values in zip(sums, table, strict=True):
            row[first : first + rows] = values[clip_indices].sum(axis=1)
    sums = sums[:, sums[0] > 0]  # if few clips have words, a resample may have none
    tail = 100 * (1 - CONFIDENCE) / 2
    (wer_low, wer_high), (delta_low, delta_high) = (
        (float(low), float(high)) for low, high in np.percentile(sums[1:] / sums[0], [tail, 100 - tail], axis=1).T
    )
    return Comparison(wer, wer_low, wer_high, delta, delta_low, delta_high, no_worse_ratio)


def _aligned(reference: str, hypothesis: str, normaliser: str) -> jiwer.WordOutput:
    import jiwer

    return jiwer.process_words(normalise(reference, normaliser), normalise(hypothesis, normaliser))


def _errors(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> Errors:
    return Errors(alignment.hits, alignment.substitutions, alignment.deletions, alignment.insertions)
