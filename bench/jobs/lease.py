"""Who holds the device: one job at a time on a data folder, whichever process runs it.

The lease is an flock on `earbench.lock` in the data folder, held while a job runs: the system drops it when its holder
dies, however that happens.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from bench.core.errors import EarbenchError

GLANCE_S = 0.5  # a look at the lock, from a page or by a start-up, holds it for a moment
BLINK_S = 0.05  # so long one page's look may be in another one's way


class Refused(EarbenchError):
    """A job can't start."""


class Lease:
    """The lock of one data folder. The file that holds it is closed to give it back."""

    def __init__(self, path: Path) -> None:
        """Nothing is locked yet."""
        self._path = path

    def take(self) -> TextIO:
        """The lease. Raises Refused with the name of who holds it."""
        file = self._path.open("a+")
        if not _locked(file, fcntl.LOCK_EX, GLANCE_S):
            sentence = _sentence(file)
            file.close()
            raise Refused(f"{sentence} Two at once would disturb each other: wait for it, or cancel it there.")
        return file

    def try_take(self) -> TextIO | None:
        """The lease at once, or None."""
        file = self._path.open("a+")
        if _locked(file, fcntl.LOCK_EX):
            return file
        file.close()
        return None

    def holder(self) -> str | None:
        """Who holds it, as a sentence; None if nobody does."""
        with self._path.open("a+") as file:
            return None if _locked(file, fcntl.LOCK_SH, BLINK_S) else _sentence(file)

    def is_ours(self) -> bool:
        """Whether it is this process that holds it."""
        with self._path.open() as file:
            return _signature(file).get("pid") == os.getpid()


def sign(file: TextIO, what: str) -> None:
    """Write into a lease who holds it, and for what."""
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "what": what, "since_s": time.time()}, file)
    file.flush()


def clear(file: TextIO) -> None:
    """Forget who held a lease before."""
    file.seek(0)
    file.truncate()


def _locked(file: TextIO, how: int, patience_s: float = 0.0) -> bool:
    """Lock the file, shared or not; False if others hold it longer than that."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def _signature(file: TextIO) -> dict[str, Any]:
    """What `sign` wrote last; empty where the holder did not sign yet."""
    file.seek(0)
    try:
        signature: dict[str, Any] = json.loads(file.read())
    except ValueError:
        return {}
    return signature


def _sentence(file: TextIO) -> str:
    signature = _signature(file)
    if not signature:
        return "Another process holds this device."
    since = time.strftime("%H:%M:%S", time.localtime(signature["since_s"]))
    return f"This device is busy: process {signature['pid']} has held it since {since} for {signature['what']}."
