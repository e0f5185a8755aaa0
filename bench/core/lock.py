"""The lock of a data folder: an flock on `earbench.lock`, held while a job runs or the database is brought up to date.

The system releases it when its holder dies, for whatever reason. The holder signs the file, so that others can name it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

NAME = "earbench.lock"
GLANCE_S = 0.5  # how long to wait for a page or a start-up that holds the lock only to check it


def try_lock(file: TextIO, operation: int, timeout_s: float = 0.0) -> bool:
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


def take(path: Path) -> TextIO | str:
    """Lock the file exclusively and return it, to be closed by the caller; if others hold it, a sentence on them."""
    file = path.open("a+")
    if try_lock(file, fcntl.LOCK_EX, GLANCE_S):
        return file
    with file:
        return holder_sentence(file)


def sign(file: TextIO, what: str) -> None:
    """Write the holder and its purpose into the locked file."""
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "what": what, "since_s": time.time()}, file)
    file.flush()


def clear(file: TextIO) -> None:
    """Remove the previous holder from the locked file."""
    file.seek(0)
    file.truncate()


def signature(file: TextIO) -> dict[str, Any]:
    """What `sign` wrote last; empty if the holder has not signed yet."""
    file.seek(0)
    try:
        fields: dict[str, Any] = json.loads(file.read())
    except ValueError:
        return {}
    return fields


def holder_sentence(file: TextIO) -> str:
    """Who holds the lock, since when and for what."""
    fields = signature(file)
    if not fields:
        return "Another process holds this device."
    since = time.strftime("%H:%M:%S", time.localtime(fields["since_s"]))
    return f"This device is busy: process {fields['pid']} has held it since {since} for {fields['what']}."
