"""Folders of clips: size limits, paths that stay inside, and new folders that appear complete or not at all."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import EarbenchError
from bench.core.units import size as in_words

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")

MAX_CLIPS = 100_000
MAX_MANIFEST_BYTES = 200_000_000
MAX_FILES = 20_000  # in a folder that is unpacked or fetched
MAX_BYTES = 2_000_000_000  # in such a folder
MAX_NAMED = 3  # clips named in a remark


class DatasetError(EarbenchError):
    """A data set can't be used; the text says what was received, what is allowed and how to fix it."""


class Listed(NamedTuple):
    """A clip as listed in a manifest or transcript; `at` is its position in the list, for messages."""

    at: str
    path: str
    text: str


def sha256(path: Path) -> str | None:
    """SHA-256 of a file's contents; None if it can't be read, which is reported when the clip is to be transcribed."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file. Raises DatasetError."""
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
    """Whether the path is an existing file; False if the lookup fails."""
    try:
        return path.is_file()
    except OSError:  # e.g. the name is too long, or the folder may not be read
        return False


# --- also used by `hub` and `unzip`


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Create a folder beside `target` that is renamed to `target` if the block succeeds, and deleted if it fails."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DatasetError(f"{target} is there already. Remove it, or take another folder.")
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*"):
        pid = leftover.suffix[1:]
        if pid.isdigit() and not Path("/proc", pid).exists():  # left by a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def first_few(names: Iterable[str], count: int = MAX_NAMED) -> str:
    """The first `count` names, joined for a sentence; an ellipsis stands for the others."""
    first = list(itertools.islice(names, count + 1))
    return ", ".join([*first[:count], "…"] if len(first) > count else first)
