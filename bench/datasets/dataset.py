"""Data sets of clips with reference texts, read from a folder by its manifest or in LibriSpeech's layout.

Uses only the standard library, because the dashboard's process imports it. Manifests are not trusted: no path leaves
the manifest's folder, and sizes have limits. `unzip` and `hub` create such folders from other sources.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from bench.core import paths
from bench.core.specs import EvaluationSpec
from bench.datasets.folder import MAX_CLIPS, DatasetError, Listed, first_few, is_file, sha256
from bench.datasets.librispeech import TRANSCRIPTS, find_transcripts, read_transcripts
from bench.datasets.manifest import MANIFESTS, find_manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and its reference text. `id` is its path within the data set's folder, with forward slashes."""

    id: str
    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Clips in listed order. `remarks`: sentences on what was left out."""

    name: str
    where: str
    layout: str
    clips: tuple[Clip, ...]
    remarks: tuple[str, ...] = ()

    @property
    def words(self) -> int:
        """Number of words in all references, separated by white space."""
        return sum(len(clip.text.split()) for clip in self.clips)

    @property
    def digest(self) -> str:
        """SHA-256 of ids, texts and file contents; changes whenever the data set does."""
        hasher = hashlib.sha256()
        for clip in self.clips:
            hasher.update(json.dumps([clip.id, clip.text, sha256(clip.path)]).encode())
        return hasher.hexdigest()


def bundled() -> Path:
    """The folder of the clips that the repository ships, as input for `find`."""
    return paths.SHIPPED / "clips"


def find(where: str, split: str = "evaluate") -> Dataset:
    """The data set in a folder or of a manifest file. `split` selects rows if a manifest has that column.

    Layouts: a manifest (CSV, TSV or JSON lines), or LibriSpeech's. Raises DatasetError.
    """
    source = _resolve(where)
    if source.is_file():
        return _dataset(source.stem, source, "manifest", read_manifest(source, split))
    if manifest := find_manifest(source):
        return _dataset(source.name, source, "manifest", read_manifest(manifest, split))
    if transcripts := find_transcripts(source):
        return _dataset(source.name, source, "LibriSpeech", read_transcripts(source, transcripts))
    raise DatasetError(
        f"{source} holds no data set of a known layout. Looked for: manifest.csv, manifest.tsv, manifest.jsonl or a "
        f"single file of these kinds, and LibriSpeech's SPEAKER/CHAPTER/*{TRANSCRIPTS}. To fix it, put a manifest.csv "
        "beside the audio files: the line path,text and then one line for each clip."
    )


def of(spec: EvaluationSpec) -> Dataset:
    """The data set of an evaluation, reduced to its limit of clips. Raises DatasetError."""
    dataset = find(spec.dataset, spec.split)
    return choose(dataset, spec.limit, spec.seed) if spec.limit else dataset


def choose(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """Draw at most `limit` clips, kept in order. With the same seed, a higher limit only adds clips."""
    if limit < 1:
        raise DatasetError(f"Got a limit of {limit} clips. Allowed: 1 or more.")
    if limit >= len(dataset.clips):
        return dataset
    # By digest, because the draws of `random` may change between Python versions.
    drawn_clips = sorted(dataset.clips, key=lambda clip: hashlib.sha256(f"{seed} {clip.id}".encode()).digest())[:limit]
    drawn_ids = {clip.id for clip in drawn_clips}
    remark = f"{limit} of {len(dataset.clips)} clips were chosen, with seed {seed}."
    clips = tuple(clip for clip in dataset.clips if clip.id in drawn_ids)
    return replace(dataset, clips=clips, remarks=(*dataset.remarks, remark))


# --- layouts


def _resolve(where: str) -> Path:
    """Resolve `where` to a folder that is not empty or to a manifest. Raises DatasetError."""
    try:
        source = Path(where).expanduser().resolve()
        folder, file = source.is_dir(), source.is_file()
        empty = folder and not any(source.iterdir())
    except (OSError, RuntimeError, ValueError) as e:
        raise DatasetError(f"“{where}” can't be read ({e}). Allowed: a folder on this device.") from e
    if not where.strip() or not (folder or file):
        raise DatasetError(
            f"There is no folder or file “{where}”. Allowed: the path of a folder on this device that holds audio and "
            "texts, or of its manifest."
        )
    if empty:
        raise DatasetError(f"The folder {source} is empty. Put audio files and a manifest.csv there.")
    if file and source.suffix.lower() not in MANIFESTS:
        raise DatasetError(f"{source.name} is no manifest. Allowed: {', '.join(MANIFESTS)}, or a folder.")
    return source


def _dataset(name: str, source: Path, layout: str, listed: Iterable[Listed]) -> Dataset:
    folder = source.parent if source.is_file() else source
    clips: dict[str, Clip] = {}
    missing, without_text, duplicates = [], [], []
    total = 0
    for total, (at, path, text) in enumerate(listed, 1):
        if total > MAX_CLIPS:
            raise DatasetError(f"{source} lists more than {MAX_CLIPS:,} clips, which is the limit. Cut the list.")
        try:
            f"{path}{text}".encode()
        except UnicodeEncodeError as e:
            raise DatasetError(f"{at}: {path!r} or its text is not Unicode ({e.reason}). Write it again.") from e
        relative = _relative(folder, path, at)
        if relative.as_posix() in clips:
            duplicates.append(path)
        elif not path or not is_file(folder / relative):
            missing.append(path or at)
        elif not text.strip():
            without_text.append(path)
        else:
            clips[relative.as_posix()] = Clip(relative.as_posix(), folder / relative, text.strip())
    remarks = (
        *_remark(missing, total, "is missing", "are missing"),
        *_remark(without_text, total, "has no text", "have no text"),
        *_remark(duplicates, total, "is listed twice and kept once", "are listed twice and kept once"),
    )
    if not clips:
        reason = " ".join(remarks) or "It lists none."
        raise DatasetError(
            f"{source} has no clip that can be used. {reason} Paths count from the manifest's folder, {folder}."
        )
    return Dataset(name, str(source), layout, tuple(clips.values()), remarks)


def _relative(folder: Path, path: str, at: str) -> PurePosixPath:
    """The path relative to the folder. Raises DatasetError if it leads out of the folder."""
    try:
        relative = paths.relative_path(path)
        # Common Voice lists files in clips/ by their bare names.
        if not is_file(folder / relative) and is_file(folder / "clips" / relative):
            relative = "clips" / relative
        if not Path(os.path.realpath(folder / relative)).is_relative_to(folder):
            raise ValueError
    except ValueError as e:  # also a path with a zero byte
        raise DatasetError(
            f"{at}: “{path}” leads out of the data set's folder. Allowed: files within {folder}, named from there."
        ) from e
    return relative


def _remark(names: list[str], total: int, one: str, many: str) -> list[str]:
    return [f"{len(names)} of {total} clips {one if len(names) == 1 else many} ({first_few(names)})."] if names else []
