"""Decodes any audio to 16 kHz mono float32, bounded in bytes, seconds and memory; writes WAVs, computes waveforms.

`decode` runs a short-lived child process, `bench.sound.decoder`. A malicious file can crash or starve only that child,
and the dashboard's process imports neither libsndfile nor the resampler.
"""

from __future__ import annotations

import io
import math
import shutil
import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.core import child, paths, units
from bench.core.errors import EarbenchError
from bench.core.specs import SAMPLE_RATE_HZ

Array = npt.NDArray[np.float32]

MAX_FILE_BYTES = 200_000_000
MAX_DURATION_S = 600.0
DECODE_S = 60.0
STALE_S = 86400.0  # age at which a folder counts as left by a killed server: no transcription takes so long

SILENT_DBFS = -60.0  # of the peak without the DC offset
QUIET_DBFS = -35.0
FULL_SCALE = 1 - 2.0**-15  # the highest 16-bit sample
CLIPPED_RATIO = 0.001
DC_OFFSET = 0.02
SHORT_S = 0.2
_FFMPEG_FIX = "Debian: sudo apt install ffmpeg; macOS: brew install ffmpeg"
_FORMATS = "WAV, FLAC, OGG, Opus and MP3, and M4A, AAC and WebM through ffmpeg"


class AudioError(EarbenchError):
    """Audio can't be read; the text says what was received, what is allowed and how to fix it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Decoded audio.

    `samples`: (n,) float32 at 16 kHz in [-1, 1], n > 0. `remarks`: sentences on what may degrade a transcription.
    """

    samples: Array
    source_rate_hz: int
    source_channels: int
    remarks: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


def decode(path: Path, timeout_s: float = DECODE_S, name: str | None = None) -> Sound:
    """Decode a file to 16 kHz mono. Its content determines the format, not its extension.

    Any container, rate and number of channels within the limits. `name` replaces the file's name in messages. Raises
    AudioError.
    """
    path, name = path.resolve(), name or path.name
    if not path.is_file():
        raise AudioError(f"{name}: there is no such file.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise AudioError(
            f"{name}: the file has {units.size(size)}; allowed: {units.size(MAX_FILE_BYTES)}. Cut it, or save it "
            "as FLAC."
        )
    if not size:
        raise AudioError(f"{name}: the file is empty.")
    with temporary_folder() as folder:
        target = folder / "samples.npy"
        answer = child.ask("bench.sound.decoder", str(path), str(target), str(timeout_s), timeout_s=timeout_s)
        if "error" in answer:
            raise AudioError(f"{name}: {answer['error']}")
        samples: Array = np.load(target, allow_pickle=False)
    return Sound(samples, answer["rate_hz"], answer["channels"], tuple(answer["remarks"]))


def decode_bytes(data: bytes, name: str, timeout_s: float = DECODE_S) -> Sound:
    """Like `decode`, for bytes that a browser sent. Nothing stays on disk."""
    with temporary_folder() as folder:
        source = folder / "source"
        try:
            source.write_bytes(data)
        except OSError as e:
            raise AudioError(f"{name}: can't be stored for decoding ({e.strerror}). Free some space.") from e
        return decode(source, timeout_s, name)


def remarks(samples: Array, clipped_ratio: float | None = None) -> tuple[str, ...]:
    """Sentences on silence, level, clipping, DC offset and length of (n,) samples at 16 kHz.

    `clipped_ratio` is the share of samples at full scale before resampling; by default it is computed from `samples`.
    """
    sentences = []
    if clipped_ratio is None:
        clipped_ratio = float(np.mean(np.abs(samples) >= FULL_SCALE)) if len(samples) else 0.0
    if len(samples) < SHORT_S * SAMPLE_RATE_HZ:
        sentences.append(f"Only {len(samples) / SAMPLE_RATE_HZ:.3f} s long: too short for a word.")
    if not len(samples):
        return tuple(sentences)
    offset = float(samples.mean(dtype=np.float64))
    peak_dbfs = dbfs(max(float(samples.max()) - offset, offset - float(samples.min())))
    if peak_dbfs < SILENT_DBFS:
        sentences.append("Silence: the sound is empty. Check that the microphone is not muted.")
    elif peak_dbfs < QUIET_DBFS:
        sentences.append(f"Very quiet: it peaks at {peak_dbfs:.0f} dB of full scale. Go nearer or raise the gain.")
    if clipped_ratio >= CLIPPED_RATIO:
        sentences.append(f"Clipped: {clipped_ratio:.1%} of the samples are at full scale. Lower the gain.")
    if abs(offset) > DC_OFFSET:
        sentences.append(
            f"It has a DC offset of {offset:+.2f} of full scale, which points to a faulty input. It was kept."
        )
    return tuple(sentences)


def dbfs(amplitude: float) -> float:
    """An amplitude in dB of full scale, at least -100: zero would be -infinity, which JSON can't represent."""
    return 20 * math.log10(max(amplitude, 1e-5))


def wav_bytes(samples: Array) -> bytes:
    """Encode (n,) samples as a 16-bit mono WAV at 16 kHz. Samples decoded from 16 bits keep their exact values."""
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(SAMPLE_RATE_HZ)
        f.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return out.getvalue()


def write_wav(path: Path, samples: Array) -> None:
    """Write `wav_bytes` to a file atomically: it is complete or absent."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(wav_bytes(samples))
    part.replace(path)


def peaks(samples: Array, count: int) -> Array:
    """Lowest and highest sample of `count` equal stretches, (count, 2), for a waveform. Zeros if there are none."""
    if not len(samples):
        return np.zeros((count, 2), np.float32)
    starts = np.arange(count) * len(samples) // count
    return np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)], axis=1)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder in the cache, deleted afterwards. Also deletes those that killed servers left."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    for leftover in paths.cache().glob("sound-*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_S:
                shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="sound-", dir=paths.cache(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def ffmpeg_missing() -> str:
    """A sentence on what can't be read without ffmpeg, and the fix; "" if ffmpeg is installed."""
    if shutil.which("ffmpeg"):
        return ""
    return f"ffmpeg is not installed, so M4A, AAC and WebM can't be read; all else can. {_FFMPEG_FIX}"
