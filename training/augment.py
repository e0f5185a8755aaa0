"""Augmentation of a batch's audio, for all rows at once and on the training device."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.voices import RATE_HZ

_ECHO = 4000  # samples in the echo of a small room
_KNOTS_HZ = (0, 150, 400, 800, 1400, 2200, 3200, 4500, 8000)


def harder(audio: Tensor, throats: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Augment rows (rows, samples) at random: the vocal tract, an equalizer, a band, a small room and noise.

    Returns the same shape, with zero mean and unit variance per row. On one kind of device, the seed alone decides the
    result.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(2**62)))
    rows, samples = audio.shape
    moved_rows = (throats != 1).nonzero()[:, 0]
    if len(moved_rows):
        audio = audio.index_copy(0, moved_rows, formants_moved(audio[moved_rows], throats[moved_rows]))
    size = samples + _ECHO
    spectrum = torch.fft.rfft(audio, size)  # (rows, bins)
    gain = equalizer(rows, spectrum.shape[1], rng, audio.device) * bands(rows, spectrum.shape[1], rng, audio.device)
    if len(rooms := np.flatnonzero(rng.random(rows) < 0.12)):
        spectrum[rooms] *= torch.fft.rfft(echoes(len(rooms), rng, audio.device), size)
    out = torch.fft.irfft(spectrum * gain, size)[:, :samples]
    return normalized(out + noise(out, rng))


def equalizer(rows: int, bins: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Return gains (rows, bins) up to 8 kHz: decibels linear between knots, as microphones and vocal tracts differ."""
    decibels = _column(rng.normal(0, rng.uniform(0, 8, (rows, 1)), (rows, len(_KNOTS_HZ))), device)
    hz = torch.linspace(0, RATE_HZ / 2, bins, device=device)
    gain = decibels[:, :1].expand(rows, bins)
    for i, (low, high) in enumerate(pairwise(_KNOTS_HZ)):
        gain = gain + decibels[:, i + 1 : i + 2].sub(decibels[:, i : i + 1]) * ((hz - low) / (high - low)).clamp(0, 1)
    return 10 ** (gain / 20)


def bands(rows: int, bins: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Return gains (rows, bins) of a telephone, ending at 3.4 to 4 kHz, and of a narrow band missing below 4 kHz."""
    position = torch.linspace(0, 1, bins, device=device)
    ends = _column(np.where(rng.random((rows, 1)) < 0.4, rng.uniform(0.42, 0.5, (rows, 1)), 2), device)
    low = _column(np.where(rng.random((rows, 1)) < 0.3, rng.uniform(0, 0.5, (rows, 1)), 2), device)
    high = low + _column(rng.uniform(0.01, 0.08, (rows, 1)), device)
    return torch.where((low <= position) & (position < high), 0.05, 1.0) * (position < ends)


def echoes(rows: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Return the impulse responses (rows, samples) of small rooms."""
    decay = _column(rng.uniform(200, 1000, (rows, 1)), device)
    loudness = _column(rng.uniform(0.02, 0.1, (rows, 1)), device)
    echo = torch.randn(rows, _ECHO, device=device) * torch.exp(-torch.arange(_ECHO, device=device) / decay) * loudness
    echo[:, 0] = 1
    return echo


def noise(audio: Tensor, rng: np.random.Generator) -> Tensor:
    """Return noise (rows, samples), 8 to 60 dB below the rows. Half of it is white, half is low-passed, like rain."""
    rows = len(audio)
    snr_db = _column(
        np.where(rng.random((rows, 1)) < 0.7, rng.uniform(8, 40, (rows, 1)), rng.uniform(40, 60, (rows, 1))),
        audio.device,
    )
    lowpass = _column(np.where(rng.random((rows, 1)) < 0.5, rng.uniform(0.3, 0.95, (rows, 1)), 0), audio.device)
    signal = torch.randn_like(audio)
    signal = torch.cat([signal[:, :1], signal[:, 1:] + lowpass * signal[:, :-1]], dim=1)
    power = audio.square().mean(1, keepdim=True) + 1e-8
    return signal * torch.sqrt(power / 10 ** (snr_db / 10) / signal.square().mean(1, keepdim=True))


def formants_moved(audio: Tensor, factors: Tensor) -> Tensor:
    """Shorten the vocal tract of each row by its factor, at the same pitch and pace: stretch its cepstral envelope."""
    window = torch.hann_window(512, device=audio.device)
    frames = torch.stft(audio, 512, 128, window=window, return_complex=True)  # (rows, bins, frames)
    magnitude = frames.abs()
    cepstrum = torch.fft.irfft(torch.log(magnitude + 1e-4 * magnitude.amax((1, 2), keepdim=True) + 1e-8), dim=1)
    cepstrum[:, 32:-31] = 0
    envelope = torch.fft.rfft(cepstrum, dim=1).real
    bins = envelope.shape[1]
    positions = (torch.arange(bins, device=audio.device) / factors[:, None]).clamp(max=bins - 1.001)[..., None]
    lower = positions.long()
    fraction = positions - lower
    stretched = envelope.take_along_dim(lower, 1) * (1 - fraction) + envelope.take_along_dim(lower + 1, 1) * fraction
    frames = frames * torch.exp((stretched - envelope).clamp(-3, 3))
    return torch.istft(frames, 512, 128, window=window, length=audio.shape[1])


def normalized(audio: Tensor) -> Tensor:
    """Normalize rows to zero mean and unit variance, as the model's processor prepares audio."""
    centred = audio - audio.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-7)


def _column(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values).float().to(device)
