"""Hostile zips: each is refused by everybody who unpacks any, in a sentence, and nothing of it stays.

The users are data sets and artefacts. Beside their own tests, which are about what they want in a zip, every case here
runs against both.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench import modes
from bench.artefacts import cache, transfer
from bench.artefacts.cache import ArtefactError
from bench.core import archive
from bench.datasets import unzip
from bench.datasets.folder import DatasetError

CONFIG = {
    "architectures": ["Wav2Vec2ForCTC"],
    "model_type": "wav2vec2",
    "vocab_size": 32,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "group",
}
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


@dataclass
class User:
    """Who unpacks zips: what a good one holds, a name for one file more, and how it is taken and refused."""

    error: type[Exception]
    files: dict[str, bytes]
    more: str
    module: object
    take: Callable[[Path], object]
    remains: Callable[[], list[Path]]


@pytest.fixture(params=["data set", "artefact"])
def user(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    target = tmp_path / "uploads" / "set"
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "data"))
    if request.param == "data set":
        return User(
            DatasetError,
            {"manifest.csv": b"path,text\na.wav,one\n", "a.wav": b"sound"},
            "b.wav",
            unzip,
            lambda path: unzip.unpack(path, target),
            lambda: list(target.parent.iterdir()) if target.parent.exists() else [],
        )
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "vocab.json": json.dumps({token: i for i, token in enumerate(TOKENS)}).encode(),
        "preprocessor_config.json": b'{"do_normalize": true, "sampling_rate": 16000}',
        "model.safetensors": b"weights, which nobody opens here",
    }
    mode = modes.find("torch-fp32")
    manifest = {
        "checkpoint": "folder 0123abcd",
        "mode": mode.name,
        "mode version": mode.SPEC.version,
        "settings": modes.complete(mode, {}),
        "versions": {"torch": "2"},
        "clips": [],
        "base": None,
        "family": "wav2vec2",
        "model": "tiny",
        "details": {},
        "device": "another device",
        "built_s": 1.0,
        "build_s": 1.0,
        "build_peak_rss_bytes": None,
        "build_disk_bytes": None,
        "files": {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()},
    }
    return User(
        ArtefactError,
        {"artefact.json": json.dumps(manifest).encode(), **files},
        "more.bin",
        transfer,
        transfer.read,
        lambda: list(cache.home().glob("[!.]*")),
    )


@pytest.fixture
def zipped(user: User, tmp_path: Path) -> Callable[..., Path]:
    """Writes a good zip, with changes."""

    def write(more: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", method) as packed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of duplicates
            for name, content in (*user.files.items(), *(more or {}).items()):
                packed.writestr(name, content)
        return path

    return write


def refusal(user: User, path: Path) -> str:
    """The sentence that a zip is refused with; nothing of it may stay."""
    with pytest.raises(user.error) as e:
        user.take(path)
    assert user.remains() == []
    assert str(e.value).startswith("x.zip ") and str(e.value).endswith(".")
    return str(e.value)


def test_the_good_zip_is_taken(user: User, zipped: Callable[..., Path]) -> None:
    user.take(zipped())
    assert len(user.remains()) == 1


@pytest.mark.parametrize("name", ["../x.wav", "in/../../x.wav", "/tmp/x.wav", "..\\x.wav", "C:\\x.wav", "c:x.wav"])
def test_a_path_that_leads_out(user: User, zipped: Callable[..., Path], tmp_path: Path, name: str) -> None:
    assert f"x.zip holds “{name}”, which leads out of its folder." in refusal(user, zipped({name: b"x"}))
    assert not list(tmp_path.rglob("x.wav"))


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (stat.S_IFLNK | 0o777, "a symbolic link"),
        (stat.S_IFIFO | 0o600, "a special file"),
        (stat.S_IFCHR | 0o600, "a special file"),
    ],
)
def test_a_link_or_a_special_file(user: User, zipped: Callable[..., Path], mode: int, what: str) -> None:
    path = zipped()
    with zipfile.ZipFile(path, "a") as packed:
        link = zipfile.ZipInfo(user.more)
        link.external_attr = mode << 16
        packed.writestr(link, "/etc/hosts")
    assert f"holds “{user.more}”, {what}. Allowed: plain files." in refusal(user, path)


def test_a_name_that_goes_on_after_a_nul(user: User, zipped: Callable[..., Path]) -> None:
    path = zipped({"x#" + user.more: b"x"})
    path.write_bytes(path.read_bytes().replace(b"x#" + user.more.encode(), b"x\0" + user.more.encode()))
    assert "whose name goes on after a NUL byte" in refusal(user, path)


@pytest.mark.parametrize("form", ["{}", "./{}", ".\\{}"])
def test_a_file_that_is_there_twice(user: User, zipped: Callable[..., Path], form: str) -> None:
    name = list(user.files)[-1]
    path = zipped()
    with zipfile.ZipFile(path, "a") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed.writestr(form.format(name), b"another")
    is_twice = form == "{}" or user.error is DatasetError
    assert (f"holds “{name}” twice." if is_twice else "Allowed: files without folders") in refusal(user, path)


def test_a_bomb(user: User, zipped: Callable[..., Path]) -> None:
    path = zipped({user.more: bytes(user.module.RULES.ratio_from_bytes)})  # type: ignore[attr-defined]
    assert path.stat().st_size < 100_000
    assert "x.zip grows to more than 100 times its size, as no " in refusal(user, path)


def test_a_file_that_holds_more_than_its_header_says(user: User, zipped: Callable[..., Path]) -> None:
    name, content = list(user.files.items())[-1]
    user.files[name] = content + bytes(20_000_000)
    path = zipped()
    real, false = (struct.pack("<L", size) for size in (len(content) + 20_000_000, len(content)))
    path.write_bytes(path.read_bytes().replace(real, false))
    assert f"x.zip can't be read (BadZipFile: Bad CRC-32 for file '{name}')" in refusal(user, path)


def test_a_file_whose_bytes_differ_from_its_checksum(user: User, zipped: Callable[..., Path]) -> None:
    path = zipped(method=zipfile.ZIP_STORED)
    content = list(user.files.values())[-1]
    path.write_bytes(path.read_bytes().replace(content, content[:-1] + b"#"))
    assert "x.zip can't be read (BadZipFile: Bad CRC-32" in refusal(user, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing(user: User, zipped: Callable[..., Path], method: int) -> None:
    assert "in an unusual way. Allowed: stored or deflated" in refusal(user, zipped(method=method))


def test_an_encrypted_zip(user: User, zipped: Callable[..., Path]) -> None:
    data = bytearray(zipped().read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = zipped()
    path.write_bytes(data)
    assert f"x.zip is encrypted (“{next(iter(user.files))}”). Zip it without a password." in refusal(user, path)


@pytest.mark.parametrize(
    ("limit", "value", "sentence"),
    [
        ("max_archive_bytes", 10, "x.zip has 0 MB; allowed: 0 MB."),
        ("max_bytes", 10, "x.zip unpacks to 0 MB; allowed: 0 MB."),
        ("max_files", 1, "x.zip holds more than 1 files, which is the limit."),
        ("max_listed", 1, "x.zip holds more than"),
    ],
)
def test_limits(
    user: User,
    zipped: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: int,
    sentence: str,
) -> None:
    monkeypatch.setattr(user.module, "RULES", replace(user.module.RULES, **{limit: value}))  # type: ignore[attr-defined]
    assert sentence in refusal(user, zipped())


def test_a_disk_that_is_too_small(user: User, zipped: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 3})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage)
    assert "x.zip unpacks to 0 MB, and 0 MB are free here. Make room." in refusal(user, zipped())


def test_what_is_no_zip(user: User, zipped: Callable[..., Path]) -> None:
    path = zipped()
    whole = path.read_bytes()
    damaged_directory = whole[:-60] + bytes(30) + whole[-30:]
    for content in (b"", b"no zip at all", whole[:40], whole[: len(whole) // 2], whole[:-30], damaged_directory):
        path.write_bytes(content)
        sentence = refusal(user, path)
        assert "x.zip can't be read (" in sentence and "Allowed: a zip " in sentence
    path.unlink()
    assert "x.zip can't be read (FileNotFoundError" in refusal(user, path)
