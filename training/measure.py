"""Word error rates, with greedy CTC decoding and no language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

import jiwer
import numpy as np
from numpy.typing import NDArray

from training.corpus import Corpus, Utterance
from training.voices import RATE_HZ
from training.words import LABELS

if TYPE_CHECKING:
    from transformers import Wav2Vec2ForCTC


def transcribe(model: Wav2Vec2ForCTC, audio: NDArray[np.float32]) -> str:
    """Return the best letter of every frame, in lower case, without repeats and blanks."""
    import torch

    from training.augment import normalized

    with torch.inference_mode():
        batch = normalized(torch.from_numpy(audio)[None].to(model.device))
        best = model(batch).logits[0].argmax(-1).tolist()  # (frames,)
    kept = [label for label, before in zip(best, [0, *best[:-1]], strict=True) if label != before and label > 3]
    return " ".join("".join(LABELS[label] for label in kept).replace("|", " ").lower().split())


def word_errors(pairs: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Return (errors, words) over all pairs of reference and transcript."""
    rows: Sequence[tuple[str, str]] = list(pairs)
    counts = jiwer.process_words([reference for reference, _ in rows], [transcript for _, transcript in rows])
    return (
        counts.substitutions + counts.deletions + counts.insertions,
        counts.hits + counts.substitutions + counts.deletions,
    )


def held_out(corpus: Corpus) -> Iterator[tuple[str, list[tuple[str, NDArray[np.float32]]]]]:
    """Yield the held-out sets that a corpus has: name, pairs of text and audio."""
    for part in ("seen", "unseen", "an4-held-out"):
        if utterances := corpus.part(part):
            yield part, [(utterance.text, corpus.audio(utterance)) for utterance in utterances]
    if digits := corpus.part("digits-held-out"):
        yield "digits-held-out", list(digit_strings(corpus, digits))


def digit_strings(corpus: Corpus, digits: list[Utterance]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield every recording twice, in strings of 2 to 6 with pauses of 50 to 500 ms, otherwise unchanged."""
    rng = Random("digit strings")
    for _ in range(2):
        remaining = rng.sample(digits, len(digits))
        while remaining:
            count = min(rng.randint(2, 6), len(remaining))
            string, remaining = remaining[:count], remaining[count:]
            pieces = []
            for digit in string:
                pieces += [np.zeros(round(rng.uniform(0.05, 0.5) * RATE_HZ), np.float32), corpus.audio(digit)]
            yield " ".join(digit.text for digit in string), np.concatenate(pieces)
