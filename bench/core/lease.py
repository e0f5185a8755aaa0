"""The lease of the device: one job at a time per data folder, whichever process runs it; a migration needs it too.

The lease is an flock on `earbench.lock` in the data folder, held while a job runs. The system releases it when its
holder dies, for whatever reason. The file also holds a note of who holds it and what for: pages that
only show that read the note and take no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil

from bench.core.errors import EarbenchError

NAME = "earbench.lock"  # in the data folder
WAIT_S = 0.5  # how long a start waits for another start-up that holds the lease only to recover


class Refused(EarbenchError):
    """A job can't start."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lease, and its purpose."""

    pid: int
    what: str
    since_s: float
    started: float | None = None  # of the process, see `_started`. None: by an older Earbench

    @property
    def sentence(self) -> str:
        """The holder as a sentence for people."""
        since = time.strftime("%H:%M:%S", time.localtime(self.since_s))
        return f"This device is busy: process {self.pid} has held it since {since} for {self.what}."

    @property
    def alive(self) -> bool:
        """Whether the process still exists."""
        return self.started is not None and self.started == _started(self.pid)


class Held:
    """The lease while this process holds it; a context manager that releases it."""

    def __init__(self, file: TextIO) -> None:
        """`file` is locked; closing it unlocks it."""
        self._file = file

    def sign(self, what: str) -> None:
        """Write the note that says what the lease is held for."""
        pid = os.getpid()
        self._write(json.dumps(asdict(Holder(pid, what, time.time(), _started(pid)))))

    @property
    def released(self) -> bool:
        """Whether it was given back."""
        return self._file.closed

    def release(self) -> None:
        """Remove the note and unlock. May be called twice."""
        if not self._file.closed:
            self._write("")
            self._file.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self, text: str) -> None:
        try:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text)
            self._file.flush()
        except OSError:  # a full disk: the lock itself holds, only the note is missing
            pass


class Lease:
    """The lease of one data folder."""

    def __init__(self, path: Path) -> None:
        """`path` is the lock file; nothing is locked yet."""
        self._path = path
        self._held: Held | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is held through this object."""
        return self._held is not None and not self._held.released

    def take(self, what: str) -> Held:
        """Take the lease for `what`. Raises Refused, which names the holder."""
        if held := self.try_take(what, WAIT_S):
            return held
        raise Refused(f"{self.sentence()} Two at once would disturb each other: wait for it, or cancel it there.")

    def try_take(self, what: str, wait_s: float = 0.0) -> Held | None:
        """Take the lease; None if others still hold it after `wait_s`."""
        file = self._path.open("a+")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    file.close()
                    return None
                time.sleep(0.01)
        self._held = Held(file)
        self._held.sign(what)
        return self._held

    def sentence(self) -> str:
        """Who holds the lease, as a sentence, after it could not be taken."""
        holder = self._note()
        return holder.sentence if holder else "Another process holds this device."

    def holder(self) -> Holder | None:
        """Who holds the lease, as the note says; None if nobody does, or if its process has died. Takes no lock."""
        holder = self._note()
        return holder if holder and holder.alive else None

    def _note(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):  # no file yet, or no note
            return None


def _started(pid: int) -> float | None:
    """When a process started, in a unit of this system; None if there is none.

    On Linux in ticks since the boot: boards without a battery set their clock after they have booted, and a time since
    the epoch would move with it.
    """
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
