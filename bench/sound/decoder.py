"""The child process that decodes one file: `python -m bench.sound.decoder SOURCE TARGET SECONDS`.

It writes (n,) float32 at 16 kHz to TARGET, a .npy file, and answers one line of JSON.
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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import units
from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import _FFMPEG_FIX, _FORMATS, FULL_SCALE, MAX_DURATION_S, Array, AudioError, remarks

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
CHILD_MEMORY_BYTES = 1_000_000_000  # of address space: libraries take 0.1 GB of it, the longest sound 0.1 GB
BLOCK_FRAMES = 16_384

# What ffmpeg may take a file for: containers only. Playlists and their like open other files and addresses.
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,matroska,mov,mp3,mpegts,ogg,wav,wv"


# --- what follows runs in the child alone


@dataclass(frozen=True, slots=True)
class _Stream:
    """A sound as it comes: blocks of (frames, channels) at the source's rate. They may end in a RuntimeError."""

    rate_hz: int
    channels: int
    promised_frames: int | None  # by the header, which may lie
    blocks: Iterator[Array]


def _by_libsndfile(source: Path) -> _Stream | None:
    """None for what libsndfile does not know."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """Never seeks: soundfile would after each block, and fail on lengths that are unknown or made up."""

        def seekable(self) -> bool:
            return False

    try:  # by descriptor: by a path, libsndfile would believe the extension
        f = Forward(os.open(source, os.O_RDONLY))
    except soundfile.LibsndfileError:
        return None

    def blocks() -> Iterator[Array]:
        while len(block := f.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            yield block

    return _Stream(f.samplerate, f.channels, f.frames if f.frames < 2**62 else None, blocks())


def _by_ffmpeg(source: Path) -> _Stream:
    """Raises AudioError if there is no ffmpeg or it can't read the file either."""
    program = shutil.which("ffmpeg")
    if not program:
        raise AudioError(f"not a sound that can be read without ffmpeg ({_FFMPEG_FIX}). Or save it as WAV.")
    log = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this process
    only = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-threads", "1"]
    raw = ["-map", "0:a:0", "-t", str(MAX_DURATION_S + 1), "-threads", "1", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    process = subprocess.Popen(
        [program, "-nostdin", "-v", "error", *only, "-i", f"file:{source}", *raw],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    out = process.stdout
    assert out

    def complaint() -> str:
        log.seek(0)
        lines = log.read(4000).decode(errors="replace").strip().splitlines() or ["no reason given"]
        return re.sub(r"^\[.*? @ 0x\w+\] ", "", lines[-1].replace(f"file:{source}: ", ""))

    head = out.read(24)  # Sun's AU, because its header is six numbers
    if len(head) < 24:
        process.wait()
        raise AudioError(f"not a sound that can be read (ffmpeg: {complaint()}). Allowed: {_FORMATS}.")
    _, offset, _, _, rate_hz, channels = struct.unpack(">6I", head)
    out.read(offset - 24)
    frame_bytes = 4 * channels

    def blocks() -> Iterator[Array]:
        while data := out.read(BLOCK_FRAMES * frame_bytes):
            whole = data[: len(data) // frame_bytes * frame_bytes]
            yield np.frombuffer(whole, ">f4").astype(np.float32).reshape(-1, channels)
        if process.wait() or log.seek(0, os.SEEK_END):
            raise RuntimeError(complaint())

    return _Stream(rate_hz, channels, None, blocks())


def _gather(stream: _Stream) -> tuple[Array, list[str]]:
    """All of a stream as (n,) at 16 kHz, n >= 0, with remarks. Raises AudioError for what is out of bounds."""
    import soxr  # type: ignore[import-untyped]

    if not 1 <= stream.channels <= MAX_CHANNELS:
        raise AudioError(f"it has {stream.channels} channels; allowed: 1 to {MAX_CHANNELS}. Mix it down first.")
    if not MIN_RATE_HZ <= stream.rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"it has {stream.rate_hz} samples a second; allowed: {MIN_RATE_HZ} to {MAX_RATE_HZ}. "
            "Its header may be damaged."
        )
    resampler = soxr.ResampleStream(stream.rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    frames = strange = clipped = 0
    highest = 0.0
    damage: str | None = None
    out: list[Array] = []
    try:
        for block in stream.blocks:
            frames += len(block)
            if frames > MAX_DURATION_S * stream.rate_hz:
                raise AudioError(f"it is longer than {units.duration(MAX_DURATION_S)}, the most allowed. Cut it.")
            finite = np.isfinite(block)
            strange += block.size - int(np.count_nonzero(finite))
            block[~finite] = 0
            size = np.abs(block)
            highest = max(highest, float(size.max()))
            clipped += int(np.count_nonzero(size >= FULL_SCALE))
            mono = np.clip(block, -1, 1).mean(axis=1, dtype=np.float32)  # (frames, channels) -> (frames,)
            out.append(resampler.resample_chunk(mono))
    except RuntimeError as e:
        damage = str(e).strip()
    out.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = np.clip(np.concatenate(out), -1, 1)  # resampling overshoots
    total = frames * stream.channels
    if total and strange == total:
        raise AudioError("none of its samples is a number.")
    came_s, promised = frames / stream.rate_hz, stream.promised_frames
    found = []
    if damage:
        found.append(f"Damaged: {came_s:.2f} s could be read ({damage}).")
    elif promised and promised > frames * 1.01 + BLOCK_FRAMES:
        found.append(f"Cut off: its header promises {promised / stream.rate_hz:.1f} s, but {came_s:.1f} s came.")
    if strange:
        found.append(f"{strange} samples were not numbers (NaN or infinite) and count as silence.")
    if highest > 2:  # a float file in other units; MP3 overshoots a little
        found.append(f"Its samples reach {highest:.3g} where full scale is 1; what is beyond was cut off.")
    return samples, [*found, *remarks(samples, clipped / total if total else 0)]


def _convert(source: Path, target: Path) -> dict[str, Any]:
    """SOURCE -> TARGET; returns the answer. Raises AudioError."""
    stream = _by_libsndfile(source)
    samples, found = _gather(stream) if stream else (np.zeros(0, np.float32), [])
    if not len(samples):  # ffmpeg knows more containers, and more of broken ones
        try:
            stream = _by_ffmpeg(source)
        except AudioError:
            if not stream:
                raise
        else:
            samples, found = _gather(stream)
    if not stream or not len(samples):
        raise AudioError("it holds no sound.")
    part = target.with_suffix(".part")
    with part.open("wb") as f:
        np.save(f, samples, allow_pickle=False)
    part.replace(target)
    return {"rate_hz": stream.rate_hz, "channels": stream.channels, "remarks": found}


def _bound(seconds: float) -> None:
    """Limit this process and those that it starts; the alarm ends it where its parent no longer can."""
    file_bytes = round(MAX_DURATION_S * SAMPLE_RATE_HZ * 4) + 1_000_000
    limits = {resource.RLIMIT_AS: CHILD_MEMORY_BYTES, resource.RLIMIT_CPU: math.ceil(seconds) + 1}
    for which, amount in (limits | {resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_CORE: 0}).items():
        with suppress(ValueError, OSError):  # a lower one holds already, or this system knows none
            resource.setrlimit(which, (amount, amount))
    signal.alarm(math.ceil(seconds) + 5)


def main() -> None:
    """Answer one question by one line of JSON."""
    source, target, seconds = sys.argv[1:]
    _bound(float(seconds))
    try:
        answer = _convert(Path(source), Path(target))
    except AudioError as e:
        answer = {"error": str(e)}
    except MemoryError:
        answer = {"error": f"decoding it takes more than {units.size(CHILD_MEMORY_BYTES)} of memory."}
    except ImportError as e:
        answer = {
            "error": f"{e.name} can't be imported ({e}); fix: {sys.executable} -m pip install -r requirements.txt"
        }
    except Exception as e:
        answer = {"error": f"it can't be decoded ({type(e).__name__}: {e})."}
    print("\n" + json.dumps(answer), flush=True)
    os._exit(0)  # nothing is left to tidy up, and a library's farewell may crash


if __name__ == "__main__":
    main()
