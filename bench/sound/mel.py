"""Mel spectrograms, computed by a short-lived child process, `bench.sound.spectrogram`, because librosa is large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.core import child
from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import Array, AudioError, temporary_folder

BANDS = 80
TOP_HZ = SAMPLE_RATE_HZ / 2
RANGE_DB = 80.0  # what is further below the loudest is drawn as if it were so far below
MAX_COLUMNS = 800
MEL_S = 120.0  # the first import of librosa reads much from the disk


@dataclass(frozen=True, slots=True, eq=False)
class Mel:
    """A mel spectrogram: `levels_db` is (BANDS, columns), lowest band first, from -RANGE_DB to 0, the loudest.

    A column covers `column_s` seconds; the first begins at 0.
    """

    levels_db: Array
    column_s: float


def spectrogram(samples: Array, timeout_s: float = MEL_S) -> Mel:
    """The mel spectrogram of (n,) samples at 16 kHz, with at most MAX_COLUMNS columns. Raises AudioError."""
    if not len(samples):
        raise AudioError("There is no spectrogram of this sound: it has no samples. Choose or record another one.")
    with temporary_folder() as folder:
        source, target = folder / "samples.npy", folder / "levels.npy"
        try:
            np.save(source, samples, allow_pickle=False)
        except OSError as e:
            raise AudioError(f"The spectrogram can't be computed ({e.strerror}). Free some space.") from e
        answer = child.ask("bench.sound.spectrogram", str(source), str(target), str(timeout_s), timeout_s=timeout_s)
        if "error" in answer:
            raise AudioError(f"There is no spectrogram of this sound: {answer['error']}")
        levels: Array = np.load(target, allow_pickle=False)
    return Mel(levels, answer["column_s"])
