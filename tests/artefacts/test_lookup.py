"""What a start finds at hand: nothing is built, counted or read that was before, and damage is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LIGHT, own_cache
from rich.console import Console
from test_cli import bench

from bench.artefacts import build, cache, lookup, recipe, stamps, transfer
from bench.cli import console
from bench.core.paths import ROOT
from bench.core.specs import Placement, Variant
from bench.device import cpu, host
from bench.families import catalogue, wav2vec2
from bench.families.family import Checkpoint
from bench.modes.mode import calibration
from bench.sound import audio
from bench.workers import start
from bench.workers.client import Pool, WorkerError
from bench.workers.start import Limits
from tests.toys.plain import Plain, the_only_mode


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plain]:
    """The only mode, on a device with an empty cache."""
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "data"))
    with the_only_mode(monkeypatch) as mode:
        yield mode


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def prepared(model: Path, **settings: Any) -> str:
    return build.prepare(str(model), "torch-plain", settings, lambda _: None)[0].digest


def ready(model: Path, **settings: Any) -> str | None:
    """The digest of what is at hand."""
    at_hand = lookup.ready(str(model), "torch-plain", settings)
    return at_hand[0].digest if at_hand else None


def weights(digest: str) -> Path:
    return cache.folder(digest) / "weights.bin"


def damage(file: Path) -> None:
    """Change bytes of an artefact's file as a failing disk does: its stamps are those of the verified file."""
    manifest, content = cache.manifest_of(file.parent.name), bytearray(file.read_bytes())
    content[: len(content) // 2] = bytes(b ^ 1 for b in content[: len(content) // 2])
    file.write_bytes(content)
    cache.stamp_new(file.parent, manifest)  # nobody but a disk changes a file without its times


def test_where_all_is_at_hand_no_builder_starts_and_nothing_is_read(
    plain: Plain, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def refuse(self: Pool, name: str, placement: Placement) -> Any:
        started.append(name)
        raise WorkerError("error", "a process was started")

    monkeypatch.setattr(Pool, "start", refuse)
    variant = Variant(str(model), plain.name, Placement("cpu", 1))
    with pytest.raises(WorkerError, match="a process was started"):  # there is something to build
        start.build(variant, Pool(), Limits(), lambda _: None)
    assert started == [f"The builder of {plain.name} of {model}"]
    built, coverage = build.prepare(str(model), plain.name, {}, lambda _: None)
    for reader in (cache, recipe):
        monkeypatch.setattr(reader, "digest_of_file", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(wav2vec2.FAMILY, "identity", lambda *_: pytest.fail("the weights were read"))
    assert start.build(variant, Pool(), Limits(), lambda _: None) == (replace(built, from_cache=True), coverage)
    assert build.prepare(str(model), plain.name, {}, lambda _: None)[0].from_cache
    assert len(started) == 1


def test_what_differs_is_not_at_hand(plain: Plain, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = prepared(model)
    assert ready(model) == digest
    assert ready(model, bits=4) is None
    assert ready(model, bits=99) is None and ready(model / "absent") is None  # the builder says what is wrong
    with monkeypatch.context() as m:
        m.setattr(host, "versions", lambda packages: dict.fromkeys(packages, "2.0"))
        assert ready(model) is None
    with monkeypatch.context() as m:
        m.setattr(cpu, "cpu_name", lambda: "another")  # what is quantized was counted on this one
        assert ready(model) is None
    assert ready(model) == digest
    cache.coverage_file(digest).unlink()
    assert ready(model) is None
    assert prepared(model) == digest == ready(model)  # counted again, not built again
    (model / "vocab.json").write_text((model / "vocab.json").read_text() + "\n")
    assert ready(model) is None
    assert prepared(model) not in (digest, None)


def test_other_clips_are_not_at_hand(plain: Plain, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(3):
        audio.write_wav(clips / f"{i}.wav", np.full(1600, 0.1 * i, np.float32))
    (clips / "manifest.csv").write_text("path,text\n" + "".join(f"{i}.wav,WORD\n" for i in range(3)))
    spec = replace(plain.SPEC, data="examples", settings=calibration(2))
    monkeypatch.setattr(plain, "SPEC", spec)
    monkeypatch.setattr(build, "_data", lambda *_: None)
    digest = prepared(model, data=str(clips))
    assert ready(model, data=str(clips)) == digest and ready(model, data=str(clips), clips=1) is None
    assert prepared(model, data=str(clips), clips=0) and ready(model, data=str(clips), clips=0) is None  # too many
    for i in range(3):
        audio.write_wav(clips / f"{i}.wav", np.full(1600, 0.2 * i, np.float32))
    assert ready(model, data=str(clips)) is None


def test_what_was_imported_is_at_hand_at_once(plain: Plain, model: Path, tmp_path: Path) -> None:
    digest = prepared(model)
    transfer.write(digest, tmp_path / "x.zip")
    cache.remove([digest])
    _, name = transfer.read(tmp_path / "x.zip")
    assert cache.checked(digest)
    assert lookup.ready(name, plain.name, {}) is None  # not counted here yet
    build.prepare(name, plain.name, {}, lambda _: None)
    at_hand = lookup.ready(name, plain.name, {})
    assert at_hand and at_hand[0].digest == digest


def test_a_hub_model_is_asked_for_once_an_hour(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint("a/b", "", "wav2vec2", "hub", "a/b", "", {})
    monkeypatch.setattr(wav2vec2.FAMILY, "identity", lambda *_: ("a/b at commit 1", None))
    assert recipe.current_identity(checkpoint) is None
    assert recipe.identify(checkpoint, lambda _: None) == ("a/b at commit 1", None)
    assert recipe.current_identity(checkpoint) == "a/b at commit 1"
    note = recipe._note(checkpoint)
    an_hour_ago_s = note.stat().st_mtime - recipe.HUB_FRESH_S - 1
    os.utime(note, (an_hour_ago_s, an_hour_ago_s))
    assert recipe.current_identity(checkpoint) is None
    assert recipe.remembered_identity(checkpoint) == "a/b at commit 1"  # an estimate asks nobody


# --- stamps


def test_a_changed_file_is_read_again(plain: Plain, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, read = prepared(model), []
    real = recipe.digest_of_file
    monkeypatch.setattr(cache, "digest_of_file", lambda path: (read.append(path.name), real(path))[1])
    os.utime(weights(digest), ns=(0, 0))
    assert ready(model) is None and read == []  # reading is the builder's work
    assert prepared(model) == digest == ready(model) and "weights.bin" in read
    read.clear()
    copy = shutil.copy2(weights(digest), weights(digest).with_name("copy"))
    Path(copy).replace(weights(digest))  # same size and time, another file
    assert ready(model) is None and prepared(model) == digest == ready(model) and "weights.bin" in read
    read.clear()
    status = weights(digest).stat()
    weights(digest).write_bytes(bytes(1000))
    os.utime(weights(digest), ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` leaves it
    assert ready(model) is None and prepared(model) == digest == ready(model) and "weights.bin" in read
    stamps.file_of(cache.folder(digest)).write_text("{")
    assert ready(model) is None and prepared(model) == digest == ready(model)
    weights(digest).write_bytes(bytes(999))
    assert ready(model) is None
    assert not build.prepare(str(model), plain.name, {}, lambda _: None)[0].from_cache  # damaged: built anew


def test_a_changed_manifest_is_damage(plain: Plain, model: Path) -> None:
    digest = prepared(model)
    manifest = cache.manifest_of(digest) | {"settings": {"bits": 2}}
    (cache.folder(digest) / cache.MANIFEST).write_text(json.dumps(manifest))
    assert ready(model) is None and cache.damaged_files(digest) == [cache.MANIFEST]


def test_verify_reads_everything_and_removes_what_is_damaged(
    plain: Plain, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(highlight=False, markup=False, width=200))
    assert bench("artefacts", "verify").stdout == "No artefacts yet.\n"
    digest, other = prepared(model), prepared(model, bits=4)
    intact = bench("artefacts", "verify")
    assert intact.exit_code == 0 and intact.stdout == "2 of 2 artefacts are intact.\n"
    damage(weights(digest))
    assert ready(model) == digest  # its size, times and inode are what they were
    assert "1 of 1 artefacts" in bench("artefacts", "verify", other[:8]).stdout
    verified = bench("artefacts", "verify")
    assert verified.exit_code == 1
    assert f"Removed {digest[:8]} torch-plain of model: weights.bin is damaged. It is built again" in verified.stdout
    assert "1 of 2 artefacts are intact." in verified.stdout
    assert [k.digest for k in cache.kept()] == [other] and ready(model) is None
    cache.remove([other])
    assert not list(cache.home().iterdir())  # nothing is left of them


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "vocab.json"])
def test_damage_that_keeps_size_and_time_is_a_sentence_when_it_is_opened(
    name: str, tiny_model: Path, data_folder: Path
) -> None:
    own_cache(data_folder)
    variant, pool = Variant(str(tiny_model), LIGHT[0], Placement("cpu", 1)), Pool()
    artefact, _ = start.build(variant, pool, Limits(), lambda _: None)
    damage(cache.folder(artefact.digest) / name)
    assert start.build(variant, pool, Limits(), lambda _: None)[0].from_cache  # nothing is read, so nothing is noticed
    with pytest.raises(
        WorkerError, match=rf"artefact can't be opened: {name} in .* is damaged\. To go on, start again"
    ):
        start.open_worker(variant, artefact, pool, Limits(), lambda _: None)
    again, _ = start.build(variant, pool, Limits(), lambda _: None)
    assert again.digest == artefact.digest and not again.from_cache
    worker, opening = start.open_worker(variant, again, pool, Limits(), lambda _: None)
    worker.close()
    assert opening.start_s > 0 and opening.load_s > 0


def test_a_damaged_manifest_is_a_sentence_when_a_worker_starts(tiny_model: Path, data_folder: Path) -> None:
    own_cache(data_folder)
    variant, pool = Variant(str(tiny_model), LIGHT[0], Placement("cpu", 1)), Pool()
    artefact, _ = start.build(variant, pool, Limits(), lambda _: None)
    damage(cache.folder(artefact.digest) / cache.MANIFEST)
    with pytest.raises(WorkerError, match=rf"{cache.MANIFEST} in .* is damaged\. To go on, start again"):
        start.start(variant, artefact, pool, Limits())
    assert not stamps.file_of(cache.folder(artefact.digest)).exists()


_MODULES = """
import json, sys, time
from bench.workers.process import Worker

worker = Worker(lambda reply: None)
for digest in sys.argv[1:]:
    worker.start(digest, time.monotonic())
    started = set(sys.modules)
    worker.open(digest, "cpu/1")
    worker.visit(1, 1.0, 0, "speech")
    packages = ("torch", "transformers", "transformers.models.wav2vec2", "scipy", "torchao", "onnx", "librosa")
    later = set(sys.modules) - started
    print(json.dumps([[p for p in packages if p in started], [p for p in packages if p in later]]))
"""


@pytest.mark.timeout(200)
def test_a_worker_imports_only_what_opening_needs(tiny_model: Path, data_folder: Path) -> None:
    def modules(*names: str) -> list[Any]:
        pool = Pool()
        digests = [
            start.build(Variant(str(tiny_model), n, Placement("cpu", 1)), pool, Limits(), lambda _: None)[0].digest
            for n in names
        ]
        done = subprocess.run(
            [sys.executable, "-c", _MODULES, *digests], capture_output=True, text=True, cwd=ROOT, timeout=150
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert modules(*LIGHT) == [[[], []], [[], []]]
    ((at_start, later),) = modules("torch-fp32")
    assert at_start == ["torch", "transformers", "transformers.models.wav2vec2"] and later == []
    assert catalogue.find(str(tiny_model)).family == "wav2vec2"
