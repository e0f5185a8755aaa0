"""Zips: what is unpacked, what is left out, what is refused, and that nothing is left of it then."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import made, sentence, texts

from bench.datasets import unzip
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


@pytest.mark.parametrize("name", ["../x.wav", "in/../../x.wav", "/tmp/x.wav", "..\\x.wav", "C:\\x.wav", "c:x.wav"])
def test_a_zip_that_climbs(tmp_path: Path, refused: Callable[[Path], str], name: str) -> None:
    assert f"holds “{name}”, which leads out" in refused(zipped(tmp_path / "x.zip", {**GOOD, name: "x"}))


@pytest.mark.parametrize(
    ("mode", "what"), [(stat.S_IFLNK | 0o777, "a symbolic link"), (stat.S_IFIFO | 0o600, "a special file")]
)
def test_a_zip_with_a_link_or_a_pipe(tmp_path: Path, refused: Callable[[Path], str], mode: int, what: str) -> None:
    with zipfile.ZipFile(zipped(tmp_path / "x.zip", GOOD), "a") as archive:
        link = zipfile.ZipInfo("in/b.wav")
        link.external_attr = mode << 16
        archive.writestr(link, "/etc/hosts")
    assert f"x.zip holds “in/b.wav”, {what}. Allowed: plain files." in refused(tmp_path / "x.zip")


def test_a_bomb(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    archive = zipped(tmp_path / "x.zip", {**GOOD, "b.wav": bytes(unzip.RATIO_FROM_BYTES + 1)})
    assert archive.stat().st_size < 100_000
    assert "x.zip grows to more than 100 times its size" in refused(archive)


def test_a_bomb_with_false_sizes(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    archive = zipped(tmp_path / "x.zip", {**GOOD, "b.wav": bytes(unzip.RATIO_FROM_BYTES + 1)})
    size = struct.pack("<L", unzip.RATIO_FROM_BYTES + 1)
    archive.write_bytes(archive.read_bytes().replace(size, struct.pack("<L", 5)))
    assert "x.zip can't be unpacked (Bad CRC-32 for file 'b.wav')" in refused(archive)


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_ARCHIVE_BYTES", 10, "x.zip has 0 MB; allowed: 0 MB."),
        ("MAX_BYTES", 10, "x.zip unpacks to more than 0 MB"),
        ("MAX_FILES", 1, "x.zip holds more than 1 files"),
    ],
)
def test_limits_of_a_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[Path], str], limit: str, value: int, said: str
) -> None:
    monkeypatch.setattr(unzip, limit, value)
    assert said in refused(zipped(tmp_path / "x.zip", GOOD))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({**GOOD, "more.ZIP": "x"}, "holds the archive “more.ZIP”. Unpack it and zip what it holds."),
        ({**GOOD, "more.tar.gz": "x"}, "holds the archive “more.tar.gz”"),
        ({"readme.txt": "x"}, "holds neither audio nor a manifest. Allowed: .wav"),
        ({}, "holds neither audio nor a manifest"),
        ({"a.wav": "x", "a.wav/b.wav": "x"}, "can't be unpacked"),
        ({"a.wav": "x", "./a.wav": "x"}, "can't be unpacked"),
        ({"x" * 300 + ".wav": "x"}, "can't be unpacked"),
    ],
)
def test_zips_that_are_no_data_set(
    tmp_path: Path, refused: Callable[[Path], str], files: dict[str, str | bytes], said: str
) -> None:
    assert said in refused(zipped(tmp_path / "x.zip", files))


def test_zips_that_are_none(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    whole = zipped(tmp_path / "x.zip", GOOD).read_bytes()
    for content in (b"", b"no zip at all", whole[:40], whole[:-30], whole[:60] + b"\0\0\0\0" + whole[64:]):
        (tmp_path / "x.zip").write_bytes(content)
        assert "x.zip can't be unpacked (" in refused(tmp_path / "x.zip")
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(encrypted)
    assert "x.zip is encrypted (“manifest.csv”)" in refused(tmp_path / "x.zip")
    assert "in an unusual way" in refused(zipped(tmp_path / "x.zip", GOOD, zipfile.ZIP_LZMA))
    (tmp_path / "x.zip").unlink()
    assert "can't be unpacked" in refused(tmp_path / "x.zip")


def test_unpack_takes_the_place_of_nothing(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", GOOD)
    made(tmp_path, {"set/mine.txt": "x", ".set.999999999/left": "by a dead process", ".set.notes/x": "mine"})
    assert "is there already" in sentence(lambda: unpack(archive, tmp_path / "set"))
    (tmp_path / "set" / "mine.txt").unlink()
    assert texts(unpack(archive, tmp_path / "set"))
    assert not (tmp_path / ".set.999999999").exists() and (tmp_path / ".set.notes").exists()
