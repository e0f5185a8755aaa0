"""Paths of the repository, of the data that it ships, and of this device's data folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.errors import EarbenchError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data"
SPEECH_CLIP = SHIPPED / "clips" / "benchmark-5s.wav"


def data_folder() -> Path:
    """The folder of the database, the cache and the logs: `data/`, or EARBENCH_DATA if set. Created if absent."""
    folder = Path(os.environ.get("EARBENCH_DATA") or SHIPPED).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_in_use = threading.Lock()


@contextmanager
def using(folder: Path | str | None) -> Iterator[None]:
    """Make `folder` the data folder within the block; None leaves the one that it is.

    It holds for all threads and for child processes started within. Raises EarbenchError if another block is open.
    """
    if not _in_use.acquire(blocking=False):
        raise EarbenchError(
            f"This process is measuring already, in {data_folder()}. Wait for it, or measure in another process: two "
            "at once would disturb each other."
        )
    before = os.environ.get("EARBENCH_DATA")
    try:
        if folder is not None:
            os.environ["EARBENCH_DATA"] = str(Path(folder).expanduser().resolve())
        yield
    finally:
        if before is None:
            os.environ.pop("EARBENCH_DATA", None)
        else:
            os.environ["EARBENCH_DATA"] = before
        _in_use.release()


def database() -> Path:
    """The path of the SQLite file."""
    return data_folder() / "earbench.db"


def cache() -> Path:
    """The folder of artefacts and other files that can be built again."""
    return data_folder() / "cache"


def logs() -> Path:
    """The folder of the workers' logs. Created if absent."""
    folder = data_folder() / "logs"
    folder.mkdir(exist_ok=True)
    return folder
