"""Fetches clips of a data set on the Hugging Face hub into a folder for `bench.datasets.dataset.find`.

Uses only the standard library; the package datasets is imported only for fetching. Data sets are not trusted: no file
of this device is read for them, none of their code runs, and bytes are counted as they arrive.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bench.core import paths
from bench.core.units import size as in_words
from bench.datasets.folder import AUDIO, MAX_BYTES, MAX_FILES, DatasetError, first_few, new_folder
from bench.datasets.manifest import TEXT_COLUMNS, find_column

MAX_CLIP_BYTES = 200_000_000
MAX_NAME = 100  # characters, of a data set and of a split; both become part of a folder's name

_NAME = re.compile(r"(?P<path>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>\w[\w.-]*))?")
_SPLIT = re.compile(r"\w[\w.-]*")
_FILE = re.compile(r"(?:zip://[^:]*::)?hf://datasets/.+")  # nothing on this device or at other addresses
_MAJOR = 4  # version of the package datasets: older ones can run code that a data set brings


def from_hub(name: str, split: str, limit: int, progress: Callable[[str], None]) -> Path:
    """Fetch the first `limit` clips of a data set on the Hugging Face hub; returns a folder for `find`.

    `name` is OWNER/NAME, or OWNER/NAME:CONFIGURATION. Clips that were fetched before are reused without a network. The
    library is large: call this in a separate process. Raises DatasetError.
    """
    if len(name) > MAX_NAME or not (match := _NAME.fullmatch(name)) or Path(match["path"]).exists():
        raise DatasetError(
            f"Got “{name}” as a data set of the Hugging Face hub. Allowed: OWNER/NAME or OWNER/NAME:CONFIGURATION. "
            "A folder on this device needs no hub: give its path instead."
        )
    if len(split) > MAX_NAME or not _SPLIT.fullmatch(split):
        raise DatasetError(f"Got “{split}” as a split. Allowed: a name such as test or validation.")
    if not 1 <= limit <= MAX_FILES:
        raise DatasetError(f"Got a limit of {limit} clips. Allowed: 1 to {MAX_FILES:,}.")
    target = paths.cache() / "datasets" / f"{re.sub('[/:]', '--', name)}--{split}--{limit}"
    if target.is_dir():
        return target
    library = _library(name)
    try:
        with new_folder(target) as folder:
            progress(f"asking the hub for {name}")
            rows = _rows(library, match["path"], match["config"], split)
            _store(itertools.islice(rows, limit), folder, lambda n: progress(f"{n} of {limit} clips of {name}"))
    except DatasetError:
        raise
    except ImportError as e:
        raise DatasetError(
            f"{name} keeps its audio as loose files, which the package datasets reads with a further one ({e}). "
            "pip install torchcodec, or give a folder with audio and a manifest.csv."
        ) from e
    except ConnectionError as e:  # the library's own connection errors derive from it
        raise DatasetError(
            f"{name} is not on this device yet and the Hugging Face hub can't be reached ({e}). Connect this device "
            "once, or give a folder with audio and a manifest.csv."
        ) from e
    except Exception as e:  # the library and its dependencies raise many types; their texts name what is allowed
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
    if int(library.__version__.split(".")[0]) < _MAJOR:
        raise DatasetError(
            f"The package datasets {library.__version__} is too old: it can run code that a data set brings. "
            f"Allowed: {_MAJOR} or newer. pip install -U datasets."
        )
    return library


def _rows(library: Any, path: str, config: str | None, split: str) -> Iterator[tuple[bytes, str, str]]:
    """Yield (contents of the audio file, its name, text) of each row."""
    stream = library.load_dataset(path, config, split=split, streaming=True)
    features: dict[str, Any] = dict(stream.features or {})
    audio_columns = [column for column, feature in features.items() if isinstance(feature, library.Audio)]
    if not audio_columns:
        raise DatasetError(
            f"{path} has no column of audio; its columns are {first_few(features, 10) or 'unknown'}. Take another."
        )
    by_name = {column.lower(): column for column in features}
    text_column = by_name[find_column(by_name, TEXT_COLUMNS, "texts", path)]
    # Undecoded files: decoding here would need another library.
    for row in stream.decode(False).select_columns([audio_columns[0], text_column]):
        sound = row[audio_columns[0]]
        yield _sound(sound, path), sound["path"] or "", str(row[text_column] or "")


def _sound(sound: Mapping[str, Any], path: str) -> bytes:
    if sound["bytes"] is not None:
        return bytes(sound["bytes"])
    if not _FILE.fullmatch(sound["path"] or ""):
        raise DatasetError(f"{path} keeps its audio elsewhere ({sound['path']}), which is not followed. Take another.")
    with importlib.import_module("fsspec").open(sound["path"], "rb") as stream:
        return bytes(stream.read(MAX_CLIP_BYTES + 1))  # larger files are refused at decoding


def _store(rows: Iterable[tuple[bytes, str, str]], folder: Path, progress: Callable[[int], None]) -> None:
    written = count = 0
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "text"))
        for count, (data, name, text) in enumerate(rows, 1):
            written += len(data)
            if written > MAX_BYTES:
                raise DatasetError(
                    f"The first {count} clips take more than {in_words(MAX_BYTES)}, which is the limit. Ask for fewer."
                )
            suffix = PurePosixPath(name).suffix.lower()
            file = f"{count - 1:05}{suffix if suffix in AUDIO else '.wav'}"  # the reader detects the format by content
            (folder / file).write_bytes(data)
            writer.writerow((file, text))
            progress(count)
    if not count:
        raise DatasetError("The hub gave no clip. Choose another split.")
