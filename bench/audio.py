"""Any sound -> 16 kHz mono float32, bounded in bytes, seconds and memory; and back to a WAV or a waveform.

`decode` asks a short-lived child, `python -m bench.audio SOURCE TARGET SECONDS`: what a file's author put into it can
crash or starve the child alone, and the dashboard's process imports neither libsndfile nor the resampler. The child
writes a .npy file and answers one line of JSON.
"""

from __future__ import annotations

import io
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
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bench import paths, text
from bench.records import SAMPLE_RATE_HZ

Array = npt.NDArray[np.float32]

MAX_FILE_BYTES = 200_000_000
MAX_DURATION_S = 600.0
MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
DECODE_S = 60.0
CHILD_MEMORY_BYTES = 1_000_000_000  # of address space: libraries take 0.1 GB of it, the longest sound 0.1 GB
BLOCK_FRAMES = 16_384
STALE_S = 3600.0  # a folder this old was left by a server that was killed

SILENT_DBFS = -60.0  # peak, without the DC offset
QUIET_DBFS = -35.0
FULL_SCALE = 1 - 2.0**-15  # the highest that 16 bits can say
CLIPPED_RATIO = 0.001
DC_OFFSET = 0.02
SHORT_S = 0.2

# What ffmpeg may take a file for: containers only. Playlists and their like open other files and addresses.
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,matroska,mov,mp3,mpegts,ogg,wav,wv"
_FFMPEG_FIX = "Debian: sudo apt install ffmpeg; macOS: brew install ffmpeg"
_FORMATS = "WAV, FLAC, OGG, Opus and MP3, and M4A, AAC and WebM through ffmpeg"


class AudioError(ValueError):
    """A sound can't be had; the text says what came, what is allowed and how to fix it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """`samples`: (n,) float32 at 16 kHz in [-1, 1], n > 0. `remarks`: sentences on what may spoil a transcript."""

    samples: Array
    source_rate_hz: int
    source_channels: int
    remarks: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """How long it sounds."""
        return len(self.samples) / SAMPLE_RATE_HZ


def decode(path: Path, timeout_s: float = DECODE_S, name: str | None = None) -> Sound:
    """A file as 16 kHz mono, whatever its container, rate and channels; its content decides, not its extension.

    `name` stands in messages in place of the file's. Raises AudioError.
    """
    path, name = path.resolve(), name or path.name
    if not path.is_file():
        raise AudioError(f"{name}: there is no such file.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise AudioError(
            f"{name}: the file has {text.size(size)}; allowed: {text.size(MAX_FILE_BYTES)}. Cut it, or save it as FLAC."
        )
    if not size:
        raise AudioError(f"{name}: the file is empty.")
    with _folder() as folder:
        target = folder / "samples.npy"
        answer = ask("bench.audio", str(path), str(target), str(timeout_s), timeout_s=timeout_s)
        if "error" in answer:
            raise AudioError(f"{name}: {answer['error']}")
        samples: Array = np.load(target, allow_pickle=False)
    return Sound(samples, answer["rate_hz"], answer["channels"], tuple(answer["remarks"]))


def decode_bytes(data: bytes, name: str, timeout_s: float = DECODE_S) -> Sound:
    """Like `decode`, for what a browser sent. Nothing of it stays on disk."""
    with _folder() as folder:
        source = folder / "source"
        try:
            source.write_bytes(data)
        except OSError as e:
            raise AudioError(f"{name}: can't be stored for decoding ({e.strerror}). Free some space.") from e
        return decode(source, timeout_s, name)


def remarks(samples: Array, clipped_ratio: float | None = None) -> tuple[str, ...]:
    """Sentences on silence, level, clipping, DC offset and length of (n,) samples at 16 kHz.

    `clipped_ratio` is the share at full scale before resampling; by default it is counted here.
    """
    found = []
    if clipped_ratio is None:
        clipped_ratio = float(np.mean(np.abs(samples) >= FULL_SCALE)) if len(samples) else 0.0
    if len(samples) < SHORT_S * SAMPLE_RATE_HZ:
        found.append(f"Only {len(samples) / SAMPLE_RATE_HZ:.3f} s long: too short for a word.")
    if not len(samples):
        return tuple(found)
    offset = float(samples.mean(dtype=np.float64))
    peak_dbfs = dbfs(max(float(samples.max()) - offset, offset - float(samples.min())))
    if peak_dbfs < SILENT_DBFS:
        found.append("Silence: there is nothing to hear. Check that the microphone is not muted.")
    elif peak_dbfs < QUIET_DBFS:
        found.append(f"Very quiet: it peaks at {peak_dbfs:.0f} dB of full scale. Go nearer or raise the gain.")
    if clipped_ratio >= CLIPPED_RATIO:
        found.append(f"Clipped: {clipped_ratio:.1%} of the samples are at full scale. Lower the gain.")
    if abs(offset) > DC_OFFSET:
        found.append(f"It has a DC offset of {offset:+.2f} of full scale, which points to a faulty input. It was kept.")
    return tuple(found)


def dbfs(amplitude: float) -> float:
    """An amplitude in decibels of full scale, -100 at the least: zero is -infinity, which JSON can't say."""
    return 20 * math.log10(max(amplitude, 1e-5))


def wav_bytes(samples: Array) -> bytes:
    """(n,) samples as a 16-bit mono WAV at 16 kHz. What came from 16 bits goes back to the same."""
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(SAMPLE_RATE_HZ)
        f.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return out.getvalue()


def write_wav(path: Path, samples: Array) -> None:
    """`wav_bytes` in a file that is whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(wav_bytes(samples))
    part.replace(path)


def peaks(samples: Array, count: int) -> Array:
    """Lowest and highest sample of each of `count` equal stretches: (count, 2), for a waveform. Silence if empty."""
    if not len(samples):
        return np.zeros((count, 2), np.float32)
    begins = np.arange(count) * len(samples) // count
    return np.stack([np.minimum.reduceat(samples, begins), np.maximum.reduceat(samples, begins)], axis=1)


def ask(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """The JSON object that `python -m MODULE ...` prints last. If it can't answer: {"error": what became of it}."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
                cwd=paths.ROOT,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as e:
            return {"error": f"no process can be started for it: {e.strerror}."}
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"error": f"it took longer than {timeout_s:g} s and was given up."}
        finally:
            end(process)
            if process.stdout:
                process.stdout.close()
        with suppress(IndexError, ValueError):
            answer = json.loads(out.splitlines()[-1])
            if isinstance(answer, dict):
                return answer
        return {"error": death(process.returncode, log)}


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and its group, if it was not collected yet. Waits a second at most."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # the kernel may hold it in a driver
        process.wait(1)


def death(code: int | None, log: IO[bytes]) -> str:
    """What the exit code and the end of the log say of a child that gave no answer."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
    words = log.read().decode(errors="replace").strip().splitlines()
    said = f' It said last: "{words[-1]}"' if words else ""
    if code is None:
        return f"its process can't be ended.{said}"
    if code == -signal.SIGXCPU:
        return "it took too much processor time and was given up."
    if code == -signal.SIGKILL:
        return f"its process was killed, probably for want of memory.{said}"
    if code < 0:
        return f"its process crashed ({signal.Signals(-code).name}).{said}"
    return f"its process ended with exit code {code}.{said}"


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of one's own in the cache, gone afterwards; those of servers that were killed go too."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    for left in paths.cache().glob("sound-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="sound-", dir=paths.cache(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


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


def ffmpeg_missing() -> str:
    """What can't be read for want of ffmpeg, and the fix; "" if it is installed."""
    if shutil.which("ffmpeg"):
        return ""
    return f"ffmpeg is not installed, so M4A, AAC and WebM can't be read; all else can. {_FFMPEG_FIX}"


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
                raise AudioError(f"it is longer than {text.duration(MAX_DURATION_S)}, the most allowed. Cut it.")
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
        answer = {"error": f"decoding it takes more than {text.size(CHILD_MEMORY_BYTES)} of memory."}
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
