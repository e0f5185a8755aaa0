"""Audio with reference texts: clips found in a folder, by its manifest or in LibriSpeech's layout.

On the standard library alone, as the dashboard's process imports it. What a manifest says is not trusted: no path
leaves its folder, and sizes have limits. bench.unzip and bench.hub bring such a folder from elsewhere.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from bench import paths
from bench.records import EvaluationSpec
from bench.text import size as in_words

PATH_COLUMNS = ("path", "file", "file_name", "audio", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
MANIFESTS = (".csv", ".tsv", ".jsonl")
TRANSCRIPTS = ".trans.txt"  # of LibriSpeech
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")

MAX_CLIPS = 100_000
MAX_ENTRIES = 4 * MAX_CLIPS  # of a folder that is searched for transcripts
MAX_MANIFEST_BYTES = 200_000_000
MAX_FILES = 20_000  # of a folder that is unpacked or fetched
MAX_BYTES = 2_000_000_000  # of such a folder
MAX_NAMED = 3  # in a remark


class DatasetError(ValueError):
    """A data set can't be had; the text says what came, what is allowed and how to fix it."""


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


class _Listed(NamedTuple):
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


def bundled() -> Path:
    """The folder of the clips that the repository ships, for `find`."""
    return paths.SHIPPED / "clips"


def find(where: str, split: str = "evaluate") -> Dataset:
    """The data set of a folder or a manifest file; `split` chooses where a manifest has that column.

    Layouts: a manifest (CSV, TSV or JSON lines), or LibriSpeech's. Raises DatasetError.
    """
    place = _place(where)
    if place.is_file():
        return _dataset(place.stem, place, "manifest", _of_manifest(place, split))
    if manifest := _manifest(place):
        return _dataset(place.name, place, "manifest", _of_manifest(manifest, split))
    if transcripts := _transcripts(place):
        return _dataset(place.name, place, "LibriSpeech", _of_transcripts(place, transcripts))
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


def _manifest(folder: Path) -> Path | None:
    tables = sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in MANIFESTS and not entry.name.startswith(".") and entry.is_file()
    )
    for suffix in MANIFESTS:
        if (named := folder / f"manifest{suffix}") in tables:
            return named
    if len(tables) > 1:
        raise DatasetError(
            f"{folder} holds {len(tables)} files that may be the manifest: {first_few(t.name for t in tables)}. Give "
            "the path of the one that is meant, or name it manifest.csv."
        )
    return tables[0] if tables else None


def _transcripts(folder: Path) -> list[Path]:
    found, entries = [], 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        entries += len(folders) + len(files)
        if entries > MAX_ENTRIES:
            raise DatasetError(
                f"{folder} holds more than {MAX_ENTRIES:,} files; allowed: {MAX_CLIPS:,} clips. Name a folder in it."
            )
        found += [Path(root, name) for name in sorted(files) if name.endswith(TRANSCRIPTS)]
    return found


def _of_transcripts(folder: Path, transcripts: Iterable[Path]) -> Iterator[_Listed]:
    for transcript in transcripts:
        for number, line in enumerate(_lines(transcript), 1):
            if words := line.split(maxsplit=1):
                path = (transcript.parent / f"{words[0]}.flac").relative_to(folder).as_posix()
                yield _Listed(f"{transcript.name}, line {number}", path, "".join(words[1:]))


def _of_manifest(file: Path, split: str) -> Iterator[_Listed]:
    others: set[str] = set()
    taken = False
    for number, record in _json_records(file) if file.suffix.lower() == ".jsonl" else _table_records(file):
        at = f"{file.name}, line {number}"
        path, text = (
            find_column(record, PATH_COLUMNS, "audio files", at),
            find_column(record, TEXT_COLUMNS, "texts", at),
        )
        if (its := record.get("split", split).strip()).casefold() != split.strip().casefold():
            others.add(its)
            continue
        taken = True
        yield _Listed(at, record[path], record[text])
    if others and not taken:
        there = ", ".join(f"“{name}”" for name in sorted(others)[:10])
        raise DatasetError(f"{file.name} has no split “{split}”. Those that are there: {there}. Choose one of them.")


def _table_records(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    # A quote in a TSV is mostly a character like any other; taken as CSV's, a single one swallows all that follows.
    tabs = file.suffix.lower() == ".tsv"
    rows = (
        csv.reader(_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(_lines(file), strict=True, skipinitialspace=True)
    )
    header: list[str] = []
    try:
        for row in rows:
            cells = [_unquoted(cell.strip()) if tabs else cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = [cell.lower() for cell in cells]
                continue
            if any(cells[len(header) :]):
                raise DatasetError(
                    f"{file.name}, line {rows.line_num}: {len(cells)} cells under {len(header)} columns. "
                    + ("Allowed: no tab within a text." if tabs else "Put a text with commas into double quotes.")
                )
            yield rows.line_num, dict(itertools.zip_longest(header, cells[: len(header)], fillvalue=""))
    except csv.Error as e:
        raise DatasetError(
            f"{file.name}, line {rows.line_num}: this is no row of a table ({e}). Put a text with quotes or commas "
            "into double quotes, and double the quotes within."
        ) from e


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell.startswith('"') and cell.endswith('"')
    return cell[1:-1].replace('""', '"') if quoted else cell


def _json_records(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        at = f"{file.name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DatasetError(
                f"{at}: not JSON ({getattr(e, 'msg', e)}). Allowed: one object a line, such as "
                '{"path": "a.wav", "text": "hello"}.'
            ) from e
        if not isinstance(record, dict):
            raise DatasetError(f"{at}: got {type(record).__name__}. Allowed: one object a line, with path and text.")
        cells = {key.strip().lower(): value for key, value in record.items()}
        for key in (*PATH_COLUMNS, *TEXT_COLUMNS, "split"):
            if isinstance(cells.get(key), dict | list | bool):
                raise DatasetError(f"{at}: “{key}” holds {type(cells[key]).__name__}. Allowed: a text.")
        yield number, {key: "" if value is None else str(value) for key, value in cells.items()}


def _lines(file: Path) -> Iterator[str]:
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


def _dataset(name: str, place: Path, layout: str, listed: Iterable[_Listed]) -> Dataset:
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
        elif not path or not _there(folder / inside):
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
        if not _there(folder / inside) and _there(folder / "clips" / inside):
            inside = "clips" / inside
        if not Path(os.path.realpath(folder / inside)).is_relative_to(folder):
            raise ValueError
    except ValueError as e:  # also a path with a zero byte
        raise DatasetError(
            f"{at}: “{path}” leads out of the data set's folder. Allowed: files within {folder}, named from there."
        ) from e
    return inside


def _there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be read
        return False


def _remark(names: list[str], total: int, one: str, many: str) -> list[str]:
    return [f"{len(names)} of {total} clips {one if len(names) == 1 else many} ({first_few(names)})."] if names else []


# --- what bench.unzip and bench.hub need too


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


def find_column(record: Mapping[str, Any], allowed: tuple[str, ...], what: str, at: str) -> str:
    """The first of the `allowed` columns that the record has. Raises DatasetError, which names `what` it lacks."""
    for name in allowed:
        if name in record:
            return name
    raise DatasetError(
        f"{at}: there is no column of {what}; the columns are {first_few(record, 10)}. Allowed: "
        f"{', '.join(allowed)}. A .csv separates columns by commas, a .tsv by tabs."
    )


def first_few(names: Iterable[str], count: int = MAX_NAMED) -> str:
    """The first of the names, for a sentence; an ellipsis stands for the others."""
    first = list(itertools.islice(names, count + 1))
    return ", ".join([*first[:count], "…"] if len(first) > count else first)
