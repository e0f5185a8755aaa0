"""LibriSpeech's layout: SPEAKER/CHAPTER/*.flac beside *.trans.txt."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.datasets.folder import MAX_CLIPS, DatasetError, Listed, lines_of

TRANSCRIPTS = ".trans.txt"  # suffix of LibriSpeech's transcript files
MAX_ENTRIES = 4 * MAX_CLIPS  # in a folder that is searched for transcripts


def find_transcripts(folder: Path) -> list[Path]:
    """The transcript files below a folder, sorted. Raises DatasetError if it holds too many files."""
    transcripts, entry_count = [], 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        entry_count += len(folders) + len(files)
        if entry_count > MAX_ENTRIES:
            raise DatasetError(
                f"{folder} holds more than {MAX_ENTRIES:,} files; allowed: {MAX_CLIPS:,} clips. Name a folder in it."
            )
        transcripts += [Path(root, name) for name in sorted(files) if name.endswith(TRANSCRIPTS)]
    return transcripts


def read_transcripts(folder: Path, transcripts: Iterable[Path]) -> Iterator[Listed]:
    """Yield the clips that the transcripts list. Raises DatasetError."""
    for transcript in transcripts:
        for number, line in enumerate(lines_of(transcript), 1):
            if words := line.split(maxsplit=1):
                path = (transcript.parent / f"{words[0]}.flac").relative_to(folder).as_posix()
                yield Listed(f"{transcript.name}, line {number}", path, "".join(words[1:]))
