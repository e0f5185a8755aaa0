"""Zips from elsewhere: checked before anything is written, and counted while it is.

Archives are not trusted. No path leaves the folder, only plain files are written, and neither a false size in a header
nor a file that expands enormously fills the disk.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.core import paths
from bench.core.errors import EarbenchError
from bench.core.units import size as in_words

_BLOCK_BYTES = 1 << 20
_SIGNATURE = b"PK\x01\x02"  # of an entry in a zip's directory


@dataclass(frozen=True, slots=True)
class Rules:
    """What an archive may hold, and the words for it. `error` is the class of all errors.

    `max_listed` bounds the entries of the archive and of uncompressed archives in it, which are cheap to count, and
    `max_files` those of the archive itself.
    """

    error: type[EarbenchError]
    allowed: str  # completes "Allowed: ..."
    remedy: str  # how to get a proper archive, without the full stop
    smaller: str  # what to do if it is too large, as a sentence
    content: str  # completes "... as no ... does"
    max_listed: int
    max_files: int
    max_bytes: int  # unpacked
    max_archive_bytes: int | None = None
    max_ratio: int = 100  # unpacked over packed size
    ratio_from_bytes: int = 20_000_000  # below this, the ratio is not checked: a short file may hold only zeros


@contextmanager
def opened(path: Path, rules: Rules) -> Iterator[zipfile.ZipFile]:
    """Open a zip of bounded size; whatever fails in the block becomes `rules.error`."""
    try:
        size = path.stat().st_size
        if rules.max_archive_bytes is not None and size > rules.max_archive_bytes:
            raise rules.error(
                f"{path.name} has {in_words(size)}; allowed: {in_words(rules.max_archive_bytes)}. {rules.smaller}"
            )
        too_many = f"{path.name} holds more than {rules.max_files:,} files, which is the limit. {rules.smaller}"
        if _listed(path) > rules.max_listed:
            raise rules.error(too_many)
        with zipfile.ZipFile(path) as packed:
            if len(packed.infolist()) > rules.max_files:
                raise rules.error(too_many)
            yield packed
    except rules.error:
        raise
    except Exception as e:  # zipfile raises many types of errors on malicious files
        raise rules.error(
            f"{path.name} can't be read ({type(e).__name__}: {e}). Allowed: {rules.allowed}. {rules.remedy}, and see "
            "that this device has free space."
        ) from e


def files(
    packed: zipfile.ZipFile,
    path: Path,
    rules: Rules,
    select: Callable[[zipfile.ZipInfo, PurePosixPath], bool],
) -> dict[str, zipfile.ZipInfo]:
    """The entries to unpack, by their path: plain files within the bounds. Raises `rules.error`.

    `select` decides whether an entry is wanted, and may raise an error of its own.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in packed.infolist():
        relative = _relative_path(entry, path.name, rules)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            description = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
            raise rules.error(f"{path.name} holds “{relative}”, {description}. Allowed: plain files. {rules.remedy}.")
        if not select(entry, relative) or is_folder(entry):
            continue
        if entry.flag_bits & 1:
            raise rules.error(f"{path.name} is encrypted (“{relative}”). Zip it without a password.")
        # With bzip2 and LZMA, a few bytes can expand to a block of any size before it is counted.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise rules.error(
                f"{path.name} packs “{relative}” in an unusual way. Allowed: stored or deflated, the default."
            )
        if str(relative) in entries:
            raise rules.error(f"{path.name} holds “{relative}” twice. {rules.remedy}.")
        entries[str(relative)] = entry
    _check_growth(sum(entry.file_size for entry in entries.values()), path, rules)
    return entries


def is_folder(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder, by its name on any system or by its kind."""
    return entry.is_dir() or entry.filename.endswith("\\") or stat.S_ISDIR(entry.external_attr >> 16)


def check_room(entries: Iterable[zipfile.ZipInfo], path: Path, rules: Rules, folder: Path) -> None:
    """Raise `rules.error` if the disk of an existing folder has no room for the unpacked entries."""
    total, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if total > free:
        raise rules.error(f"{path.name} unpacks to {in_words(total)}, and {in_words(free)} are free here. Make room.")


def unpack(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> str:
    """Write an entry to a new file, at most as many bytes as it states; returns their SHA-256.

    Raises an error of zipfile, `opened` translates it, if the contents differ from their checksum.
    """
    digest, left = hashlib.sha256(), entry.file_size
    with packed.open(entry) as source, target.open("xb") as sink:
        # One more read than needed: the checksum is compared at the end.
        while block := source.read(min(_BLOCK_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile(f"{entry.filename} holds more than its stated size")
            digest.update(block)
            sink.write(block)
    if left:
        raise zipfile.BadZipFile(f"{entry.filename} holds less than its stated size")
    return digest.hexdigest()


def _listed(path: Path) -> int:
    """Upper bound on the entries of a zip: counts their signatures, before zipfile creates an object for each."""
    count, tail = 0, b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            count += (tail + block).count(_SIGNATURE)
            tail = block[-len(_SIGNATURE) + 1 :]
    return count


def _relative_path(entry: zipfile.ZipInfo, name: str, rules: Rules) -> PurePosixPath:
    """The path of an entry, written with slashes. Raises `rules.error` if it leads out of the folder."""
    if entry.filename != entry.orig_filename:  # zipfile cuts a name at its first NUL
        raise rules.error(f"{name} holds “{entry.filename}”, whose name goes on after a NUL byte. {rules.remedy}.")
    try:
        return paths.relative_path(entry.filename)
    except ValueError as e:
        raise rules.error(
            f"{name} holds “{entry.filename}”, which leads out of its folder. {rules.remedy}, with relative paths."
        ) from e


def _check_growth(total_bytes: int, path: Path, rules: Rules) -> None:
    if total_bytes > rules.max_bytes:
        raise rules.error(
            f"{path.name} unpacks to {in_words(total_bytes)}; allowed: {in_words(rules.max_bytes)}. {rules.smaller}"
        )
    if total_bytes > max(rules.max_ratio * path.stat().st_size, rules.ratio_from_bytes):
        raise rules.error(
            f"{path.name} grows to more than {rules.max_ratio} times its size, as no {rules.content} does. Allowed: "
            f"{rules.allowed}. {rules.remedy}."
        )
