"""The child process that computes one mel spectrogram: `python -m bench.sound.spectrogram SOURCE TARGET SECONDS`.

SOURCE holds (n,) float32 at 16 kHz. It writes (BANDS, columns) float32 in dB to TARGET and prints one line of JSON.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import Array, AudioError
from bench.sound.decoder import answer_within_limits
from bench.sound.mel import BANDS, MAX_COLUMNS, RANGE_DB, TOP_HZ

WINDOW = 400  # samples: 25 ms, as speech models take it
HOP = 160  # samples: 10 ms
FFT = 1024  # zero-padded, so that the narrow bands at the bottom contain a bin each
BLOCK = 2000  # frames that are transformed at once: a few MB


def levels_db(samples: Array) -> tuple[Array, float]:
    """(BANDS, columns) in dB below the loudest, and a column's seconds. Raises AudioError.

    A column is the mean power of as many frames as keep the columns within MAX_COLUMNS.
    """
    # Not `librosa.feature`: the filters alone take half as long to import, and compile nothing.
    from librosa.filters import mel

    if not np.isfinite(samples).all():
        raise AudioError("some of its samples are not numbers. Save it again.")
    filters = mel(sr=SAMPLE_RATE_HZ, n_fft=FFT, n_mels=BANDS, fmax=TOP_HZ, htk=True)  # (BANDS, FFT / 2 + 1)
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    frame_count = math.ceil(len(samples) / HOP)
    padded = np.zeros((frame_count - 1) * HOP + WINDOW, np.float32)  # each frame's centre is its column's
    start = (WINDOW - HOP) // 2
    padded[start : start + len(samples)] = samples[: len(padded) - start]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # (frame_count, WINDOW)
    power = np.concatenate(
        [
            np.abs(np.fft.rfft(frames[i : i + BLOCK] * window, FFT)) ** 2 @ filters.T
            for i in range(0, frame_count, BLOCK)
        ]
    )  # (frame_count, BANDS)
    frames_per_column = math.ceil(frame_count / MAX_COLUMNS)
    starts = np.arange(0, frame_count, frames_per_column)
    sizes = np.diff([*starts, frame_count])[:, None]
    columns = np.add.reduceat(power, starts) / sizes
    loudest = columns.max()
    if loudest <= 0:
        raise AudioError("it is silent: all of its samples are 0. Check that the microphone is not muted.")
    decibels = 10 * np.log10(np.maximum(columns / loudest, 10 ** (-RANGE_DB / 10)))
    return decibels.T.astype(np.float32), frames_per_column * HOP / SAMPLE_RATE_HZ


def _compute(source: Path, target: Path) -> dict[str, Any]:
    levels, column_s = levels_db(np.load(source, allow_pickle=False))
    np.save(target, levels, allow_pickle=False)
    return {"column_s": column_s}


if __name__ == "__main__":
    source, target, seconds = sys.argv[1:]
    answer_within_limits(
        float(seconds),
        lambda: _compute(Path(source), Path(target)),
        task="computing it",
        failure="it can't be computed",
    )
