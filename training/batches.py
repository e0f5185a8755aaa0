"""Batches: utterances joined into rows of constant length, determined by the seed and the step alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from training.corpus import Corpus, Utterance
from training.voices import RATE_HZ

Array = NDArray[np.float32]
SHAPES = ((2.0, 16), (3.2, 10), (4.8, 7), (8.0, 4))  # (seconds per row, rows): about 32 s, with little padding
SHAPE_ODDS = (0.25, 0.35, 0.3, 0.1)
CURRICULUM_STEPS = 500  # before this step, only the shortest rows
# The probability of each part for a row. The rest is synthetic sentences.
ODDS = {"digits": 0.24, "diphones": 0.18, "accents": 0.16, "an4": 0.08, "prompts": 0.08}
_HUMAN = ("digits", "an4", "prompts", "diphones")
THROATS = (0.7, 1.4)  # range of the factor by which the vocal tract is shortened
THROAT_ODDS = {**dict.fromkeys(_HUMAN, 0.8), "accents": 0.4}  # probability that a row's vocal tract changes; else 0.15


class Batch(NamedTuple):
    """Audio, its texts, and the parameters of `augment.harder`."""

    audio: Array  # (rows, samples), within -1 and 1
    texts: tuple[str, ...]  # one per row, lower case
    throats: Array  # (rows,): factor by which the vocal tract is shortened; 1 changes nothing
    seed: tuple[int, int]


class Batches:
    """The training parts of a corpus as an endless, seeded series of batches."""

    def __init__(
        self, corpus: Corpus, seed: int, curriculum_steps: int = CURRICULUM_STEPS, scale: int = 1, without: str = ""
    ) -> None:
        """`scale`: multiplies the rows of a shape. `without`: a human speaker to leave out."""
        self.corpus, self.seed, self.curriculum_steps = corpus, seed, curriculum_steps
        self.scale, self.without = scale, without
        parts = {"synthetic": corpus.part("train"), **{name: corpus.part(name) for name in ODDS}}
        speakers = {utterance.voice for utterance in parts["digits"]}
        if without and without not in speakers:
            raise ValueError(
                f"No speaker of digits in this corpus is called {without!r}; allowed: {', '.join(sorted(speakers))}."
            )
        parts["digits"] = [utterance for utterance in parts["digits"] if utterance.voice != without]
        self.parts = {name: rows for name, rows in parts.items() if rows}
        odds = np.array([ODDS.get(name, 1 - sum(ODDS.values())) for name in self.parts])
        self.odds = odds / odds.sum()
        self.by_voice: dict[tuple[str, str], list[Utterance]] = {}
        for name, utterances in self.parts.items():
            for utterance in utterances:
                self.by_voice.setdefault((name, utterance.voice), []).append(utterance)

    def at(self, step: int) -> Batch:
        """Return the batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        shape = 0 if step < self.curriculum_steps else int(rng.choice(len(SHAPES), p=SHAPE_ODDS))
        seconds, rows = SHAPES[shape]
        examples = [self._row(round(seconds * RATE_HZ), rng) for _ in range(rows * self.scale)]
        audio, texts, throats = zip(*examples, strict=True)
        return Batch(np.stack(audio), texts, np.array(throats, dtype=np.float32), (self.seed, step))

    def _row(self, samples: int, rng: np.random.Generator) -> tuple[Array, str, float]:
        """Return a row, its text and its throat factor: utterances of one voice with pauses between, as many as fit."""
        part = str(rng.choice(list(self.parts), p=self.odds))
        human = part in _HUMAN
        speed = rng.uniform(0.78, 1.28) if human else rng.uniform(0.88, 1.14)
        pause_s = rng.uniform(0.03, 0.5)
        utterances = self.parts[part]
        pool = self.by_voice[part, utterances[rng.integers(len(utterances))].voice]
        if human and rng.random() < 0.25:
            pool = utterances  # of all speakers
        pieces: list[Array] = []
        texts: list[str] = []
        remaining = samples - int(rng.integers(0, 3200))
        for _ in range(40):
            utterance = pool[rng.integers(len(pool))]
            factor = speed * rng.uniform(0.94, 1.06)
            pace = float(rng.uniform(0.8, 1.3) / factor) if human and rng.random() < 0.5 else 1.0
            gap = int(rng.uniform(0.5, 1.5) * pause_s * RATE_HZ) if pieces else 0
            if utterance.length / (factor * pace) + gap + 2 > remaining:
                if remaining < RATE_HZ // 2:
                    break
                continue
            audio = paced(resampled(self.corpus.audio(utterance), factor, rng if human else None), pace)
            loudness = rng.uniform(0.6, 1) / max(float(np.abs(audio).max()), 1e-4)
            pieces += [np.zeros(gap, dtype=np.float32), audio * np.float32(loudness)]
            texts.append(utterance.text)
            remaining -= gap + len(audio)
        row = np.zeros(samples, dtype=np.float32)
        joined = np.concatenate(pieces) if pieces else row[:0]
        start = int(rng.integers(0, samples - len(joined) + 1))
        row[start : start + len(joined)] = joined
        changes_throat = rng.random() < THROAT_ODDS.get(part, 0.15)
        return row, " ".join(texts), float(np.exp(rng.uniform(*np.log(THROATS)))) if changes_throat else 1.0


def resampled(audio: Array, factor: float, bends: np.random.Generator | None = None) -> Array:
    """Speed audio up by a factor, and raise its pitch, by linear interpolation.

    With `bends`, the speed varies within the audio, because people time a word differently.
    """
    positions = np.arange(0, len(audio) - 1, factor)
    if bends is not None:
        waves_hz, depth = bends.uniform(0.7, 3), bends.uniform(0, 0.15)
        turns = waves_hz / RATE_HZ * positions + bends.random()
        # The derivative of this shift is within twice the depth, so time never runs backwards. Both ends stay in place.
        shift = depth * RATE_HZ / (2 * np.pi * waves_hz) * np.sin(2 * np.pi * turns)
        positions = positions + shift - np.linspace(shift[0], shift[-1], len(shift))
    return np.asarray(np.interp(positions, np.arange(len(audio)), audio).astype(np.float32), dtype=np.float32)


def paced(audio: Array, factor: float) -> Array:
    """Speed audio up by a factor at the same pitch: 32 ms windows, each where it fits best (WSOLA, Verhelst 1993)."""
    if factor == 1:
        return audio
    size, hop, reach = 512, 256, 128
    window = signal.get_window("hann", size).astype(np.float32)
    padded = np.pad(audio, (reach, size + hop + 2 * reach))
    length = int(len(audio) / factor)
    out = np.zeros(length + size, dtype=np.float32)
    position = 0
    for start in range(0, length, hop):
        ideal = min(int(start * factor), len(audio))
        if start:
            continuation, candidates = padded[reach + position + hop :][:size], padded[ideal : ideal + size + 2 * reach]
            fit = np.correlate(candidates[::4], continuation[::4], "valid")  # at 4 kHz, which is enough for the pitch
            position = ideal + 4 * int(fit.argmax()) - reach
        out[start : start + size] += window * padded[reach + position :][:size]
    return out[:length]
