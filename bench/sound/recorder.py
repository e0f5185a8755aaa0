"""The child processes that use PortAudio.

`python -m bench.sound.recorder list` prints one line of JSON. `... record DEVICE SECONDS AUDIO STATUS` writes raw
float32 samples at 16 kHz to one pipe and JSON lines to another, until its stdin closes.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import Array, dbfs
from bench.sound.microphone import GRACE_S, Input, MicrophoneError

BLOCK_S = 0.05
STATUS_S = 0.2
NO_SOUND_S = 5.0  # a device that delivers nothing for so long counts as unplugged
QUEUE_BLOCKS = 600

_UNAVAILABLE = -9985  # PortAudio's code for a device that another program holds
_NO_PORTAUDIO = (
    "PortAudio is not installed. Debian, Ubuntu, Raspberry Pi OS: sudo apt install libportaudio2; Fedora: sudo dnf "
    "install portaudio; macOS: brew install portaudio. Files and the browser's microphone work without it."
)
_NO_PERMISSION = (
    "This user may not open the sound devices. Fix: sudo usermod -aG audio $USER, then log out and in again."
)
_NO_DEVICE = "No microphone was found. Plug one in and try again; {hint}. Files and the browser's microphone work too."


# --- the code below runs only in the children


def _portaudio() -> Any:
    """Import the module `sounddevice`, which starts PortAudio. Raises MicrophoneError."""
    try:
        import sounddevice  # type: ignore[import-untyped]
    except ImportError as e:
        raise MicrophoneError(
            f"{e.name} can't be imported; fix: {sys.executable} -m pip install -r requirements.txt"
        ) from e
    except OSError as e:
        raise MicrophoneError(_NO_PORTAUDIO) from e
    except Exception as e:  # PortAudio's own error, whose class could not be imported
        raise MicrophoneError(f"PortAudio can't start ({e}). Is the sound system of this device running?") from e
    return sounddevice


def _list() -> list[Input]:
    """All devices with input channels. Raises MicrophoneError if there are none."""
    sounddevice = _portaudio()
    apis = sounddevice.query_hostapis()
    default = next((api["default_input_device"] for api in apis if api["default_input_device"] >= 0), None)
    inputs = [
        Input(
            index=device["index"],
            name=device["name"],
            host_api=apis[device["hostapi"]]["name"],
            default_rate_hz=round(device["default_samplerate"]),
            channels=device["max_input_channels"],
            is_default=device["index"] == default,
        )
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0
    ]
    if not inputs:
        raise MicrophoneError(_why_no_microphone())
    return inputs


def _why_no_microphone() -> str:
    """A message that says why there is no microphone, and what to do."""
    captures = list(Path("/dev/snd").glob("pcmC*c"))
    if captures and not any(os.access(p, os.R_OK) for p in captures):
        return _NO_PERMISSION
    hint = "`arecord -l` shows what Linux sees"
    if platform.system() == "Darwin":
        hint = "allow the terminal the microphone in System Settings, Privacy & Security"
    return _NO_DEVICE.format(hint=hint)


class _Capture:
    """An open device. Its callback only copies blocks to a queue and counts lost ones."""

    def __init__(self, device: int | None, stop: threading.Event) -> None:
        """Open a device at 16 kHz mono, or as close to it as it supports. Blocks after `stop` are ignored.

        Raises MicrophoneError.
        """
        self.overflows = 0
        self._blocks: queue.Queue[Any] = queue.Queue(QUEUE_BLOCKS)
        self._stop = stop
        inputs = _list()
        chosen = next((i for i in inputs if (i.is_default if device is None else i.index == device)), None)
        if not chosen:
            available = ", ".join(f"{i.index} ({i.name})" for i in inputs)
            missing = "no default microphone" if device is None else f"no microphone {device}"
            raise MicrophoneError(f"There is {missing}; there are: {available}.")
        sounddevice = _portaudio()
        try:
            self._stream = self._open(sounddevice, chosen)
            self._stream.start()
        except sounddevice.PortAudioError as e:
            if len(e.args) > 1 and e.args[1] == _UNAVAILABLE:
                advice = "Another program holds it, or it was unplugged: close what else records, and try again."
            else:
                advice = "Choose another microphone."
            raise MicrophoneError(f"{chosen.name} can't be opened ({e}). {advice}") from e
        self.rate_hz = round(self._stream.samplerate)

    def _open(self, sounddevice: Any, chosen: Input) -> Any:
        """Open the device's stream. Many USB microphones support only 44.1 or 48 kHz, some cards only stereo."""
        rates, channels = (SAMPLE_RATE_HZ, chosen.default_rate_hz), (1, min(2, chosen.channels))
        for channel_count, rate_hz in (shapes := list(dict.fromkeys((c, r) for c in channels for r in rates))):
            try:
                return sounddevice.InputStream(
                    samplerate=rate_hz,
                    blocksize=round(rate_hz * BLOCK_S),
                    device=chosen.index,
                    channels=channel_count,
                    dtype="int16",  # the native type of microphones, so that no layer has to convert
                    latency="high",  # captions tolerate 0.1 s of delay; lost samples can't be recovered
                    callback=self._callback,
                )
            except sounddevice.PortAudioError:
                if (channel_count, rate_hz) == shapes[-1]:
                    raise
        raise AssertionError("there is at least one shape")

    def _callback(self, block: Any, frames: int, when: Any, status: Any) -> None:
        if self._stop.is_set():
            return
        self.overflows += bool(status.input_overflow)
        try:
            self._blocks.put_nowait(block.copy())
        except queue.Full:
            self.overflows += 1

    def next(self) -> Array | None:
        """The next block, mixed down to (frames,) at the device's rate. None once stopped and the queue is empty.

        Raises MicrophoneError if no block arrives within NO_SOUND_S.
        """
        deadline = time.monotonic() + NO_SOUND_S
        while time.monotonic() < deadline:
            stopped = self._stop.is_set()
            with suppress(queue.Empty):
                block = self._blocks.get(timeout=None if stopped else BLOCK_S, block=not stopped)
                mono: Array = block.mean(axis=1, dtype=np.float32) / np.float32(32768)
                return mono
            if stopped:
                return None
        raise MicrophoneError(f"No sound came for {NO_SOUND_S:g} s. Was the microphone unplugged?")


def _record(device: int | None, seconds: float, out: IO[bytes], send_status: Callable[..., None]) -> None:
    """Send a microphone's samples until `seconds` are recorded or stdin closes. Raises MicrophoneError."""
    stop = threading.Event()

    def wait_for_stop() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock would be held at interpreter exit
            pass
        stop.set()
        time.sleep(2 * GRACE_S)
        os._exit(1)  # the driver hangs, and the parent may be gone and can't kill this process

    threading.Thread(target=wait_for_stop, daemon=True).start()
    capture = _Capture(device, stop)
    send_status(rates=[capture.rate_hz, SAMPLE_RATE_HZ])
    resampler = None
    if capture.rate_hz != SAMPLE_RATE_HZ:
        import soxr  # type: ignore[import-untyped]

        resampler = soxr.ResampleStream(capture.rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    samples_left, last = max(1, round(seconds * SAMPLE_RATE_HZ)), False
    recent: list[Array] = []
    status_sent_s = time.monotonic()
    while samples_left and not last:
        block = capture.next()
        last = block is None
        samples = np.zeros(0, np.float32) if block is None else block
        if resampler:
            samples = resampler.resample_chunk(samples, last=last)
        samples = np.clip(samples, -1, 1)[:samples_left]
        samples_left -= len(samples)
        out.write(samples.tobytes())
        out.flush()
        recent.append(samples)
        if time.monotonic() - status_sent_s >= STATUS_S or last or not samples_left:
            recent_samples = np.concatenate(recent)
            if len(recent_samples):
                send_status(
                    peak_dbfs=dbfs(float(np.abs(recent_samples).max())),
                    rms_dbfs=dbfs(float(np.sqrt(np.mean(recent_samples**2)))),
                    overflows=capture.overflows,
                )
            recent, status_sent_s = [], time.monotonic()
    send_status(complete=True)


def main() -> None:
    """List the microphones, or record from one."""
    command, *arguments = sys.argv[1:]
    if command == "list":
        try:
            answer: dict[str, Any] = {"inputs": [asdict(microphone) for microphone in _list()]}
        except MicrophoneError as e:
            answer = {"inputs": [], "why": str(e)}
        print("\n" + json.dumps(answer), flush=True)
        os._exit(0)  # closing PortAudio may hang, and ending the process closes it too
    device, seconds, audio, status = arguments
    status_file = os.fdopen(int(status), "w", buffering=1)

    def send_status(**fields: Any) -> None:
        status_file.write(json.dumps(fields) + "\n")

    try:
        _record(None if device == "default" else int(device), float(seconds), os.fdopen(int(audio), "wb"), send_status)
    except MicrophoneError as e:
        send_status(error=str(e))
    except BrokenPipeError:
        pass  # the parent no longer reads
    os._exit(0)


if __name__ == "__main__":
    main()
