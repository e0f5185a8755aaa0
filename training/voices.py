"""Synthetic voices: espeak-ng's English accents in clear variants, and flite's voices of recorded speakers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE_HZ = 16_000
_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-us-nyc", "en-029")
_SEEN_VARIANTS = ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "Andy", "Annie", "Gene", "steph")
_UNSEEN_VARIANTS = ("m5", "m8", "f5", "Michael", "Alicia", "Denis")
FLITE = ("flite:kal16", "flite:awb", "flite:rms", "flite:slt")
ESPEAK = tuple(f"espeak:{accent}+{variant}" for accent in _ACCENTS for variant in _SEEN_VARIANTS)
SEEN = FLITE + ESPEAK
UNSEEN = tuple(f"espeak:{accent}+{variant}" for accent in _ACCENTS for variant in _UNSEEN_VARIANTS)


class VoiceError(RuntimeError):
    """A speech synthesizer is missing or failed."""


def missing() -> str:
    """Return what is not installed and how to install it, or an empty string."""
    absent = [program for program in ("espeak-ng", "flite") if not shutil.which(program)]
    return f"{' and '.join(absent)} not found: apt-get install {' '.join(absent)}" if absent else ""


def draw(voices: tuple[str, ...], rng: Random) -> str:
    """Draw a voice from a list. Of the seen ones, flite's few come nearly as often as espeak-ng's many."""
    if voices == SEEN:
        return rng.choice(FLITE if rng.random() < 0.45 else ESPEAK)
    return rng.choice(voices)


def speak(text: str, voice: str, rng: Random) -> NDArray[np.int16]:
    """Synthesize a sentence at 16 kHz mono, silent ends trimmed.

    The speed is drawn at random, and so is the pitch where the voice allows it. Raises VoiceError.
    """
    program, name = voice.split(":")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        if program == "flite":
            settings = ["--setf", f"duration_stretch={rng.uniform(0.8, 1.3):.2f}"]
            command = ["flite", "-voice", name, *settings, "-t", text, "-o", str(path)]
        else:
            settings = ["-s", str(rng.randint(120, 195)), "-p", str(rng.randint(25, 75))]
            command = ["espeak-ng", "-v", name, *settings, "-w", str(path), text]
        return record(command, path, missing)


def record(
    command: list[str], path: Path, lacking: Callable[[], str], stdin_text: str | None = None
) -> NDArray[np.int16]:
    """Run a synthesizer that writes a file. Return its samples at 16 kHz mono, silent ends trimmed.

    `stdin_text` is the program's standard input. Raises VoiceError, with the text that `lacking` returns, if any.
    """
    try:
        subprocess.run(command, input=stdin_text, text=True, check=True, capture_output=True, timeout=60)
        samples, rate = soundfile.read(path, dtype="float32")
    except (OSError, subprocess.SubprocessError, soundfile.LibsndfileError) as e:
        raise VoiceError(lacking() or f"{' '.join(command)} failed: {e}") from e
    return to_int16(trimmed(resampled(samples, rate)))


def resampled(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample to 16 kHz."""
    if rate == RATE_HZ:
        return samples
    divisor = int(np.gcd(rate, RATE_HZ))
    return np.asarray(resample_poly(samples, RATE_HZ // divisor, rate // divisor), dtype=np.float32)


def trimmed(samples: NDArray[np.float32], margin: int = 800) -> NDArray[np.float32]:
    """Trim the silence at both ends, except for a margin of 50 ms."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max(initial=1e-9))
    if not len(loud):
        return samples
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert to int16, with a peak of 0.8 of full scale."""
    return np.asarray(samples * (0.8 * 32767 / max(float(np.abs(samples).max(initial=0)), 1e-4)), dtype=np.int16)
