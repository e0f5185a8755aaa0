"""The device's own microphones, through PortAudio, which runs in child processes only.

A driver that hangs must not block the dashboard. And PortAudio fixes its list of devices when it starts: a microphone
that is plugged in later appears only in a new process.
"""

from __future__ import annotations

import json
import math
import select
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from bench.core import child
from bench.core.child import Child, Pipe
from bench.core.errors import EarbenchError
from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import MAX_DURATION_S, Array

LIST_S = 15.0
LIFE_S = 12.0  # a child that sends nothing for so long hangs: it sends a status five times a second
GRACE_S = 2.0


class MicrophoneError(EarbenchError):
    """A microphone can't be used; the text says why and how to fix it."""


@dataclass(frozen=True, slots=True)
class Input:
    """A device that can record. `index` is valid until a device is plugged in or unplugged."""

    index: int
    name: str
    host_api: str
    default_rate_hz: int
    channels: int
    is_default: bool


@dataclass(frozen=True, slots=True)
class Level:
    """The recent sound level in dB of full scale, -100 for silence."""

    peak_dbfs: float
    rms_dbfs: float


def devices() -> list[Input]:
    """All microphones that are present now, at least one. Takes a fraction of a second. Raises MicrophoneError."""
    answer = child.ask("bench.sound.recorder", "list", timeout_s=LIST_S)
    if "error" in answer:
        raise MicrophoneError(f"The microphones can't be listed: {answer['error']}")
    if not answer["inputs"]:
        raise MicrophoneError(answer["why"])
    return [Input(**fields) for fields in answer["inputs"]]


class Recorder:
    """One recording by a child process. It starts at once and ends at its time limit, by `stop`, or by a failure.

    Suits a level meter and live captions: `read` waits no longer than its timeout, and `stop` for a few seconds.
    """

    def __init__(
        self, device: int | None = None, seconds: float | None = None, unwatched_s: float | None = None
    ) -> None:
        """Start recording from the device with this `index`, by default the default device.

        It records for `seconds`, by default until stopped or for MAX_DURATION_S. With `unwatched_s`, it ends once
        `watched` was not called for that many seconds. Raises MicrophoneError; `read` raises failures after the start.
        """
        seconds = MAX_DURATION_S if seconds is None else seconds
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_DURATION_S):
            raise MicrophoneError(f"Asked to record {seconds:g} s; allowed: up to {MAX_DURATION_S:g} s.")
        self._changed = threading.Condition()
        self._chunks: list[Array] = []
        self._received_samples, self._incomplete_sample = 0, b""
        self._level: Level | None = None
        self._rates: tuple[int, int] | None = None
        self._overflows = 0
        self._error: str | None = None
        self._complete = self._stopped = self._ended = False
        self._unwatched_s, self._watched_at_s = unwatched_s, time.monotonic()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._audio, self._status = Pipe(), Pipe()
        name = "default" if device is None else str(device)
        pipe_ends = (self._audio.child_end, self._status.child_end)
        try:
            self._child = Child(
                child.python("bench.sound.recorder", "record", name, seconds, *pipe_ends),
                self._log,
                pipes=(self._audio, self._status),
                stdin=subprocess.PIPE,
                env=child.environment(OPENBLAS_NUM_THREADS="1"),
            )
        except OSError as e:
            raise MicrophoneError(f"No process can be started for recording: {e.strerror}.") from e
        self._thread = threading.Thread(target=self._receive, name="microphone", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float = 0.0) -> Array:
        """Samples since the last call, (n,) float32 at 16 kHz; n = 0 if none arrive within the timeout.

        Raises MicrophoneError after a failure, once all samples from before it were read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._ended, timeout_s)
            chunks, self._chunks = self._chunks, []
            if not chunks and self._error:
                raise MicrophoneError(self._error)
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    @property
    def running(self) -> bool:
        """Whether more samples may arrive. Those that have arrived can still be read."""
        return not self._ended

    @property
    def level(self) -> Level | None:
        """The current sound level; None before the first sound."""
        return self._level

    @property
    def rates(self) -> tuple[int, int] | None:
        """(the device's rate, the rate of the samples that `read` returns) in Hz; None before the device is open."""
        return self._rates

    @property
    def overflows(self) -> int:
        """How often samples were lost because this device was too busy."""
        return self._overflows

    @property
    def elapsed_s(self) -> float:
        """Seconds of audio received."""
        return self._received_samples / SAMPLE_RATE_HZ

    def watched(self) -> None:
        """Signal that the user of the recording is still present."""
        self._watched_at_s = time.monotonic()

    def stop(self) -> None:
        """End the recording. Samples received so far can still be read."""
        self._finish()
        self._thread.join(GRACE_S)
        if self._thread.is_alive():  # the driver hangs on closing
            self._child.end()
            self._thread.join(GRACE_S)

    def _finish(self) -> None:
        """Ask the child to end the recording."""
        self._stopped = True
        self._child.close_stdin()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _receive(self) -> None:
        """Receive data from the child until it closes both pipes or sends nothing for LIFE_S."""
        receivers = {self._audio: self._receive_audio, self._status: self._receive_status}
        open_pipes = set(receivers)
        while open_pipes:
            ready, _, _ = select.select(open_pipes, [], [], LIFE_S)
            if self._unwatched_s and not self._stopped and time.monotonic() - self._watched_at_s > self._unwatched_s:
                self._finish()
            if not ready:
                self._error = f"The microphone's driver gave no sign of life for {LIFE_S:g} s and was ended."
                break
            for pipe in ready:
                if not receivers[pipe]():
                    open_pipes.discard(pipe)
        if not open_pipes:
            self._child.wait(GRACE_S)
        self._child.end()
        with self._changed:
            if not (self._complete or self._stopped or self._error):
                self._error = f"The recording broke off: {self._child.explain()}"
            self._ended = True
            self._changed.notify_all()
        self._audio.close()
        self._status.close()
        self._log.close()

    def _receive_audio(self) -> bool:
        """Keep the samples that have come; False once the child has closed the pipe."""
        data = self._audio.read()
        samples = self._incomplete_sample + data
        whole_bytes = len(samples) // 4 * 4
        self._incomplete_sample = samples[whole_bytes:]
        with self._changed:
            self._chunks.append(np.frombuffer(samples[:whole_bytes], np.float32))
            self._received_samples += whole_bytes // 4
            self._changed.notify_all()
        return bool(data)

    def _receive_status(self) -> bool:
        """Handle the messages that have come; False once the child has closed the pipe."""
        lines = self._status.read_lines()
        with self._changed:
            for line in lines or ():
                self._handle_status(json.loads(line))
            self._changed.notify_all()
        return lines is not None

    def _handle_status(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._error = message["error"]
        elif "rates" in message:
            self._rates = (message["rates"][0], message["rates"][1])
        elif "complete" in message:
            self._complete = True
        else:
            self._level, self._overflows = Level(message["peak_dbfs"], message["rms_dbfs"]), message["overflows"]
