"""Batches: utterances joined to rows of a constant length, by the seed and the step alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from training.corpus import Corpus, Utterance
from training.voices import RATE_HZ

Array = NDArray[np.float32]
SHAPES = ((2.0, 16), (3.2, 10), (4.8, 7), (8.0, 4))  # seconds of a row, rows: about 32 s, little of it padding
SHAPE_ODDS = (0.25, 0.35, 0.3, 0.1)
CURRICULUM_STEPS = 500  # until then only the shortest rows
# Of a row; the rest is synthetic sentences.
ODDS = {"digits": 0.24, "diphones": 0.18, "accents": 0.16, "an4": 0.08, "prompts": 0.08}
_HUMAN = ("digits", "an4", "prompts", "diphones")
THROATS = (0.7, 1.4)  # how much shorter
THROAT_ODDS = {**dict.fromkeys(_HUMAN, 0.8), "accents": 0.4}  # of a row to come out of another throat; else 0.15


class Batch(NamedTuple):
    """Audio and what is said there, and what `augment.harder` shall make of it."""

    audio: Array  # (rows, samples), within -1 and 1
    texts: tuple[str, ...]  # one a row, lower case
    throats: Array  # (rows,): how much shorter the throat shall be; 1 is as it was
    seed: tuple[int, int]


class Batches:
    """The training parts of a corpus as an endless, seeded series of batches."""

    def __init__(
        self, corpus: Corpus, seed: int, curriculum_steps: int = CURRICULUM_STEPS, scale: int = 1, without: str = ""
    ) -> None:
        """scale: how many times the rows of a shape. without: a human speaker to leave out."""
        self.corpus, self.seed, self.curriculum_steps = corpus, seed, curriculum_steps
        self.scale, self.without = scale, without
        parts = {"synthetic": corpus.part("train"), **{name: corpus.part(name) for name in ODDS}}
        speakers = {utterance.voice for utterance in parts["digits"]}
        if without and without not in speakers:
            raise ValueError(
                f"Nobody in this corpus says digits as {without!r}; allowed: {', '.join(sorted(speakers))}."
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
        """The batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        shape = 0 if step < self.curriculum_steps else int(rng.choice(len(SHAPES), p=SHAPE_ODDS))
        seconds, rows = SHAPES[shape]
        made = [self._row(round(seconds * RATE_HZ), rng) for _ in range(rows * self.scale)]
        audio, texts, throats = zip(*made, strict=True)
        return Batch(np.stack(audio), texts, np.array(throats, dtype=np.float32), (self.seed, step))

    def _row(self, samples: int, rng: np.random.Generator) -> tuple[Array, str, float]:
        """Utterances of one voice with pauses between, as many as fit."""
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
        left = samples - int(rng.integers(0, 3200))
        for _ in range(40):
            utterance = pool[rng.integers(len(pool))]
            factor = speed * rng.uniform(0.94, 1.06)
            pace = float(rng.uniform(0.8, 1.3) / factor) if human and rng.random() < 0.5 else 1.0
            gap = int(rng.uniform(0.5, 1.5) * pause_s * RATE_HZ) if pieces else 0
            if utterance.length / (factor * pace) + gap + 2 > left:
                if left < RATE_HZ // 2:
                    break
                continue
            audio = paced(resampled(self.corpus.audio(utterance), factor, rng if human else None), pace)
            loudness = rng.uniform(0.6, 1) / max(float(np.abs(audio).max()), 1e-4)
            pieces += [np.zeros(gap, dtype=np.float32), audio * np.float32(loudness)]
            texts.append(utterance.text)
            left -= gap + len(audio)
        row = np.zeros(samples, dtype=np.float32)
        joined = np.concatenate(pieces) if pieces else row[:0]
        start = int(rng.integers(0, samples - len(joined) + 1))
        row[start : start + len(joined)] = joined
        moved = rng.random() < THROAT_ODDS.get(part, 0.15)
        return row, " ".join(texts), float(np.exp(rng.uniform(*np.log(THROATS)))) if moved else 1.0


def resampled(audio: Array, factor: float, bends: np.random.Generator | None = None) -> Array:
    """Faster and higher by a factor, by linear interpolation; it may bend to and fro, as no two people time a word."""
    places = np.arange(0, len(audio) - 1, factor)
    if bends is not None:
        waves_hz, depth = bends.uniform(0.7, 3), bends.uniform(0, 0.15)
        turns = waves_hz / RATE_HZ * places + bends.random()
        # The derivative of this shift is within twice the depth: time never runs backwards. Both ends stay.
        shift = depth * RATE_HZ / (2 * np.pi * waves_hz) * np.sin(2 * np.pi * turns)
        places = places + shift - np.linspace(shift[0], shift[-1], len(shift))
    return np.asarray(np.interp(places, np.arange(len(audio)), audio).astype(np.float32), dtype=np.float32)


def paced(audio: Array, factor: float) -> Array:
    """Faster by a factor at the same pitch: windows of 32 ms laid where they fit on best (WSOLA, Verhelst 1993)."""
    if factor == 1:
        return audio
    size, hop, reach = 512, 256, 128
    window = signal.get_window("hann", size).astype(np.float32)
    padded = np.pad(audio, (reach, size + hop + 2 * reach))
    length = int(len(audio) / factor)
    out = np.zeros(length + size, dtype=np.float32)
    at = 0
    for start in range(0, length, hop):
        ideal = min(int(start * factor), len(audio))
        if start:
            follows, candidates = padded[reach + at + hop :][:size], padded[ideal : ideal + size + 2 * reach]
            fit = np.correlate(candidates[::4], follows[::4], "valid")  # at 4 kHz, which holds the pitch
            at = ideal + 4 * int(fit.argmax()) - reach
        out[start : start + size] += window * padded[reach + at :][:size]
    return out[:length]
