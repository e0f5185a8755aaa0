"""Audio with reference texts: found in a folder, unpacked from a zip, or fetched from the Hugging Face hub.

On the standard library alone, as the dashboard's process imports it. What a manifest or an archive says is not trusted:
no path leaves its folder, and sizes are counted while bytes come.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import importlib
import itertools
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from bench import paths
from bench.text import size as in_words

Progress = Callable[[str], None]

PATH_COLUMNS = ("path", "file", "file_name", "audio", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
MANIFESTS = (".csv", ".tsv", ".jsonl")
TRANSCRIPTS = ".trans.txt"  # of LibriSpeech
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")
NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")

MAX_CLIPS = 100_000
MAX_ENTRIES = 4 * MAX_CLIPS  # of a folder that is searched for transcripts
MAX_MANIFEST_BYTES = 200_000_000
MAX_ARCHIVE_BYTES = 200_000_000
MAX_UNPACKED_BYTES = 2_000_000_000
MAX_FILES = 20_000
MAX_CLIP_BYTES = 200_000_000
MAX_RATIO = 100  # unpacked over packed; speech reaches 10 at the most
RATIO_FROM_BYTES = 20_000_000  # below, the ratio is no matter: a short archive may hold nothing but silence
MAX_NAMED = 3  # in a remark
MAX_NAME = 100  # characters; both make a folder's name
_BLOCK_BYTES = 65_536

_HUB_NAME = re.compile(r"(?P<path>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>\w[\w.-]*))?")
_HUB_SPLIT = re.compile(r"\w[\w.-]*")
_HUB_FILE = re.compile(r"(?:zip://[^:]*::)?hf://datasets/.+")  # nothing of this device, nor of other addresses
_HUB_MAJOR = 4  # of the library: older ones can run code that a data set brings


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
        """SHA-256 over ids, texts and file sizes; another one means that the set has changed."""
        found = hashlib.sha256()
        for clip in self.clips:
            size = clip.path.stat().st_size if clip.path.is_file() else None
            found.update(json.dumps([clip.id, clip.text, size]).encode())
        return found.hexdigest()


class _Listed(NamedTuple):
    """A clip as a list names it; `at` is the place in the list, for messages."""

    at: str
    path: str
    text: str


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
            f"{folder} holds {len(tables)} files that may be the manifest: {_some(t.name for t in tables)}. Give the "
            "path of the one that is meant, or name it manifest.csv."
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
        path, text = _column(record, PATH_COLUMNS, "audio files", at), _column(record, TEXT_COLUMNS, "texts", at)
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


def _column(record: Mapping[str, Any], allowed: tuple[str, ...], what: str, at: str) -> str:
    for name in allowed:
        if name in record:
            return name
    raise DatasetError(
        f"{at}: there is no column of {what}; the columns are {_some(record, 10)}. Allowed: "
        f"{', '.join(allowed)}. A .csv separates columns by commas, a .tsv by tabs."
    )


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
        inside = _relative(path)
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


def _relative(path: str) -> PurePosixPath:
    """A path as POSIX or Windows write it. Raises ValueError where it is absolute or climbs."""
    relative = PurePosixPath(path.replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(path).drive or ".." in relative.parts:
        raise ValueError
    return relative


def _there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be read
        return False


def _remark(names: list[str], total: int, one: str, many: str) -> list[str]:
    return [f"{len(names)} of {total} clips {one if len(names) == 1 else many} ({_some(names)})."] if names else []


def _some(names: Iterable[str], count: int = MAX_NAMED) -> str:
    first = list(itertools.islice(names, count + 1))
    return ", ".join([*first[:count], "…"] if len(first) > count else first)


# --- from elsewhere into a folder


def unpack(archive: Path, target: Path, progress: Progress = lambda _: None) -> Path:
    """A zip's audio and manifests into the new folder `target`, wholly or not at all -> the folder for `find`.

    A single folder at the top is looked through. `progress` is told what was left out. Raises DatasetError.
    """
    name = archive.name
    try:
        if (size := archive.stat().st_size) > MAX_ARCHIVE_BYTES:
            raise DatasetError(
                f"{name} has {in_words(size)}; allowed: {in_words(MAX_ARCHIVE_BYTES)}. Put the folder on this device "
                "by another way and give its path."
            )
        if _directory_entries(archive) > MAX_FILES:
            raise DatasetError(f"{name} holds more than {MAX_FILES:,} files, which is the limit. Zip fewer.")
        with _whole(target) as folder, zipfile.ZipFile(archive) as packed:
            wanted, left_out = _wanted(packed, name)
            _write(packed, wanted, folder, name, max(MAX_RATIO * size, RATIO_FROM_BYTES))
    except DatasetError:
        raise
    except Exception as e:  # what zipfile raises on a file made to break it is no short list
        raise DatasetError(
            f"{name} can't be unpacked ({e}). Allowed: a zip with audio and a manifest. Zip the folder again, and see "
            "that this device has free space."
        ) from e
    if left_out:
        progress(f"{len(left_out)} of its files were left out as neither audio nor manifest ({_some(left_out)}).")
    entries = list(target.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def _directory_entries(archive: Path) -> int:
    """How many files the zip can list at the most, counted by their mark before zipfile makes an object of each."""
    mark, count, rest = b"PK\x01\x02", 0, b""
    with archive.open("rb") as stream:
        while block := stream.read(1 << 20):
            count += (rest + block).count(mark)
            rest = block[-3:]
    return count


def _wanted(packed: zipfile.ZipFile, name: str) -> tuple[list[tuple[zipfile.ZipInfo, PurePosixPath]], list[str]]:
    """The entries to be written, with their paths, and the names of those to be left out."""
    wanted, left_out = [], []
    for entry in packed.infolist():
        try:
            path = _relative(entry.filename)
        except ValueError as e:
            raise DatasetError(
                f"{name} holds “{entry.filename}”, which leads out of its folder. Zip the folder again with relative "
                "paths."
            ) from e
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
            raise DatasetError(f"{name} holds “{path}”, {what}. Allowed: plain files. Zip the files themselves.")
        if entry.is_dir() or kind == stat.S_IFDIR or entry.filename.endswith("\\"):
            continue
        if path.suffix.lower() in NESTED:
            raise DatasetError(f"{name} holds the archive “{path}”. Unpack it and zip what it holds.")
        # Hidden files: what macOS adds to a zip bears the names of the sounds.
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if hidden or not path.name.lower().endswith((*AUDIO, *MANIFESTS, TRANSCRIPTS)):
            left_out.append(str(path))
            continue
        if entry.flag_bits & 1:
            raise DatasetError(f"{name} is encrypted (“{path}”). Zip it without a password.")
        # bzip2 and LZMA let a block of any size grow out of a few bytes before it could be counted.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{name} packs “{path}” in an unusual way. Allowed: stored or deflated, the default.")
        wanted.append((entry, path))
    if not wanted:
        raise DatasetError(f"{name} holds neither audio nor a manifest. Allowed: {', '.join((*AUDIO, *MANIFESTS))}.")
    return wanted, left_out


def _write(
    packed: zipfile.ZipFile, wanted: list[tuple[zipfile.ZipInfo, PurePosixPath]], folder: Path, name: str, bound: int
) -> None:
    written = 0
    for entry, path in wanted:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with packed.open(entry) as source, (folder / path).open("xb") as sink:
            while block := source.read(_BLOCK_BYTES):
                written += len(block)
                if written > MAX_UNPACKED_BYTES:
                    raise DatasetError(
                        f"{name} unpacks to more than {in_words(MAX_UNPACKED_BYTES)}, which is the limit. Zip fewer."
                    )
                if written > bound:
                    raise DatasetError(
                        f"{name} grows to more than {MAX_RATIO} times its size, as no speech does. Allowed: audio and "
                        "a manifest. Zip the folder again."
                    )
                sink.write(block)


def from_hub(name: str, split: str, limit: int, progress: Progress) -> Path:
    """The first `limit` clips of a data set of the Hugging Face hub, as a folder for `find`. Raises DatasetError.

    `name` is OWNER/NAME, or OWNER/NAME:CONFIGURATION. What was fetched before is found again without a network. The
    library is large: call this in a process of its own.
    """
    if len(name) > MAX_NAME or not (named := _HUB_NAME.fullmatch(name)) or Path(named["path"]).exists():
        raise DatasetError(
            f"Got “{name}” as a data set of the Hugging Face hub. Allowed: OWNER/NAME or OWNER/NAME:CONFIGURATION. "
            "A folder on this device needs no hub: give its path instead."
        )
    if len(split) > MAX_NAME or not _HUB_SPLIT.fullmatch(split):
        raise DatasetError(f"Got “{split}” as a split. Allowed: a name such as test or validation.")
    if not 1 <= limit <= MAX_FILES:
        raise DatasetError(f"Got a limit of {limit} clips. Allowed: 1 to {MAX_FILES:,}.")
    target = paths.cache() / "datasets" / f"{re.sub('[/:]', '--', name)}--{split}--{limit}"
    if target.is_dir():
        return target
    library = _library(name)
    try:
        with _whole(target) as folder:
            progress(f"asking the hub for {name}")
            rows = _hub_rows(library, named["path"], named["config"], split)
            _store(itertools.islice(rows, limit), folder, lambda n: progress(f"{n} of {limit} clips of {name}"))
    except DatasetError:
        raise
    except ImportError as e:
        raise DatasetError(
            f"{name} keeps its audio as loose files, which the package datasets reads with a further one ({e}). "
            "pip install torchcodec, or give a folder with audio and a manifest.csv."
        ) from e
    except ConnectionError as e:  # the library's own are of this kind too
        raise DatasetError(
            f"{name} is not on this device yet and the Hugging Face hub can't be reached ({e}). Connect this device "
            "once, or give a folder with audio and a manifest.csv."
        ) from e
    except Exception as e:  # the library and what it stands on raise what they like, and name what is allowed
        raise DatasetError(
            f"The Hugging Face hub gave no {name}, split {split} ({type(e).__name__}: {e}). Check the name, its "
            "configuration (OWNER/NAME:CONFIGURATION), the split and the network; some data sets want `hf auth login`."
        ) from e
    return target


def _library(name: str) -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as e:
        raise DatasetError(
            f"{name} is not on this device yet, and fetching it needs the package datasets, which is missing. "
            "pip install datasets, or give a folder with audio and a manifest.csv."
        ) from e
    if int(library.__version__.split(".")[0]) < _HUB_MAJOR:
        raise DatasetError(
            f"The package datasets {library.__version__} is too old: it can run code that a data set brings. "
            f"Allowed: {_HUB_MAJOR} or newer. pip install -U datasets."
        )
    return library


def _hub_rows(library: Any, path: str, config: str | None, split: str) -> Iterator[tuple[bytes, str, str]]:
    """(audio file, its name, text) of each row."""
    stream = library.load_dataset(path, config, split=split, streaming=True)
    features: dict[str, Any] = dict(stream.features or {})
    sounds = [column for column, feature in features.items() if isinstance(feature, library.Audio)]
    if not sounds:
        raise DatasetError(
            f"{path} has no column of audio; its columns are {_some(features, 10) or 'unknown'}. Take another."
        )
    by_name = {column.lower(): column for column in features}
    text = by_name[_column(by_name, TEXT_COLUMNS, "texts", path)]
    # The files as they are: decoding here would need one more library.
    for row in stream.decode(False).select_columns([sounds[0], text]):
        sound = row[sounds[0]]
        yield _hub_file(sound, path), sound["path"] or "", str(row[text] or "")


def _hub_file(sound: Mapping[str, Any], path: str) -> bytes:
    if sound["bytes"] is not None:
        return bytes(sound["bytes"])
    if not _HUB_FILE.fullmatch(sound["path"] or ""):
        raise DatasetError(f"{path} keeps its audio elsewhere ({sound['path']}), which is not followed. Take another.")
    with importlib.import_module("fsspec").open(sound["path"], "rb") as stream:
        return bytes(stream.read(MAX_CLIP_BYTES + 1))  # what is longer is refused when it is decoded


def _store(rows: Iterable[tuple[bytes, str, str]], folder: Path, progress: Callable[[int], None]) -> None:
    written = n = 0
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "text"))
        for n, (data, name, text) in enumerate(rows, 1):
            written += len(data)
            if written > MAX_UNPACKED_BYTES:
                raise DatasetError(
                    f"The first {n} clips take more than {in_words(MAX_UNPACKED_BYTES)}, which is the limit. "
                    "Ask for fewer."
                )
            suffix = PurePosixPath(name).suffix.lower()
            file = f"{n - 1:05}{suffix if suffix in AUDIO else '.wav'}"  # what is read decides by content
            (folder / file).write_bytes(data)
            table.writerow((file, text))
            progress(n)
    if not n:
        raise DatasetError("The hub gave no clip. Choose another split.")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
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
