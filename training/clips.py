"""A set of clips for evaluation and calibration: sentences that are never in the training data, and a manifest."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray

from training import voices, words

SHORTEST_S, LONGEST_S = 3.0, 20.0
Clip = tuple[str, str, NDArray[np.int16]]  # voice's kind and name, text in the vocabulary's upper case, samples


def make(folder: Path, wanted_words: int, seed: int) -> int:
    """Write clips of 3 to 20 s until they have `wanted_words` words, every fourth for calibration. Return their number.

    Seen and unseen voices take turns. A longer clip is several sentences of one voice with pauses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    count = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, wanted_words, 16):
            for i, (name, text, samples) in enumerate(
                pool.map(one, range(first, first + 16), [seed] * 16), start=first
            ):
                path = f"{name}-{i:03d}.flac"
                soundfile.write(folder / path, samples, voices.RATE_HZ, subtype="PCM_16")
                rows.append((path, text, "calibrate" if i // 2 % 4 == 3 else "evaluate"))
                count += len(text.split())
                if count >= wanted_words:
                    _write(folder / "manifest.csv", rows)
                    return len(rows)
    raise AssertionError("every clip holds a word")


def one(index: int, seed: int) -> Clip:
    """Return the clip with this index."""
    rng = Random(f"clip {seed} {index}")
    kind, voice_names = (("seen", voices.SEEN), ("unseen", voices.UNSEEN))[index % 2]
    voice = voices.draw(voice_names, rng)
    texts = words.sentences(rng.getrandbits(32), "evaluate")
    target_s = rng.choice((3, 3, 3, 4, 4, 5, 6, 8, 15))
    pieces = [np.zeros(0, dtype=np.int16)]
    sentences: list[str] = []
    for text, speech in _spoken(texts, voice, rng):
        pause = np.zeros(round(rng.uniform(0.2, 0.7) * voices.RATE_HZ), dtype=np.int16)
        if sum(map(len, pieces)) + len(speech) + len(pause) > LONGEST_S * voices.RATE_HZ:
            break
        pieces += [speech, pause]
        sentences.append(text)
        if sum(map(len, pieces)) >= max(SHORTEST_S, target_s) * voices.RATE_HZ:
            break
    name = f"{kind}-{voice.replace(':', '-').replace('+', '-').lower()}"
    return name, " ".join(sentences).upper(), np.concatenate(pieces)


def _spoken(texts: Iterator[str], voice: str, rng: Random) -> Iterator[tuple[str, NDArray[np.int16]]]:
    for text in texts:
        yield text, voices.speak(text, voice, rng)


def _write(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(("path", "text", "split"))
        writer.writerows(sorted(rows))
