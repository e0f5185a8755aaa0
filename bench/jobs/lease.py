"""The lease of the device: one job at a time per data folder, whichever process runs it.

The lease is an flock on `earbench.lock` in the data folder, held while a job runs. The system releases it when its
holder dies, for whatever reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from bench.core.errors import EarbenchError

GLANCE_S = 0.5  # how long to wait for a page or a start-up that holds the lock only to check it
BLINK_S = 0.05  # how long to wait for the check of another page


class Refused(EarbenchError):
    """A job can't start."""


class Lease:
    """The lock of one data folder. Closing the file that `take` returns releases it."""

    def __init__(self, path: Path) -> None:
        """`path` is the lock file; nothing is locked yet."""
        self._path = path

    def take(self) -> TextIO:
        """Acquire the lease. Raises Refused, which names the holder."""
        file = self._path.open("a+")
        if not _try_lock(file, fcntl.LOCK_EX, GLANCE_S):
            sentence = _holder_sentence(file)
            file.close()
            raise Refused(f"{sentence} Two at once would disturb each other: wait for it, or cancel it there.")
        return file

    def try_take(self) -> TextIO | None:
        """Acquire the lease without waiting; None if it is held."""
        file = self._path.open("a+")
        if _try_lock(file, fcntl.LOCK_EX):
            return file
        file.close()
        return None

    def holder(self) -> str | None:
        """The holder, as a sentence; None if the lease is free."""
        with self._path.open("a+") as file:
            return None if _try_lock(file, fcntl.LOCK_SH, BLINK_S) else _holder_sentence(file)

    def is_ours(self) -> bool:
        """Whether this process holds the lease."""
        with self._path.open() as file:
            return _signature(file).get("pid") == os.getpid()


def sign(file: TextIO, what: str) -> None:
    """Write the holder and its purpose into a lease."""
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "what": what, "since_s": time.time()}, file)
    file.flush()


def clear(file: TextIO) -> None:
    """Remove the previous holder from a lease."""
    file.seek(0)
    file.truncate()


def _try_lock(file: TextIO, operation: int, timeout_s: float = 0.0) -> bool:
    """Lock the file, shared or exclusive; False if others still hold it after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def _signature(file: TextIO) -> dict[str, Any]:
    """What `sign` wrote last; empty if the holder has not signed yet."""
    file.seek(0)
    try:
        signature: dict[str, Any] = json.loads(file.read())
    except ValueError:
        return {}
    return signature


def _holder_sentence(file: TextIO) -> str:
    signature = _signature(file)
    if not signature:
        return "Another process holds this device."
    since = time.strftime("%H:%M:%S", time.localtime(signature["since_s"]))
    return f"This device is busy: process {signature['pid']} has held it since {since} for {signature['what']}."
