"""The device's own microphones, through PortAudio in child processes alone.

A driver that hangs must not take the dashboard with it, and PortAudio freezes its list of devices when it starts: a
microphone that was plugged in later appears in a fresh process only.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from bench.core import paths
from bench.core.child import ask, death, end, environment
from bench.core.errors import EarbenchError
from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound.audio import MAX_DURATION_S, Array

LIST_S = 15.0
LIFE_S = 12.0  # a child that says nothing for so long hangs: it has a status to tell five times a second
GRACE_S = 2.0


class MicrophoneError(EarbenchError):
    """No sound can be had from a microphone; the text says why and how to fix it."""


@dataclass(frozen=True, slots=True)
class Input:
    """A device that can record. `index` holds until devices are plugged in or out."""

    index: int
    name: str
    host_api: str
    default_rate_hz: int
    channels: int
    is_default: bool


@dataclass(frozen=True, slots=True)
class Level:
    """How loud the last moments were, in dB of full scale, -100 for silence."""

    peak_dbfs: float
    rms_dbfs: float


def devices() -> list[Input]:
    """Every microphone there is now; at least one. Takes a fraction of a second. Raises MicrophoneError."""
    answer = ask("bench.sound.recorder", "list", timeout_s=LIST_S)
    if "error" in answer:
        raise MicrophoneError(f"The microphones can't be listed: {answer['error']}")
    if not answer["inputs"]:
        raise MicrophoneError(answer["why"])
    return [Input(**found) for found in answer["inputs"]]


class Recorder:
    """One recording: a child that records from its making until it has enough, is stopped, or fails.

    For a level meter and live captions alike: nothing here waits longer than it is told to, `stop` for a few seconds.
    """

    def __init__(
        self, device: int | None = None, seconds: float | None = None, unwatched_s: float | None = None
    ) -> None:
        """Record so many seconds from a device's `index`, by default until stopped from the default device.

        With `unwatched_s`, it ends once nobody called `watched` for so long. Raises MicrophoneError; what goes wrong
        after the start is raised by `read`.
        """
        seconds = MAX_DURATION_S if seconds is None else seconds
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_DURATION_S):
            raise MicrophoneError(f"Asked to record {seconds:g} s; allowed: up to {MAX_DURATION_S:g} s.")
        self._news = threading.Condition()
        self._chunks: list[Array] = []
        self._came = 0
        self._level: Level | None = None
        self._rates: tuple[int, int] | None = None
        self._overflows = 0
        self._error: str | None = None
        self._complete = self._stopped = self._ended = False
        self._unwatched_s, self._watched = unwatched_s, time.monotonic()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this object
        self._audio, audio = os.pipe()
        self._status, status = os.pipe()
        name = "default" if device is None else str(device)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.sound.recorder", "record", name, str(seconds), str(audio), str(status)],
                pass_fds=(audio, status),
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                process_group=0,
                cwd=paths.ROOT,
                env=environment(OPENBLAS_NUM_THREADS="1"),
            )
        except OSError as e:
            os.close(self._audio)
            os.close(self._status)
            raise MicrophoneError(f"No process can be started for recording: {e.strerror}.") from e
        finally:
            os.close(audio)
            os.close(status)
        self._thread = threading.Thread(target=self._listen, name="microphone", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float = 0.0) -> Array:
        """What came since the last call, (n,) float32 at 16 kHz; waits for something up to the limit, then n = 0.

        Raises MicrophoneError once all that came before the failure was read.
        """
        with self._news:
            self._news.wait_for(lambda: self._chunks or self._ended, timeout_s)
            chunks, self._chunks = self._chunks, []
            if not chunks and self._error:
                raise MicrophoneError(self._error)
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    @property
    def running(self) -> bool:
        """Whether more may come. What came already still waits to be read."""
        return not self._ended

    @property
    def level(self) -> Level | None:
        """How loud it is just now; None before the first sound."""
        return self._level

    @property
    def rates(self) -> tuple[int, int] | None:
        """(the device's rate, the rate of what is read) in Hz; None before the device is open."""
        return self._rates

    @property
    def overflows(self) -> int:
        """How often sound was lost because this device is too busy."""
        return self._overflows

    @property
    def elapsed_s(self) -> float:
        """Seconds of sound that came."""
        return self._came / SAMPLE_RATE_HZ

    def watched(self) -> None:
        """Whoever began the recording is still there."""
        self._watched = time.monotonic()

    def stop(self) -> None:
        """End the recording; what came until now can still be read."""
        self._finish()
        self._thread.join(GRACE_S)
        if self._thread.is_alive():  # the driver hangs on closing
            end(self._process)
            self._thread.join(GRACE_S)

    def _finish(self) -> None:
        """Tell the child that it is enough."""
        self._stopped = True
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _listen(self) -> None:
        """Take in what the child sends, until it closes both pipes or says nothing for too long."""
        rest = {self._audio: b"", self._status: b""}
        living = set(rest)
        while living:
            ready, _, _ = select.select(living, [], [], LIFE_S)
            if self._unwatched_s and not self._stopped and time.monotonic() - self._watched > self._unwatched_s:
                self._finish()
            if not ready:
                self._error = f"The microphone's driver gave no sign of life for {LIFE_S:g} s and was ended."
                break
            for pipe in ready:
                data = os.read(pipe, 65536)
                if not data:
                    living.discard(pipe)
                    continue
                data = rest[pipe] + data
                whole = len(data) // 4 * 4 if pipe == self._audio else data.rfind(b"\n") + 1
                data, rest[pipe] = data[:whole], data[whole:]
                with self._news:
                    if pipe == self._audio:
                        self._chunks.append(np.frombuffer(data, np.float32))
                        self._came += whole // 4
                    else:
                        for line in data.splitlines():
                            self._take(json.loads(line))
                    self._news.notify_all()
        with suppress(subprocess.TimeoutExpired):
            if not living:
                self._process.wait(GRACE_S)
        end(self._process)
        with self._news:
            if not (self._complete or self._stopped or self._error):
                self._error = f"The recording broke off: {death(self._process.returncode, self._log)}"
            self._ended = True
            self._news.notify_all()
        for pipe in rest:
            os.close(pipe)
        self._log.close()

    def _take(self, told: dict[str, Any]) -> None:
        if "error" in told:
            self._error = told["error"]
        elif "rates" in told:
            self._rates = (told["rates"][0], told["rates"][1])
        elif "complete" in told:
            self._complete = True
        else:
            self._level, self._overflows = Level(told["peak_dbfs"], told["rms_dbfs"]), told["overflows"]
