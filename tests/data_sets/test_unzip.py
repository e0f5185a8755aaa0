"""Zips of clips: what is unpacked, what is left out, and what is no data set. Hostile ones: `core/test_archive.py`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import made, sentence, texts

from bench.datasets.unzip import unpack

GOOD = {"manifest.csv": "path,text\nin/a.wav,one\n", "in/a.wav": "sound"}


def zipped(path: Path, files: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name) if name.endswith("/") else name, content)
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Path], str]:
    """Unpacks what must be refused -> the sentence; nothing may be left."""

    def call(archive: Path) -> str:
        before = sorted(p for p in tmp_path.rglob("*") if p.name != "uploads")
        said = sentence(lambda: unpack(archive, tmp_path / "uploads" / "set"))
        assert sorted(p for p in tmp_path.rglob("*") if p.name != "uploads") == before
        return said

    return call


@pytest.mark.parametrize("top", ["", "my set/"])
def test_unpack(tmp_path: Path, top: str) -> None:
    files = {**GOOD, "README.md": "x", "__MACOSX/in/._a.wav": "x", ".hidden.csv": "x"}
    archive = zipped(tmp_path / "x.zip", {"in/": "", **{top + name: content for name, content in files.items()}})
    told: list[str] = []
    folder = unpack(archive, tmp_path / "uploads" / "set", told.append)
    assert folder == tmp_path / "uploads" / "set" / top
    assert texts(folder) == {"in/a.wav": "one"}
    assert sorted(p.name for p in folder.rglob("*")) == ["a.wav", "in", "manifest.csv"]
    left = ", ".join(top + name for name in list(files)[2:])
    assert told == [f"3 of its files were left out as neither audio nor manifest ({left})."]
    assert [p.name for p in (tmp_path / "uploads").iterdir()] == ["set"]


def test_unpack_keeps_librispeech_and_windows_paths(tmp_path: Path) -> None:
    files = {"LibriSpeech\\1\\2\\1-2.trans.txt": "1-2-0 HELLO\n", "LibriSpeech\\1\\2\\1-2-0.flac": "x"}
    folder = unpack(zipped(tmp_path / "x.zip", files, zipfile.ZIP_STORED), tmp_path / "set")
    assert folder.name == "LibriSpeech" and texts(folder) == {"1/2/1-2-0.flac": "HELLO"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({**GOOD, "more.ZIP": "x"}, "holds the archive “more.ZIP”. Unpack it and zip what it holds."),
        ({**GOOD, "more.tar.gz": "x"}, "holds the archive “more.tar.gz”"),
        ({"readme.txt": "x"}, "holds neither audio nor a manifest. Allowed: .wav"),
        ({}, "holds neither audio nor a manifest"),
        ({"a.wav": "x", "a.wav/b.wav": "x"}, "can't be read"),
        ({"a.wav": "x", "./a.wav": "x"}, "holds “a.wav” twice. Zip the folder again."),
        ({"x" * 300 + ".wav": "x"}, "can't be read"),
    ],
)
def test_zips_that_are_no_data_set(
    tmp_path: Path, refused: Callable[[Path], str], files: dict[str, str | bytes], said: str
) -> None:
    assert said in refused(zipped(tmp_path / "x.zip", files))


def test_unpack_takes_the_place_of_nothing(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", GOOD)
    made(tmp_path, {"set/mine.txt": "x", ".set.999999999/left": "by a dead process", ".set.notes/x": "mine"})
    assert "is there already" in sentence(lambda: unpack(archive, tmp_path / "set"))
    (tmp_path / "set" / "mine.txt").unlink()
    assert texts(unpack(archive, tmp_path / "set"))
    assert not (tmp_path / ".set.999999999").exists() and (tmp_path / ".set.notes").exists()
