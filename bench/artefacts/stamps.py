"""Stamps of files: size, times and inode. Files whose stamps are unchanged are not read again.

An artefact is verified in full (SHA-256) when it is built, when it is imported and by `python -m bench artefacts
verify`. Its stamps are written then, into a hidden file beside its folder. Every start compares stamps alone, so it
does not notice damage that changes neither size nor times, such as that of a failing disk: `verify` does.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

Stamps = Mapping[str, list[int]]  # by file name


def stamp(path: Path) -> list[int]:
    """Return a file's size in bytes, times of modification and of change in ns, and inode. Raises OSError.

    A copy may restore the time of modification (`cp -p`); the time of change can't be set.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def of(directory: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return the stamps of files in a folder. Raises OSError."""
    return {name: stamp(directory / name) for name in names}


def file_of(directory: Path) -> Path:
    """Return the file with the stamps of a folder's verified files."""
    return directory.with_name(f".{directory.name}.verified")


def write(directory: Path, stamps: Stamps) -> None:
    """Remember the stamps of verified files. Without effect where nothing can be written."""
    file = file_of(directory)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.write_text(json.dumps(stamps))
        partial.replace(file)


def forget(directory: Path) -> None:
    """Remove the stamps, so that the files are verified in full before their next use."""
    with contextlib.suppress(OSError):
        file_of(directory).unlink()


def unchanged(directory: Path, names: Iterable[str]) -> bool:
    """Return whether the files are those that were verified; False if they never were."""
    try:
        return bool(json.loads(file_of(directory).read_text()) == of(directory, names))
    except (OSError, ValueError):
        return False
