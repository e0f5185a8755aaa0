"""Audio with reference texts: clips found in a folder, by its manifest or in LibriSpeech's layout.

On the standard library alone, as the dashboard's process imports it. What a manifest says is not trusted: no path
leaves its folder, and sizes have limits. unzip and hub bring such a folder from elsewhere.
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
from bench.datasets.folder import MAX_CLIPS, DatasetError, Listed, first_few, is_file, relative_path, sha256
from bench.datasets.librispeech import TRANSCRIPTS, find_transcripts, read_transcripts
from bench.datasets.manifest import MANIFESTS, find_manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what was said. `id` is its path within the data set's folder, with slashes."""

    id: str
    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Clips in the order of their list. `remarks`: sentences on what was left out."""

    name: str
    where: str
    layout: str
    clips: tuple[Clip, ...]
    remarks: tuple[str, ...] = ()

    @property
    def words(self) -> int:
        """Words of all references, separated by white space."""
        return sum(len(clip.text.split()) for clip in self.clips)

    @property
    def digest(self) -> str:
        """SHA-256 over ids, texts and all bytes; another one means that the set has changed."""
        found = hashlib.sha256()
        for clip in self.clips:
            found.update(json.dumps([clip.id, clip.text, sha256(clip.path)]).encode())
        return found.hexdigest()


def bundled() -> Path:
    """The folder of the clips that the repository ships, for `find`."""
    return paths.SHIPPED / "clips"


def find(where: str, split: str = "evaluate") -> Dataset:
    """The data set of a folder or a manifest file; `split` chooses where a manifest has that column.

    Layouts: a manifest (CSV, TSV or JSON lines), or LibriSpeech's. Raises DatasetError.
    """
    place = _place(where)
    if place.is_file():
        return _dataset(place.stem, place, "manifest", read_manifest(place, split))
    if manifest := find_manifest(place):
        return _dataset(place.name, place, "manifest", read_manifest(manifest, split))
    if transcripts := find_transcripts(place):
        return _dataset(place.name, place, "LibriSpeech", read_transcripts(place, transcripts))
    raise DatasetError(
        f"{place} holds no data set of a known layout. Looked for: manifest.csv, manifest.tsv, manifest.jsonl or a "
        f"single file of these kinds, and LibriSpeech's SPEAKER/CHAPTER/*{TRANSCRIPTS}. To fix it, put a manifest.csv "
        "beside the audio files: the line path,text and then one line for each clip."
    )


def of(spec: EvaluationSpec) -> Dataset:
    """The clips that an evaluation asks for. Raises DatasetError."""
    found = find(spec.dataset, spec.split)
    return choose(found, spec.limit, spec.seed) if spec.limit else found


def choose(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """At most `limit` clips, in their order. The same seed gives the same ones, and more for a higher limit."""
    if limit < 1:
        raise DatasetError(f"Got a limit of {limit} clips. Allowed: 1 or more.")
    if limit >= len(dataset.clips):
        return dataset
    # By digest, as it holds for ever: what `random` draws may change with Python.
    drawn = sorted(dataset.clips, key=lambda clip: hashlib.sha256(f"{seed} {clip.id}".encode()).digest())[:limit]
    chosen = {clip.id for clip in drawn}
    remark = f"{limit} of {len(dataset.clips)} clips were chosen, with seed {seed}."
    clips = tuple(clip for clip in dataset.clips if clip.id in chosen)
    return replace(dataset, clips=clips, remarks=(*dataset.remarks, remark))


# --- layouts


def _place(where: str) -> Path:
    """The folder, which holds something, or the manifest."""
    try:
        place = Path(where).expanduser().resolve()
        folder, file = place.is_dir(), place.is_file()
        empty = folder and not any(place.iterdir())
    except (OSError, RuntimeError, ValueError) as e:
        raise DatasetError(f"“{where}” can't be read ({e}). Allowed: a folder on this device.") from e
    if not where.strip() or not (folder or file):
        raise DatasetError(
            f"There is no folder or file “{where}”. Allowed: the path of a folder on this device that holds audio and "
            "texts, or of its manifest."
        )
    if empty:
        raise DatasetError(f"The folder {place} is empty. Put audio files and a manifest.csv there.")
    if file and place.suffix.lower() not in MANIFESTS:
        raise DatasetError(f"{place.name} is no manifest. Allowed: {', '.join(MANIFESTS)}, or a folder.")
    return place


def _dataset(name: str, place: Path, layout: str, listed: Iterable[Listed]) -> Dataset:
    folder = place.parent if place.is_file() else place
    clips: dict[str, Clip] = {}
    missing, untold, twice = [], [], []
    total = 0
    for total, (at, path, text) in enumerate(listed, 1):
        if total > MAX_CLIPS:
            raise DatasetError(f"{place} lists more than {MAX_CLIPS:,} clips, which is the limit. Cut the list.")
        try:
            f"{path}{text}".encode()
        except UnicodeEncodeError as e:
            raise DatasetError(f"{at}: {path!r} or its text is not Unicode ({e.reason}). Write it again.") from e
        inside = _inside(folder, path, at)
        if inside.as_posix() in clips:
            twice.append(path)
        elif not path or not is_file(folder / inside):
            missing.append(path or at)
        elif not text.strip():
            untold.append(path)
        else:
            clips[inside.as_posix()] = Clip(inside.as_posix(), folder / inside, text.strip())
    remarks = (
        *_remark(missing, total, "is missing", "are missing"),
        *_remark(untold, total, "has no text", "have no text"),
        *_remark(twice, total, "is listed twice and kept once", "are listed twice and kept once"),
    )
    if not clips:
        why = " ".join(remarks) or "It lists none."
        raise DatasetError(
            f"{place} has no clip that can be used. {why} Paths count from the manifest's folder, {folder}."
        )
    return Dataset(name, str(place), layout, tuple(clips.values()), remarks)


def _inside(folder: Path, path: str, at: str) -> PurePosixPath:
    """The path within the folder. Raises DatasetError where it leads out of it."""
    try:
        inside = relative_path(path)
        # Common Voice names the files that lie in clips/.
        if not is_file(folder / inside) and is_file(folder / "clips" / inside):
            inside = "clips" / inside
        if not Path(os.path.realpath(folder / inside)).is_relative_to(folder):
            raise ValueError
    except ValueError as e:  # also a path with a zero byte
        raise DatasetError(
            f"{at}: “{path}” leads out of the data set's folder. Allowed: files within {folder}, named from there."
        ) from e
    return inside


def _remark(names: list[str], total: int, one: str, many: str) -> list[str]:
    return [f"{len(names)} of {total} clips {one if len(names) == 1 else many} ({first_few(names)})."] if names else []
