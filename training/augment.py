"""What is done to a batch's sound before it is learned from, all rows at once and on the device that learns."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.voices import RATE_HZ

_ECHO = 4000  # samples of a small room
_KNOTS_HZ = (0, 150, 400, 800, 1400, 2200, 3200, 4500, 8000)


def harder(audio: Tensor, throats: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Rows (rows, samples) out of other throats, through an equalizer, a band, a small room and noise, by chance.

    Returns as many samples, each row of zero mean and unit variance. The seed alone decides, on one kind of device.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(2**62)))
    rows, samples = audio.shape
    moved = (throats != 1).nonzero()[:, 0]
    if len(moved):
        audio = audio.index_copy(0, moved, formants_moved(audio[moved], throats[moved]))
    size = samples + _ECHO
    spectrum = torch.fft.rfft(audio, size)  # (rows, bins)
    gain = equalizer(rows, spectrum.shape[1], rng, audio.device) * bands(rows, spectrum.shape[1], rng, audio.device)
    if len(rooms := np.flatnonzero(rng.random(rows) < 0.12)):
        spectrum[rooms] *= torch.fft.rfft(echoes(len(rooms), rng, audio.device), size)
    out = torch.fft.irfft(spectrum * gain, size)[:, :samples]
    return normalized(out + noise(out, rng))


def equalizer(rows: int, bins: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """(rows, bins): gains up to 8 kHz, decibels in lines between knots, as microphones and throats differ."""
    decibels = _column(rng.normal(0, rng.uniform(0, 8, (rows, 1)), (rows, len(_KNOTS_HZ))), device)
    at = torch.linspace(0, RATE_HZ / 2, bins, device=device)
    gain = decibels[:, :1].expand(rows, bins)
    for i, (low, high) in enumerate(pairwise(_KNOTS_HZ)):
        gain = gain + decibels[:, i + 1 : i + 2].sub(decibels[:, i : i + 1]) * ((at - low) / (high - low)).clamp(0, 1)
    return 10 ** (gain / 20)


def bands(rows: int, bins: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """(rows, bins): gains of a telephone, which ends at 3.4 to 4 kHz, and of a narrow band missing below 4 kHz."""
    at = torch.linspace(0, 1, bins, device=device)
    ends = _column(np.where(rng.random((rows, 1)) < 0.4, rng.uniform(0.42, 0.5, (rows, 1)), 2), device)
    low = _column(np.where(rng.random((rows, 1)) < 0.3, rng.uniform(0, 0.5, (rows, 1)), 2), device)
    high = low + _column(rng.uniform(0.01, 0.08, (rows, 1)), device)
    return torch.where((low <= at) & (at < high), 0.05, 1.0) * (at < ends)


def echoes(rows: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """(rows, samples): what a small room answers to a click."""
    decay = _column(rng.uniform(200, 1000, (rows, 1)), device)
    loudness = _column(rng.uniform(0.02, 0.1, (rows, 1)), device)
    echo = torch.randn(rows, _ECHO, device=device) * torch.exp(-torch.arange(_ECHO, device=device) / decay) * loudness
    echo[:, 0] = 1
    return echo


def noise(audio: Tensor, rng: np.random.Generator) -> Tensor:
    """(rows, samples): 8 to 60 dB under the rows; half of it white, half deeper, as rain is."""
    rows = len(audio)
    decibels = _column(
        np.where(rng.random((rows, 1)) < 0.7, rng.uniform(8, 40, (rows, 1)), rng.uniform(40, 60, (rows, 1))),
        audio.device,
    )
    deeper = _column(np.where(rng.random((rows, 1)) < 0.5, rng.uniform(0.3, 0.95, (rows, 1)), 0), audio.device)
    made = torch.randn_like(audio)
    made = torch.cat([made[:, :1], made[:, 1:] + deeper * made[:, :-1]], dim=1)
    power = audio.square().mean(1, keepdim=True) + 1e-8
    return made * torch.sqrt(power / 10 ** (decibels / 10) / made.square().mean(1, keepdim=True))


def formants_moved(audio: Tensor, factors: Tensor) -> Tensor:
    """Same pitch and pace, each row's throat shorter by its factor: its cepstral envelope is stretched."""
    window = torch.hann_window(512, device=audio.device)
    frames = torch.stft(audio, 512, 128, window=window, return_complex=True)  # (rows, bins, frames)
    loud = frames.abs()
    cepstrum = torch.fft.irfft(torch.log(loud + 1e-4 * loud.amax((1, 2), keepdim=True) + 1e-8), dim=1)
    cepstrum[:, 32:-31] = 0
    envelope = torch.fft.rfft(cepstrum, dim=1).real
    bins = envelope.shape[1]
    places = (torch.arange(bins, device=audio.device) / factors[:, None]).clamp(max=bins - 1.001)[..., None]
    whole = places.long()
    share = places - whole
    stretched = envelope.take_along_dim(whole, 1) * (1 - share) + envelope.take_along_dim(whole + 1, 1) * share
    frames = frames * torch.exp((stretched - envelope).clamp(-3, 3))
    return torch.istft(frames, 512, 128, window=window, length=audio.shape[1])


def normalized(audio: Tensor) -> Tensor:
    """Rows of zero mean and unit variance, as the model's processor prepares audio."""
    centred = audio - audio.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-7)


def _column(drawn: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    return torch.from_numpy(drawn).float().to(device)
