"""The child process that decodes one file: `python -m bench.sound.decoder SOURCE TARGET SECONDS`.

It writes (n,) float32 at 16 kHz to TARGET, a .npy file, and prints one line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bench.core import units
from bench.core.child import Child
from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import _FFMPEG_FIX, _FORMATS, FULL_SCALE, MAX_DURATION_S, Array, AudioError, remarks

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
CHILD_MEMORY_BYTES = 1_000_000_000  # address space: the libraries take 0.1 GB of it, the longest sound 0.1 GB
BLOCK_FRAMES = 16_384

# The formats that ffmpeg may detect: containers only. Playlists and similar formats open other files and addresses.
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,matroska,mov,mp3,mpegts,ogg,wav,wv"


# --- the code below runs only in the child


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream of (frames, channels) blocks at the source's rate. Iterating `blocks` may end in a RuntimeError."""

    rate_hz: int
    channels: int
    promised_frames: int | None  # from the header, which may be wrong
    blocks: Iterator[Array]


def _by_libsndfile(source: Path) -> _Stream | None:
    """Open a file with libsndfile; None if it does not know the format."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """Disables seeking: soundfile seeks after each block, and fails if the length is unknown or false."""

        def seekable(self) -> bool:
            return False

    try:  # by descriptor: given a path, libsndfile would trust the extension
        file = Forward(os.open(source, os.O_RDONLY))
    except soundfile.LibsndfileError:
        return None

    def blocks() -> Iterator[Array]:
        while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            yield block

    return _Stream(file.samplerate, file.channels, file.frames if file.frames < 2**62 else None, blocks())


def _by_ffmpeg(source: Path) -> _Stream:
    """Open a file with ffmpeg. Raises AudioError if ffmpeg is missing or can't read the file."""
    program = shutil.which("ffmpeg")
    if not program:
        raise AudioError(f"not a sound that can be read without ffmpeg ({_FFMPEG_FIX}). Or save it as WAV.")
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this process
    restrictions = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-threads", "1"]
    output = [
        "-map",
        "0:a:0",
        "-t",
        str(MAX_DURATION_S + 1),
        "-threads",
        "1",
        "-c:a",
        "pcm_f32be",
        "-f",
        "au",
        "pipe:1",
    ]
    # In this process's group, so that killing the group ends both.
    command = [program, "-nostdin", "-v", "error", *restrictions, "-i", f"file:{source}", *output]
    process = Child(command, log, stdout=subprocess.PIPE, own_group=False)
    out = process.out

    def last_error() -> str:
        last_line = "".join(process.log_lines(1)) or "no reason given"
        return re.sub(r"^\[.*? @ 0x\w+\] ", "", last_line.replace(f"file:{source}: ", ""))

    header = out.read(24)  # Sun's AU format, because its header is six numbers
    if len(header) < 24:
        process.wait()
        raise AudioError(f"not a sound that can be read (ffmpeg: {last_error()}). Allowed: {_FORMATS}.")
    _, offset, _, _, rate_hz, channels = struct.unpack(">6I", header)
    out.read(offset - 24)
    frame_bytes = 4 * channels

    def blocks() -> Iterator[Array]:
        while data := out.read(BLOCK_FRAMES * frame_bytes):
            whole_frames = data[: len(data) // frame_bytes * frame_bytes]
            yield np.frombuffer(whole_frames, ">f4").astype(np.float32).reshape(-1, channels)
        if process.wait() or process.log_lines(1):
            raise RuntimeError(last_error())

    return _Stream(rate_hz, channels, None, blocks())


def _resample(stream: _Stream) -> tuple[Array, list[str]]:
    """Resample a whole stream to (n,) at 16 kHz, n >= 0, with remarks. Raises AudioError if it is out of bounds."""
    import soxr  # type: ignore[import-untyped]

    if not 1 <= stream.channels <= MAX_CHANNELS:
        raise AudioError(f"it has {stream.channels} channels; allowed: 1 to {MAX_CHANNELS}. Mix it down first.")
    if not MIN_RATE_HZ <= stream.rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"it has {stream.rate_hz} samples a second; allowed: {MIN_RATE_HZ} to {MAX_RATE_HZ}. "
            "Its header may be damaged."
        )
    resampler = soxr.ResampleStream(stream.rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    frames = not_finite = clipped = 0
    peak = 0.0
    damage: str | None = None
    chunks: list[Array] = []
    try:
        for block in stream.blocks:
            frames += len(block)
            if frames > MAX_DURATION_S * stream.rate_hz:
                raise AudioError(f"it is longer than {units.duration(MAX_DURATION_S)}, the most allowed. Cut it.")
            finite = np.isfinite(block)
            not_finite += block.size - int(np.count_nonzero(finite))
            block[~finite] = 0
            magnitude = np.abs(block)
            peak = max(peak, float(magnitude.max()))
            clipped += int(np.count_nonzero(magnitude >= FULL_SCALE))
            mono = np.clip(block, -1, 1).mean(axis=1, dtype=np.float32)  # (frames, channels) -> (frames,)
            chunks.append(resampler.resample_chunk(mono))
    except RuntimeError as e:
        damage = str(e).strip()
    chunks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = np.clip(np.concatenate(chunks), -1, 1)  # resampling can overshoot
    total_samples = frames * stream.channels
    if total_samples and not_finite == total_samples:
        raise AudioError("none of its samples is a number.")
    decoded_s, promised = frames / stream.rate_hz, stream.promised_frames
    sentences = []
    if damage:
        sentences.append(f"Damaged: {decoded_s:.2f} s could be read ({damage}).")
    elif promised and promised > frames * 1.01 + BLOCK_FRAMES:
        sentences.append(f"Cut off: its header promises {promised / stream.rate_hz:.1f} s, but {decoded_s:.1f} s came.")
    if not_finite:
        sentences.append(f"{not_finite} samples were not numbers (NaN or infinite) and count as silence.")
    if peak > 2:  # a float file in other units; MP3 overshoots only a little
        sentences.append(f"Its samples reach {peak:.3g} where full scale is 1; what is beyond was cut off.")
    return samples, [*sentences, *remarks(samples, clipped / total_samples if total_samples else 0)]


def _convert(source: Path, target: Path) -> dict[str, Any]:
    """Decode SOURCE to TARGET; returns the answer to print. Raises AudioError."""
    stream = _by_libsndfile(source)
    samples, sentences = _resample(stream) if stream else (np.zeros(0, np.float32), [])
    if not len(samples):  # ffmpeg reads more containers, and more damaged files
        try:
            stream = _by_ffmpeg(source)
        except AudioError:
            if not stream:
                raise
        else:
            samples, sentences = _resample(stream)
    if not stream or not len(samples):
        raise AudioError("it holds no sound.")
    part = target.with_suffix(".part")
    with part.open("wb") as f:
        np.save(f, samples, allow_pickle=False)
    part.replace(target)
    return {"rate_hz": stream.rate_hz, "channels": stream.channels, "remarks": sentences}


def _limit_resources(seconds: float) -> None:
    """Limit this process and its children. The alarm ends this process if its parent no longer can."""
    file_bytes = round(MAX_DURATION_S * SAMPLE_RATE_HZ * 4) + 1_000_000
    limits = {resource.RLIMIT_AS: CHILD_MEMORY_BYTES, resource.RLIMIT_CPU: math.ceil(seconds) + 1}
    for kind, limit in (limits | {resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_CORE: 0}).items():
        with suppress(ValueError, OSError):  # a lower limit already applies, or this system lacks the limit
            resource.setrlimit(kind, (limit, limit))
    signal.alarm(math.ceil(seconds) + 5)


def answer_within_limits(seconds: float, work: Callable[[], dict[str, Any]], *, task: str, failure: str) -> NoReturn:
    """Limit this process, print what `work` returns, or an error, as one line of JSON, and end.

    `task` and `failure` begin the sentences on memory and on unexpected errors.
    """
    _limit_resources(seconds)
    try:
        answer = work()
    except AudioError as e:
        answer = {"error": str(e)}
    except MemoryError:
        answer = {"error": f"{task} takes more than {units.size(CHILD_MEMORY_BYTES)} of memory."}
    except ImportError as e:
        answer = {
            "error": f"{e.name} can't be imported ({e}); fix: {sys.executable} -m pip install -r requirements.txt"
        }
    except Exception as e:
        answer = {"error": f"{failure} ({type(e).__name__}: {e})."}
    print("\n" + json.dumps(answer), flush=True)
    os._exit(0)  # no cleanup is needed, and a library's exit handler may crash


if __name__ == "__main__":
    source, target, seconds = sys.argv[1:]
    answer_within_limits(
        float(seconds),
        lambda: _convert(Path(source), Path(target)),
        task="decoding it",
        failure="it can't be decoded",
    )
