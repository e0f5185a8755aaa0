"""The lease of the device: one job at a time per data folder, whichever process runs it.

The lease is an flock on `earbench.lock` in the data folder, held while a job runs. The system releases it when its
holder dies, for whatever reason.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from bench.core import lock
from bench.core.errors import EarbenchError

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
        file = lock.take(self._path)
        if isinstance(file, str):
            raise Refused(f"{file} Two at once would disturb each other: wait for it, or cancel it there.")
        return file

    def try_take(self) -> TextIO | None:
        """Acquire the lease without waiting; None if it is held."""
        file = self._path.open("a+")
        if lock.try_lock(file, fcntl.LOCK_EX):
            return file
        file.close()
        return None

    def holder(self) -> str | None:
        """The holder, as a sentence; None if the lease is free."""
        with self._path.open("a+") as file:
            return None if lock.try_lock(file, fcntl.LOCK_SH, BLINK_S) else lock.holder_sentence(file)

    def is_ours(self) -> bool:
        """Whether this process holds the lease."""
        with self._path.open() as file:
            return lock.signature(file).get("pid") == os.getpid()
