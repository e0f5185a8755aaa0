"""Batches: utterances joined to rows of a constant length and made harder, by the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from training.corpus import Corpus, Utterance
from training.voices import RATE_HZ

Array = NDArray[np.float32]
SHAPES = ((2.0, 16), (3.2, 10), (4.8, 7), (8.0, 4))  # seconds of a row, rows: about 32 s, little of it padding
SHAPE_ODDS = (0.25, 0.35, 0.3, 0.1)
CURRICULUM_STEPS = 500  # until then only the shortest rows
_ECHO = 4000  # samples of a small room
ODDS = {"digits": 0.4, "accents": 0.15, "an4": 0.05}  # of a row; the rest is synthetic sentences
_HUMAN = ("digits", "an4")
THROAT_ODDS = {"digits": 0.8, "an4": 0.8, "accents": 0.4}  # of a row to come out of another throat; else 0.15


@dataclass(frozen=True)
class Batch:
    """audio: (rows, samples), zero mean and unit variance a row. texts: one a row, lower case."""

    audio: Array
    texts: tuple[str, ...]


class Batches:
    """The training parts of a corpus as an endless, seeded series of batches."""

    def __init__(self, corpus: Corpus, seed: int, curriculum_steps: int = CURRICULUM_STEPS) -> None:
        self.corpus, self.seed, self.curriculum_steps = corpus, seed, curriculum_steps
        parts = {"synthetic": corpus.part("train"), **{name: corpus.part(name) for name in ODDS}}
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
        made = [self._row(round(seconds * RATE_HZ), rng) for _ in range(rows)]
        return Batch(np.stack([audio for audio, _ in made]), tuple(text for _, text in made))

    def _row(self, samples: int, rng: np.random.Generator) -> tuple[Array, str]:
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
            audio = paced(resampled(self.corpus.audio(utterance), factor), pace)
            loudness = rng.uniform(0.6, 1) / max(float(np.abs(audio).max()), 1e-4)
            pieces += [np.zeros(gap, dtype=np.float32), audio * np.float32(loudness)]
            texts.append(utterance.text)
            left -= gap + len(audio)
        row = np.zeros(samples, dtype=np.float32)
        joined = np.concatenate(pieces) if pieces else row[:0]
        start = int(rng.integers(0, samples - len(joined) + 1))
        row[start : start + len(joined)] = joined
        if rng.random() < THROAT_ODDS.get(part, 0.15):
            row = formants_moved(row, float(np.exp(rng.uniform(np.log(0.75), np.log(1.3)))))
        return normalized(harder(row, rng)), " ".join(texts)


def resampled(audio: Array, factor: float) -> Array:
    """Faster and higher by a factor, by linear interpolation."""
    places = np.arange(0, len(audio) - 1, factor)
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


def harder(audio: Array, rng: np.random.Generator) -> Array:
    """A row through a random equalizer, a telephone's band, a small room and noise, by chance. Keeps the length."""
    size = fft.next_fast_len(len(audio) + _ECHO, real=True)
    spectrum = fft.rfft(audio, size)
    spectrum *= equalizer(len(spectrum), rng)
    if rng.random() < 0.12:
        decay = np.exp(-np.arange(_ECHO, dtype=np.float32) / rng.uniform(200, 1000))
        echo = rng.standard_normal(_ECHO, dtype=np.float32) * decay * np.float32(rng.uniform(0.02, 0.1))
        echo[0] = 1
        spectrum *= fft.rfft(echo, size)
    if rng.random() < 0.4:
        spectrum[int(rng.uniform(0.42, 0.5) * len(spectrum)) :] = 0
    out: Array = fft.irfft(spectrum, size)[: len(audio)]
    decibels = rng.uniform(8, 40) if rng.random() < 0.7 else rng.uniform(40, 60)
    noise = rng.standard_normal(len(out), dtype=np.float32)
    if rng.random() < 0.5:  # as rain, or deeper
        noise[1:] += np.float32(rng.uniform(0.3, 0.95)) * noise[:-1]
    power = float(np.square(out).mean()) + 1e-8
    noise *= np.float32(np.sqrt(power / 10 ** (decibels / 10) / np.square(noise).mean()))
    made: Array = out + noise
    return made


def equalizer(bins: int, rng: np.random.Generator) -> Array:
    """A gain for each bin up to 8 kHz: decibels up and down in a smooth curve, as microphones and throats differ."""
    knots = np.array([0, 150, 400, 800, 1400, 2200, 3200, 4500, 8000]) / 8000 * bins
    decibels = rng.normal(0, rng.uniform(0, 8), len(knots))
    return np.asarray(10 ** (np.interp(np.arange(bins), knots, decibels) / 20), dtype=np.float32)


def formants_moved(audio: Array, factor: float) -> Array:
    """Same pitch and pace, out of a throat shorter by a factor: the cepstral envelope is stretched over frequency."""
    _, _, frames = signal.stft(audio, nperseg=512, noverlap=384)  # (bins, frames)
    loud = np.abs(frames)
    cepstrum = fft.irfft(np.log(loud + 1e-4 * loud.max() + 1e-8), axis=0)
    cepstrum[32:-31] = 0
    envelope = fft.rfft(cepstrum, axis=0).real
    places = np.minimum(np.arange(len(envelope)) / factor, len(envelope) - 1.001)
    whole = places.astype(int)
    share = (places - whole).astype(np.float32)[:, None]
    stretched = envelope[whole] * (1 - share) + envelope[whole + 1] * share
    _, out = signal.istft(frames * np.exp(np.clip(stretched - envelope, -3, 3)), nperseg=512, noverlap=384)
    return np.asarray(np.resize(out, len(audio)), dtype=np.float32)


def normalized(audio: Array) -> Array:
    """Zero mean, unit variance, as the model's processor prepares audio."""
    centred = audio - audio.mean()
    return np.asarray(centred / np.sqrt(centred.var() + 1e-7), dtype=np.float32)
