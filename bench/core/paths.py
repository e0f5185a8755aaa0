"""Where things lie: the repository, what it ships, and the data folder of this device."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data"
SPEECH_CLIP = SHIPPED / "clips" / "benchmark-5s.wav"


def data_folder() -> Path:
    """The folder of the database, the cache and the logs: `data/`, or what EARBENCH_DATA names. Made if absent."""
    folder = Path(os.environ.get("EARBENCH_DATA") or SHIPPED).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def database() -> Path:
    """The SQLite file."""
    return data_folder() / "earbench.db"


def cache() -> Path:
    """Artefacts and other things that can be made again."""
    return data_folder() / "cache"


def logs() -> Path:
    """What workers print."""
    folder = data_folder() / "logs"
    folder.mkdir(exist_ok=True)
    return folder
