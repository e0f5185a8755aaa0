"""Unpacks a zip of audio and texts into a folder for `bench.datasets.dataset.find`.

Only audio and manifests are written. What is hostile in a zip is refused by `bench.core.archive`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from bench.core import archive
from bench.core.archive import Rules
from bench.datasets.folder import AUDIO, MAX_BYTES, MAX_FILES, DatasetError, first_few, new_folder
from bench.datasets.librispeech import TRANSCRIPTS
from bench.datasets.manifest import MANIFESTS

NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
RULES = Rules(
    error=DatasetError,
    allowed="a zip with audio and a manifest",
    remedy="Zip the folder again",
    smaller="Zip fewer files, or put the folder on this device by another way and give its path.",
    content="speech",  # it reaches a ratio of 10 at most
    max_listed=MAX_FILES,
    max_files=MAX_FILES,
    max_bytes=MAX_BYTES,
    max_archive_bytes=200_000_000,
)


def unpack(path: Path, target: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Unpack a zip's audio and manifests into the new folder `target`, completely or not at all.

    Returns the folder for `find`: `target`, or the only folder in it. `progress` receives a sentence on files that were
    left out. Raises DatasetError.
    """
    left_out: list[str] = []

    def select(entry: ZipInfo, relative: PurePosixPath) -> bool:
        if archive.is_folder(entry):
            return False
        if relative.suffix.lower() in NESTED:
            raise DatasetError(f"{path.name} holds the archive “{relative}”. Unpack it and zip what it holds.")
        # Hidden files: macOS adds files to a zip that have the audio files' names.
        hidden = any(part.startswith((".", "__MACOSX")) for part in relative.parts)
        selected = not hidden and relative.name.lower().endswith((*AUDIO, *MANIFESTS, TRANSCRIPTS))
        if not selected:
            left_out.append(str(relative))
        return selected

    with archive.opened(path, RULES) as packed:
        entries = archive.files(packed, path, RULES, select)
        if not entries:
            raise DatasetError(
                f"{path.name} holds neither audio nor a manifest. Allowed: {', '.join((*AUDIO, *MANIFESTS))}."
            )
        with new_folder(target) as folder:
            archive.check_room(entries.values(), path, RULES, folder)
            for name, entry in entries.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                archive.unpack(packed, entry, folder / name)
    if left_out:
        progress(f"{len(left_out)} of its files were left out as neither audio nor manifest ({first_few(left_out)}).")
    contents = list(target.iterdir())
    return contents[0] if len(contents) == 1 and contents[0].is_dir() else target
