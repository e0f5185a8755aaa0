"""Connectionist temporal classification (CTC, Graves et al. 2006): greedy decoding, labels and loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.core.records import Transcription, Word
from bench.families.family import Array, ModelError

if TYPE_CHECKING:
    import torch

DELIMITERS = ("|", " ")
# By name, because a fine-tuned model's configuration often keeps the ids of another vocabulary.
SPECIAL = frozenset({"<pad>", "<s>", "</s>", "<unk>", "[PAD]", "[UNK]"})


def decode(logits: Array, vocabulary: Mapping[str, int], blank: int, frame_s: float) -> Transcription:
    """Decode greedily: the best token of every frame, repeats merged, blanks dropped.

    logits: (frames, vocab); `frame_s`: seconds per frame. Special tokens, and ids that the vocabulary does not name,
    are dropped after repeats are merged: a tokenizer that skips special tokens drops them earlier, and with them the
    blanks between double letters. Words are separated by single spaces, however many delimiters lie between them.

    A word lasts from the first frame of its first character to the end of the last frame of its last character. Its
    confidence is the mean over its characters of the highest posterior (softmax) in the frames that the character was
    merged from, 0 to 1. It is the model's posterior and not calibrated. Raises ModelError for logits of another shape
    or without a finite maximum.
    """
    if logits.ndim != 2:
        raise ModelError(f"Logits came in shape {logits.shape}; allowed: (frames, vocab). Decode one clip at a time.")
    if not logits.size:
        return Transcription("", ())
    logits = logits.astype(np.float64)
    best, peak = logits.argmax(axis=1), logits.max(axis=1)  # (frames,)
    broken = int((~np.isfinite(peak)).sum())
    if broken:
        raise ModelError(
            f"The model's output is not a number in {broken} of {len(peak)} frames, so it has no text. If the original "
            "model gives text here, this mode breaks the model: choose another one."
        )
    posterior = 1 / np.exp(logits - peak[:, None]).sum(axis=1)  # of the best token; exponents are at most 0

    words = []
    for is_word, run in groupby(_characters(best, vocabulary, blank), key=lambda c: c[0] not in DELIMITERS):
        if is_word:
            text, begins, ends = zip(*run, strict=True)
            confidences = [posterior[begin:end].max() for begin, end in zip(begins, ends, strict=True)]
            words.append(Word("".join(text), begins[0] * frame_s, ends[-1] * frame_s, float(np.mean(confidences))))
    return Transcription(" ".join(word.text for word in words), tuple(words))


def encode(text: str, vocabulary: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Text -> (tokens,): letters in the vocabulary's case, its delimiter between words, all else left out."""
    delimiter = next((d for d in DELIMITERS if d in vocabulary), "")
    tokens = []
    for character in delimiter.join(text.split()):
        token = next((c for c in (character, character.upper(), character.lower()) if c in vocabulary), None)
        if token is not None:
            tokens.append(vocabulary[token])
    return np.array(tokens, dtype=np.int64)


def loss(logits: Any, labels: npt.NDArray[np.int64], blank: int) -> torch.Tensor:
    """Return one clip's CTC loss divided by its number of labels; logits (1, frames, vocab), labels (tokens,)."""
    import torch
    from torch.nn.functional import ctc_loss, log_softmax

    log_p = log_softmax(logits, dim=-1).transpose(0, 1)  # (frames, 1, vocab)
    frames, tokens = torch.tensor([log_p.shape[0]]), torch.tensor([len(labels)])
    # A text with more tokens than the clip has frames would give an infinite loss.
    return ctc_loss(log_p, torch.from_numpy(labels)[None], frames, tokens, blank, "mean", zero_infinity=True)


def _characters(
    best: npt.NDArray[np.intp], vocabulary: Mapping[str, int], blank: int
) -> Iterator[tuple[str, int, int]]:
    """Yield (token, first frame, end frame) of every run of frames whose token is kept; the end is exclusive."""
    tokens = {i: token for token, i in vocabulary.items() if token not in SPECIAL and i != blank}
    edges = np.flatnonzero(np.diff(best)) + 1
    begins, ends = [0, *edges.tolist()], [*edges.tolist(), len(best)]
    for begin, end in zip(begins, ends, strict=True):
        token = tokens.get(int(best[begin]))
        if token is not None:
            yield token, begin, end
