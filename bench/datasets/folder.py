"""Folders of clips: limits, paths that stay inside, and new ones that appear whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from bench.core.errors import EarbenchError
from bench.core.units import size as in_words

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")

MAX_CLIPS = 100_000
MAX_MANIFEST_BYTES = 200_000_000
MAX_FILES = 20_000  # of a folder that is unpacked or fetched
MAX_BYTES = 2_000_000_000  # of such a folder
MAX_NAMED = 3  # in a remark


class DatasetError(EarbenchError):
    """A data set can't be had; the text says what came, what is allowed and how to fix it."""


class Listed(NamedTuple):
    """A clip as a list names it; `at` is the place in the list, for messages."""

    at: str
    path: str
    text: str


def sha256(path: Path) -> str | None:
    """Of a file's bytes; None where it is gone or can't be read, which will be told when it is to be heard."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def lines_of(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file. Raises DatasetError."""
    try:
        if (size := file.stat().st_size) > MAX_MANIFEST_BYTES:
            raise DatasetError(
                f"{file.name} has {in_words(size)}; allowed: {in_words(MAX_MANIFEST_BYTES)}. Cut it into parts."
            )
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except UnicodeDecodeError as e:
        raise DatasetError(f"{file.name} is not UTF-8 ({e.reason}). Save it again with that encoding.") from e
    except OSError as e:
        raise DatasetError(f"{file} can't be read ({e.strerror}). Check that this user may read it.") from e


def is_file(path: Path) -> bool:
    """Whether a file is there and its name can be looked up."""
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be read
        return False


# --- what fetching and unpacking need too


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends well and is gone when it does not."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DatasetError(f"{target} is there already. Remove it, or take another folder.")
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        pid = left.suffix[1:]
        if pid.isdigit() and not Path("/proc", pid).exists():  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def relative_path(path: str) -> PurePosixPath:
    """A path as POSIX or Windows write it. Raises ValueError where it is absolute or climbs."""
    relative = PurePosixPath(path.replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(path).drive or ".." in relative.parts:
        raise ValueError
    return relative


def first_few(names: Iterable[str], count: int = MAX_NAMED) -> str:
    """The first of the names, for a sentence; an ellipsis stands for the others."""
    first = list(itertools.islice(names, count + 1))
    return ", ".join([*first[:count], "…"] if len(first) > count else first)
