"""The Hugging Face hub, by a stand-in for its library: what is fetched, and what may go wrong on the way."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import sentence, texts

from bench.core.paths import ROOT
from bench.datasets.hub import from_hub


class Audio:
    """Stands in for the library's feature."""


class Stream:
    """Stands in for the library's streamed data set; decoding is on until it is switched off."""

    def __init__(self, rows: list[dict[str, Any]], columns: list[str], decodes: bool = True) -> None:
        self.rows, self.columns, self.decodes = rows, columns, decodes

    @property
    def features(self) -> dict[str, object]:
        return {column: Audio() if column == "sound" else "text" for column in self.columns}

    def decode(self, enable: bool) -> Stream:
        return Stream(self.rows, self.columns, enable)

    def select_columns(self, columns: list[str]) -> Stream:
        return Stream(self.rows, columns, self.decodes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert not self.decodes
        for row in self.rows:
            if isinstance(row.get("sound"), Exception):
                raise row["sound"]
            yield {column: row[column] for column in self.columns}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A stand-in for the library, installed; `rows` and `columns` are what it has."""
    library = types.ModuleType("datasets")
    rows = [{"sound": {"bytes": b"x" * n, "path": f"{n}.FLAC"}, "Text": f'"{n}", n', "id": n} for n in range(1, 6)]
    attributes: dict[str, Any] = {
        "rows": rows,
        "columns": ["id", "sound", "Text"],
        "Audio": Audio,
        "__version__": "5.2.0",
    }

    def load_dataset(path: str, config: str | None, split: str, streaming: bool) -> Stream:
        if split != "test":
            raise ValueError(f"Bad split: {split}. Available splits: ['test']")
        assert path == "own/set" and streaming and config in (None, "clean")
        return Stream(library.__dict__["rows"], library.__dict__["columns"])

    library.__dict__.update(attributes, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "data"))
    return library


def left(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "data" / "cache" / "datasets").glob("*")]


def test_from_the_hub(hub: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress: list[str] = []
    folder = from_hub("own/set:clean", "test", 3, progress.append)
    assert texts(folder) == {f"0000{n - 1}.flac": f'"{n}", n' for n in (1, 2, 3)}
    assert [p.stat().st_size for p in sorted(folder.glob("*.flac"))] == [1, 2, 3]
    assert progress == ["asking the hub for own/set:clean", *(f"{n} of 3 clips of own/set:clean" for n in (1, 2, 3))]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert from_hub("own/set:clean", "test", 3, progress.append) == folder
    assert left(tmp_path) == [folder.name]


def test_the_hub_without_the_package(tmp_path: Path, hub: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = sentence(lambda: from_hub("own/set", "test", 3, print))
    assert "needs the package datasets, which is missing. pip install datasets, or give a folder" in message
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"__version__": "2.19.0"}, "datasets 2.19.0 is too old: it can run code that a data set brings. Allowed: 4"),
        ({"columns": ["id", "Text"]}, "own/set has no column of audio; its columns are id, Text. Take another."),
        ({"columns": []}, "own/set has no column of audio; its columns are unknown."),
        ({"columns": ["sound", "id"]}, "own/set: there is no column of texts; the columns are sound, id."),
        ({"rows": []}, "The hub gave no clip."),
        ({"rows": [{"sound": {"bytes": None, "path": "/etc/hosts"}, "Text": "x"}]}, "elsewhere (/etc/hosts)"),
        ({"rows": [{"sound": {"bytes": None, "path": "file:///x::hf://datasets/x"}, "Text": "x"}]}, "elsewhere (file"),
        ({"rows": [{"sound": ConnectionError("no route")}]}, "hub can't be reached (no route). Connect this device"),
        ({"rows": [{"sound": ImportError("torchcodec")}]}, "loose files, which the package datasets reads with a furt"),
        ({"rows": [{"sound": KeyError("odd")}]}, "gave no own/set, split test (KeyError: 'odd')"),
    ],
)
def test_what_the_hub_may_not_give(
    hub: types.ModuleType, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    hub.__dict__.update(changed)
    assert message in sentence(lambda: from_hub("own/set", "test", 3, lambda _: None))
    assert left(tmp_path) == []


def test_the_hub_within_limits(hub: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.datasets.hub.MAX_BYTES", 5)
    assert "The first 3 clips take more than 0 MB" in sentence(lambda: from_hub("own/set", "test", 5, lambda _: None))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "split", "limit", "message"),
    [
        ("../set", "test", 3, "Got “../set” as a data set of the Hugging Face hub. Allowed: OWNER/NAME"),
        ("https://x/y", "test", 3, "Allowed: OWNER/NAME or OWNER/NAME:CONFIGURATION."),
        ("own/set/more", "test", 3, "Allowed: OWNER/NAME"),
        ("", "test", 3, "Got “” as"),
        ("tests", "test", 3, "A folder on this device needs no hub: give its path instead."),
        ("x" * 300, "test", 3, "Allowed: OWNER/NAME"),
        ("own/set", "x" * 300, 3, "as a split. Allowed: a name"),
        ("own/set", "../x", 3, "Got “../x” as a split."),
        ("own/set", "train", 3, "Available splits: ['test']"),
        ("own/set", "test", 0, "Got a limit of 0 clips. Allowed: 1 to 20,000."),
        ("own/set", "test", 20_001, "Allowed: 1 to 20,000."),
    ],
)
def test_questions_that_the_hub_is_not_asked(
    hub: types.ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, split: str, limit: int, message: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert message in sentence(lambda: from_hub(name, split, limit, lambda _: None))
