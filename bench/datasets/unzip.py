"""Unpacks a zip of audio and texts into a folder for `bench.datasets.dataset.find`.

Uses only the standard library, because the dashboard's process imports it. Archives are not trusted: no path leaves the
folder, only audio and manifests are written, and sizes are counted while unpacking.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from bench.core.units import size as in_words
from bench.datasets.folder import AUDIO, MAX_BYTES, MAX_FILES, DatasetError, first_few, new_folder, relative_path
from bench.datasets.librispeech import TRANSCRIPTS
from bench.datasets.manifest import MANIFESTS

NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")

MAX_ARCHIVE_BYTES = 200_000_000
MAX_RATIO = 100  # unpacked size over packed size; speech reaches 10 at most
RATIO_FROM_BYTES = 20_000_000  # below this, the ratio is not checked: a short archive may hold only silence
_BLOCK_BYTES = 65_536


def unpack(archive: Path, target: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Unpack a zip's audio and manifests into the new folder `target`, completely or not at all.

    Returns the folder for `find`: `target`, or the only folder in it. `progress` receives a sentence on files that were
    left out. Raises DatasetError.
    """
    name = archive.name
    try:
        if (size := archive.stat().st_size) > MAX_ARCHIVE_BYTES:
            raise DatasetError(
                f"{name} has {in_words(size)}; allowed: {in_words(MAX_ARCHIVE_BYTES)}. Put the folder on this device "
                "by another way and give its path."
            )
        if directory_entries(archive) > MAX_FILES:
            raise DatasetError(f"{name} holds more than {MAX_FILES:,} files, which is the limit. Zip fewer.")
        with new_folder(target) as folder, zipfile.ZipFile(archive) as packed:
            selected, left_out = _select(packed, name)
            _write(packed, selected, folder, name, max(MAX_RATIO * size, RATIO_FROM_BYTES))
    except DatasetError:
        raise
    except Exception as e:  # zipfile raises many types of errors on malicious files
        raise DatasetError(
            f"{name} can't be unpacked ({e}). Allowed: a zip with audio and a manifest. Zip the folder again, and see "
            "that this device has free space."
        ) from e
    if left_out:
        progress(f"{len(left_out)} of its files were left out as neither audio nor manifest ({first_few(left_out)}).")
    entries = list(target.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def directory_entries(archive: Path) -> int:
    """Upper bound on the files in a zip: counts their signatures, before zipfile creates an object for each."""
    signature, count, tail = b"PK\x01\x02", 0, b""
    with archive.open("rb") as stream:
        while block := stream.read(1 << 20):
            count += (tail + block).count(signature)
            tail = block[-3:]
    return count


def _select(packed: zipfile.ZipFile, name: str) -> tuple[list[tuple[zipfile.ZipInfo, PurePosixPath]], list[str]]:
    """The entries to write, with their paths, and the names of those to leave out. Raises DatasetError."""
    selected, left_out = [], []
    for entry in packed.infolist():
        try:
            path = relative_path(entry.filename)
        except ValueError as e:
            raise DatasetError(
                f"{name} holds “{entry.filename}”, which leads out of its folder. Zip the folder again with relative "
                "paths."
            ) from e
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            description = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
            raise DatasetError(f"{name} holds “{path}”, {description}. Allowed: plain files. Zip the files themselves.")
        if entry.is_dir() or kind == stat.S_IFDIR or entry.filename.endswith("\\"):
            continue
        if path.suffix.lower() in NESTED:
            raise DatasetError(f"{name} holds the archive “{path}”. Unpack it and zip what it holds.")
        # Hidden files: macOS adds files to a zip that have the audio files' names.
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if hidden or not path.name.lower().endswith((*AUDIO, *MANIFESTS, TRANSCRIPTS)):
            left_out.append(str(path))
            continue
        if entry.flag_bits & 1:
            raise DatasetError(f"{name} is encrypted (“{path}”). Zip it without a password.")
        # With bzip2 and LZMA, a few bytes can expand to a block of any size before it is counted.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{name} packs “{path}” in an unusual way. Allowed: stored or deflated, the default.")
        selected.append((entry, path))
    if not selected:
        raise DatasetError(f"{name} holds neither audio nor a manifest. Allowed: {', '.join((*AUDIO, *MANIFESTS))}.")
    return selected, left_out


def _write(
    packed: zipfile.ZipFile,
    selected: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    folder: Path,
    name: str,
    max_bytes: int,
) -> None:
    written = 0
    for entry, path in selected:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with packed.open(entry) as source, (folder / path).open("xb") as target_file:
            while block := source.read(_BLOCK_BYTES):
                written += len(block)
                if written > MAX_BYTES:
                    raise DatasetError(
                        f"{name} unpacks to more than {in_words(MAX_BYTES)}, which is the limit. Zip fewer."
                    )
                if written > max_bytes:
                    raise DatasetError(
                        f"{name} grows to more than {MAX_RATIO} times its size, as no speech does. Allowed: audio and "
                        "a manifest. Zip the folder again."
                    )
                target_file.write(block)
