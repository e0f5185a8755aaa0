"""The cache of artefacts and their way to other devices: every mode on a tiny model, and a mode of no engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import made
from prepared import prepare
from test_cli import bench, refused
from tiny_model import CONFIG

from bench import modes
from bench.artefacts import build as artefacts_build
from bench.artefacts import cache, transfer
from bench.artefacts.cache import ArtefactError
from bench.cli import console
from bench.core.records import Coverage
from bench.core.specs import Placement, Variant
from bench.device import cpu, host
from bench.families import catalogue
from bench.families.family import ModelError
from bench.jobs import manager
from bench.modes.mode import ModeError, Needs
from bench.workers import start
from bench.workers.client import Pool
from tests.toys.plain import Plain, the_only_mode

ALL = sorted(modes.modes())
# Run the README's code in each folder, Earbench out of reach: OUT FOLDER...
_PLAIN = """
import os, re, sys
import numpy as np

# One thread, as the logits beside which these are laid: OpenVINO sums a norm's frames by thread.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
out, *folders = sys.argv[1:]
for folder in folders:
    os.chdir(folder)
    code = re.search(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1]
    space = {}
    exec(code, space)
    np.save(f"{out}/{os.path.basename(folder)}.npy", space["logits"])
print(*(name for name in ("torch", "bench", "transformers") if name in sys.modules))
"""


def python(code: str, *arguments: object, cwd: Path) -> str:
    """What a process of its own printed last."""
    # What is compiled when it is opened gives the same logits without, and that takes half a minute less.
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return (done.stdout.splitlines() or [""])[-1]


# --- every mode, built, exported, taken in by another device, opened there


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, every_mode: SimpleNamespace) -> SimpleNamespace:
    """A device on which every mode was built and exported."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("EARBENCH_DATA", str(every_mode.data))
        for name in ALL:
            transfer.write(every_mode.artefacts[name].digest, folder / f"{name}.zip")
    return SimpleNamespace(folder=folder, **vars(every_mode))


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of another device, where the model never was."""
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "away"))
    return tmp_path / "away"


@pytest.mark.timeout(600)
def test_every_mode_opens_elsewhere_with_equal_logits_and_without_its_model(
    home: SimpleNamespace, away: Path, tmp_path: Path
) -> None:
    imported = {name: transfer.read(home.folder / f"{name}.zip") for name in ALL}
    assert {name: digest for name, (digest, _) in imported.items()} == {n: p.digest for n, p in home.artefacts.items()}
    (name,) = {model for _, model in imported.values()}  # one model, whatever its modes
    assert re.fullmatch(r"tiny@[0-9a-f]{8}", name)
    opened = prepare(name, ALL, away, tmp_path, clip=home.clip)
    for mode in ALL:
        artefact, original = opened[mode], home.artefacts[mode]
        assert artefact.digest == original.digest and artefact.from_cache and artefact.coverage == original.coverage
        assert artefact.details["built elsewhere"].startswith(f"on {cpu.cpu_name()} with python ")
        np.testing.assert_array_equal(np.load(tmp_path / f"{mode}.npy"), np.load(home.logits / f"{mode}.npy"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", sorted({mode.SPEC.engine for mode in modes.modes().values()}))
def test_the_readme_opens_it_without_earbench(engine: str, home: SimpleNamespace, tmp_path: Path) -> None:
    names = [name for name in ALL if engine == modes.find(name).SPEC.engine]
    for name in names:
        with zipfile.ZipFile(home.folder / f"{name}.zip") as packed:
            packed.extractall(tmp_path / name)
        shutil.copy(home.clip, tmp_path / name / "speech.wav")
    loaded = python(_PLAIN, tmp_path, *(tmp_path / name for name in names), cwd=tmp_path)
    assert loaded.split() == (["torch", "transformers"] if engine == "torch" else [])
    for name in names:
        logits = np.load(home.logits / f"{name}.npy")
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), logits, atol=2e-3 * np.abs(logits).max())


def test_what_is_imported_goes_on_to_a_third_device(home: SimpleNamespace, away: Path, tmp_path: Path) -> None:
    digest, _ = transfer.read(home.folder / "torch-bf16.zip")
    transfer.write(digest, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").stat().st_size == (home.folder / "torch-bf16.zip").stat().st_size
    cache.remove([digest])
    assert transfer.read(tmp_path / "again.zip")[0] == digest


# --- zips that are not what they should be


def test_the_untouched_zip_is_taken(home: SimpleNamespace, away: Path) -> None:
    digest, _ = transfer.read(home.folder / "torch-fp32.zip")
    assert transfer.read(home.folder / "torch-fp32.zip")[0] == digest  # twice is no harm
    assert [k.digest for k in cache.kept()] == [digest]


def repacked(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> Path:
    """The zip with its files changed; `change` gets name -> content."""
    with zipfile.ZipFile(source) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", **options) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return target


def manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    """Changes the manifest."""

    def change(files: dict[str, bytes]) -> None:
        files["artefact.json"] = json.dumps(json.loads(files["artefact.json"]) | changes).encode()

    return change


def flip(files: dict[str, bytes]) -> None:
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    files["model.safetensors"] = bytes(weights)


def bomb(files: dict[str, bytes]) -> None:
    files["zeros.bin"] = bytes(200_000_000)
    contents = json.loads(files["artefact.json"])
    contents["files"]["zeros.bin"] = {"bytes": 200_000_000, "sha256": "of course"}
    files["artefact.json"] = json.dumps(contents).encode()


def size_lie(files: dict[str, bytes]) -> None:
    contents = json.loads(files["artefact.json"])
    contents["files"]["model.safetensors"]["bytes"] -= 1
    files["artefact.json"] = json.dumps(contents).encode()


def carried(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    """Changes a file, and the manifest with it."""

    def change(files: dict[str, bytes]) -> None:
        files[name] = content
        contents = json.loads(files["artefact.json"])
        contents["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        files["artefact.json"] = json.dumps(contents).encode()

    return change


def config(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    """Changes the configuration, and the manifest with it."""

    def change(files: dict[str, bytes]) -> None:
        carried("config.json", json.dumps(json.loads(files["config.json"]) | changes).encode())(files)

    return change


TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "a byte flipped": (flip, "“model.safetensors” is not what artefact.json says"),
    "a file added": (lambda f: f.update({"more.bin": b"x"}), "does not name: more.bin"),
    "a file missing": (lambda f: f.pop("vocab.json"), "lacks vocab.json"),
    "no manifest": (lambda f: f.pop("artefact.json"), "so it is no artefact"),
    "a path that climbs": (
        lambda f: f.update({"../x.json": b"x"}),
        "holds “../x.json”, which leads out of its folder",
    ),
    "an absolute path": (lambda f: f.update({"/tmp/x.json": b"x"}), "leads out of its folder"),
    "a hidden file": (lambda f: f.update({".x.json": b"x"}), "files without folders"),
    "the mark of an import": (lambda f: f.update({"imported.json": b"{}"}), "files without folders"),
    "a pickle": (lambda f: f.update({"x.pkl": b"x"}), "holds “x.pkl”. Allowed endings"),
    "a program": (lambda f: f.update({"x.so": b"x"}), "Allowed endings"),
    "a lying size": (size_lie, "bytes where artefact.json says"),
    "a bomb": (bomb, "grows to more than 100 times its size"),
    "too many files": (lambda f: f.update({f"{i}.bin": b"" for i in range(65)}), "more than 64 files"),
    "a long manifest": (lambda f: f.update({"artefact.json": b" " * 1_000_001}), "which is the limit"),
    "a list for a manifest": (lambda f: f.update({"artefact.json": b"[]"}), "no JSON object"),
    "deep nesting": (lambda f: f.update({"artefact.json": b"[" * 500_000}), "can't be read"),
    "a broken manifest": (lambda f: f.update({"artefact.json": b"{"}), "can't be read"),
    "another version of the mode": (manifest(**{"mode version": 99}), "version 99 of that mode"),
    "an unknown mode": (manifest(mode="torch-int3"), "which this Earbench does not know"),
    "an unknown family": (manifest(family="gpt"), "which this Earbench does not know"),
    "a setting too many": (manifest(settings={"x": 1}), "has no setting “x”"),
    "no number": (manifest(built_s=float("nan")), "numbers that can't be"),
    "a huge number": (manifest(build_s=1e300), "numbers that can't be"),
    "a number for a text": (manifest(details={"x": 1}), "texts belong"),
    "a key missing": (manifest(versions=None), "no proper “versions”"),
    "coverage that is none": (manifest(coverage={"parts": [{"x": 1}]}), "can't be read"),
    "files without digests": (manifest(files={"config.json": 7}), "no size or no digest of “config.json”"),
    "a configuration of nothing": (carried("config.json", b'{"conv_dim": "large"}'), "vocab_size is None; allowed"),
    "a configuration that is a list": (carried("config.json", b"[]"), "config.json is no JSON object"),
    "a vocabulary that is a list": (carried("vocab.json", b"[]"), "vocab.json is no JSON object"),
    "a vocabulary that is no JSON": (carried("vocab.json", b"{"), "can't be read"),
    "layers without end": (config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000; allowed: whole numbers"),
    "layers by yes": (config(num_hidden_layers=True), "num_hidden_layers is True; allowed: whole numbers"),
    "layers by halves": (config(num_hidden_layers=2.0), "num_hidden_layers is 2.0; allowed: whole numbers"),
    "layers in a list": (config(num_hidden_layers=[2]), "num_hidden_layers is [2]; allowed: a single number"),
    "a convolution too few": (config(conv_dim=[32] * 6), "Allowed: lists of one length"),
    "a stride too many": (config(conv_stride=[2] * 8), "Allowed: lists of one length"),
    "a kernel that is no list": (config(conv_kernel=3), "Allowed: lists of one length"),
    "convolutions without end": (config(conv_dim=[32] * 10**5), "lists 100000 numbers for conv_dim"),
    "heads that don't fit": (config(hidden_size=33), "hidden_size is 33, which is no multiple of num_attention_heads"),
    "a step of a day": (config(conv_stride=[1024] * 7), "so many samples for a frame that 1 s gives none"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_a_sentence_and_leaves_nothing(
    what: str, home: SimpleNamespace, away: Path, tmp_path: Path
) -> None:
    change, sentence = TAMPERED[what]
    deflated = {"compression": zipfile.ZIP_DEFLATED}
    bad = repacked(home.folder / "torch-fp32.zip", tmp_path / "bad.zip", change, **deflated)
    begun_s = time.process_time()  # of this process alone: a busy machine doesn't count
    with pytest.raises(ArtefactError) as e:
        transfer.read(bad)
    assert time.process_time() - begun_s < 1
    assert sentence in str(e.value) and str(e.value).startswith("bad.zip") and str(e.value).endswith(".")
    assert cache.kept() == [] and len(catalogue.catalogue()) == len(catalogue._published())
    assert not cache.home().exists() or not list(cache.home().iterdir()), "nothing half-written stays"


def test_what_is_no_zip_is_a_sentence(home: SimpleNamespace, away: Path, tmp_path: Path) -> None:
    whole = (home.folder / "torch-fp32.zip").read_bytes()
    for name, content in {"text.zip": b"no zip", "empty.zip": b"", "half.zip": whole[: len(whole) // 2]}.items():
        made(tmp_path, {name: content})
        with pytest.raises(ArtefactError, match=f"^{name} can't be read .*Allowed: a zip that"):
            transfer.read(tmp_path / name)
    with pytest.raises(ArtefactError, match="can't be read"):
        transfer.read(tmp_path / "absent.zip")


def test_headers_that_lie_and_links_and_other_methods(home: SimpleNamespace, away: Path, tmp_path: Path) -> None:
    source, bad = home.folder / "torch-fp32.zip", tmp_path / "bad.zip"
    repacked(source, bad, lambda _: None, compression=zipfile.ZIP_LZMA)
    with pytest.raises(ArtefactError, match="in an unusual way"):
        transfer.read(bad)
    shutil.copy(source, bad)
    with zipfile.ZipFile(bad, "a") as packed:
        link = zipfile.ZipInfo("link.json")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(ArtefactError, match=r"“link.json”, a symbolic link"):
        transfer.read(bad)
    shutil.copy(source, bad)
    with zipfile.ZipFile(bad, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("config.json", "{}")
    with pytest.raises(ArtefactError, match=r"“config.json” twice"):
        transfer.read(bad)
    # More comes out of a file than its header and the manifest say: it is cut off there, and is not what was named.
    data = bytearray(
        repacked(source, bad, lambda f: f.update({"vocab.json": f["vocab.json"] + bytes(10)})).read_bytes()
    )
    with zipfile.ZipFile(source) as packed:
        size = packed.getinfo("vocab.json").file_size
    at = data.rindex(b"vocab.json") - 46 + 24  # of the central directory: the unpacked size
    data[at : at + 4] = size.to_bytes(4, "little")
    bad.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"vocab\.json"):
        transfer.read(bad)
    assert cache.kept() == []


# --- the cache, with a mode that needs no engine


@pytest.fixture
def plain(away: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plain]:
    with the_only_mode(monkeypatch) as mode:
        yield mode


def prepared(model: object, **settings: Any) -> Any:
    return artefacts_build.prepare(str(model), "torch-plain", settings, lambda _: None)[0]


def other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "versions", lambda packages: dict.fromkeys(packages, "2.0"))


def test_a_second_time_it_is_at_hand_and_not_built(plain: Plain, tiny_model: Path) -> None:
    assert cache.at_hand(str(tiny_model), plain.name, {}) is None
    first = prepared(tiny_model)
    assert not first.from_cache and first.size_bytes > 1000
    assert cache.at_hand(str(tiny_model), plain.name, {}) == first.digest
    assert prepared(tiny_model).from_cache and plain.built == 1
    assert cache.at_hand(str(tiny_model), plain.name, {"bits": 4}) is None
    (kept,) = cache.kept()
    assert (kept.model, kept.mode, kept.use) == ("tiny", plain.name, "current")
    assert str(tiny_model.parent) not in json.dumps(cache.manifest_of(first.digest)), "no path of this device"
    prepared(tiny_model, bits=4)
    assert [k.mode for k in cache.kept()] == ["torch-plain:bits=4", "torch-plain"]


def test_other_versions_build_anew_unless_it_was_imported(
    plain: Plain, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = prepared(tiny_model).digest
    transfer.write(digest, tmp_path / "x.zip")
    other_versions(monkeypatch)
    assert cache.at_hand(str(tiny_model), plain.name, {}) is None
    assert cache.kept()[0].use == "none: of other versions"
    assert prepared(tiny_model).digest != digest and plain.built == 2
    cache.remove([k.digest for k in cache.kept()])
    transfer.read(tmp_path / "x.zip")
    assert cache.at_hand(str(tiny_model), plain.name, {}) == digest and cache.kept()[0].use == "imported"
    artefact = prepared(tiny_model)
    assert artefact.digest == digest and artefact.from_cache and plain.built == 2
    assert artefact.details == {"bits": "8", "built elsewhere": f"on {cpu.cpu_name()} with numpy 1.0"}
    assert not prepared(tiny_model, bits=4).from_cache  # what was not imported is built here


def test_a_changed_folder_is_not_at_hand(plain: Plain, tiny_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(tiny_model, mine)
    prepared(mine)
    assert cache.at_hand(str(mine), plain.name, {})
    (mine / "vocab.json").write_text((mine / "vocab.json").read_text() + "\n")
    assert cache.at_hand(str(mine), plain.name, {}) is None


def test_a_damaged_artefact_is_built_again(plain: Plain, tiny_model: Path) -> None:
    digest = prepared(tiny_model).digest
    (cache.folder(digest) / "weights.bin").write_bytes(bytes(999) + b"x")
    assert not prepared(tiny_model).from_cache and plain.built == 2


def test_an_imported_model_is_in_the_list_for_as_long_as_it_is_there(
    plain: Plain, tiny_model: Path, tmp_path: Path
) -> None:
    digest = prepared(tiny_model).digest
    transfer.write(digest, tmp_path / "x.zip")
    cache.remove([digest])
    _, name = transfer.read(tmp_path / "x.zip")
    checkpoint = catalogue.find(name)
    assert checkpoint.source == "imported" and checkpoint.config["hidden_size"] == CONFIG["hidden_size"]
    assert checkpoint.note == "imported, without weights: torch-plain"
    assert checkpoint in catalogue.catalogue() and prepared(name).from_cache
    assert cache.at_hand(name, plain.name, {}) == digest
    with pytest.raises(
        ModeError, match=rf"weights of {name} are not on this device.*torch-plain:bits=4 can't be built"
    ):
        prepared(name, bits=4)
    cache.remove([digest])
    with pytest.raises(ModelError, match="no model or folder"):
        catalogue.find(name)


def test_a_model_that_is_here_gets_no_second_name(plain: Plain, tmp_path: Path) -> None:
    digest = prepared("wav2vec2-base-random").digest
    transfer.write(digest, tmp_path / "x.zip")
    cache.remove([digest])
    assert transfer.read(tmp_path / "x.zip") == (digest, "wav2vec2-base-random")
    assert [c.source for c in catalogue.catalogue() if c.source == "imported"] == []


def test_without_what_building_takes_it_opens_and_tells_what_was_counted(
    plain: Plain, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = prepared(tiny_model).digest
    transfer.write(digest, tmp_path / "x.zip")
    cache.remove([digest])
    transfer.read(tmp_path / "x.zip")

    def cannot(*_: Any) -> Coverage:
        raise ImportError("no_such_package_here")

    monkeypatch.setattr(plain, "coverage", cannot)
    needs = Needs(packages=("numpy",), build_packages=("no_such_package_here",))
    monkeypatch.setattr(plain, "SPEC", replace(plain.SPEC, needs=needs))
    artefact, coverage = artefacts_build.prepare(str(tiny_model), plain.name, {}, lambda _: None)
    assert artefact.digest == digest and [p.name for p in coverage.parts] == ["all"]
    with pytest.raises(ModeError, match=r"Building torch-plain takes no_such_package_here, not installed here. Fix: "):
        prepared(tiny_model, bits=4)


def test_what_can_not_be_read_is_listed_and_can_be_removed(plain: Plain, tiny_model: Path) -> None:
    digest = prepared(tiny_model).digest
    (cache.folder(digest) / "artefact.json").write_text("{")
    (kept,) = cache.kept()
    assert kept.use == "none: can't be read" and kept.size_bytes > 1000
    assert cache.remove([digest]) == kept.size_bytes and cache.kept() == []


def test_the_base_is_not_prepared_for_what_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Worker:
        def ask(self, do: str, *_: Any, mode: str, **__: Any) -> Any:
            asked.append(mode)
            one = {"digest": "d", "checkpoint": "c", "size_bytes": 1, "build_s": 1.0, "build_peak_rss_bytes": 1}
            return {"artefact": {**one, "from_cache": False}, "coverage": {"parts": []}}

        def close(self) -> None:
            pass

    monkeypatch.setattr(Pool, "start", lambda *_: Worker())
    based = {"top": "base", "base": ""}
    monkeypatch.setattr(modes, "find", lambda name: SimpleNamespace(SPEC=SimpleNamespace(base=based[name])))
    for there, expected in ((set(), ["base", "top"]), ({"base"}, ["top"]), ({"top"}, ["top"])):
        asked.clear()
        monkeypatch.setattr(cache, "at_hand", lambda model, mode, s, there=there: "d" if mode in there else None)
        start.build(Variant("m", "top", Placement("cpu", 1)), Pool(), start.Limits(), lambda _: None)
        assert asked == expected


# --- the commands


@pytest.fixture
def here(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> Plain:
    """Building happens in this process."""
    from rich.console import Console

    def build(v: Variant, *_: Any) -> Any:
        return artefacts_build.prepare(v.model, v.mode, dict(v.settings), lambda _: None)

    monkeypatch.setattr("bench.cli.artefacts.build_variant", build)
    monkeypatch.setattr(console, "out", Console(highlight=False, markup=False, width=200))
    monkeypatch.setattr(console, "err", Console(stderr=True, highlight=False, markup=False, width=1000))
    return plain


def test_the_way_through_by_commands(here: Plain, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert "artefacts build" in bench("artefacts", "list").stdout
    built = bench("artefacts", "build", "--model", tiny_model, "--modes", "torch-plain,torch-plain:bits=4")
    assert built.exit_code == 0 and built.stdout.count("built in") == 2
    assert "was there" in bench("artefacts", "build", "--model", tiny_model, "--modes", "torch-plain").stdout
    listed = bench("artefacts", "list").stdout
    assert re.search(r"^ ?[0-9a-f]{8} +tiny +torch-plain:bits=4 .* current", listed, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    by_name = bench("artefacts", "export", "--model", tiny_model, "--mode", "torch-plain:bits=4")
    assert by_name.exit_code == 0 and Path(by_name.stdout.strip()).is_file()
    assert by_name.stdout == "tiny-torch-plain-bits=4.zip\n"
    by_digest = bench("artefacts", "export", listed.splitlines()[2].split()[0], "--out", tmp_path / "y.zip")
    assert by_digest.exit_code == 0 and (tmp_path / "y.zip").is_file()

    cleared = bench("artefacts", "clear", "--mode", "torch-plain:bits=4", "--yes")
    assert cleared.exit_code == 0 and "Removed 1 artefact: 0 MB are free again." in cleared.stdout
    from typer.testing import CliRunner

    from bench.cli import app

    asked = CliRunner().invoke(app.app, ["artefacts", "clear"], input="n\n")
    assert asked.exit_code == 1 and "Remove 1 artefact and free" in asked.output and len(cache.kept()) == 1
    assert bench("artefacts", "clear", "--yes").exit_code == 0 and cache.kept() == []
    imported = bench("artefacts", "import", tmp_path / "tiny-torch-plain-bits=4.zip")
    answer = r"Imported [0-9a-f]{8}\. Use it by: --model tiny@[0-9a-f]{8} --modes torch-plain:bits=4\n"
    assert re.fullmatch(answer, imported.stdout)
    assert "imported" in bench("artefacts", "list").stdout


def test_wrong_commands_are_sentences(here: Plain, tiny_model: Path, tmp_path: Path) -> None:
    assert "No artefact begins with “ab”" in refused("artefacts", "export", "ab")
    assert "Say which artefact" in refused("artefacts", "export")
    assert "no artefact of" in refused("artefacts", "export", "--model", tiny_model, "--mode", "torch-plain")
    assert "no mode “x”" in refused("artefacts", "export", "--model", tiny_model, "--mode", "x")
    assert "no mode “x”" in refused("artefacts", "build", "--modes", "x")
    assert "no model or folder" in refused("artefacts", "build", "--model", "x", "--modes", "torch-plain")
    assert "In the cache: nothing." in refused("artefacts", "clear", "--yes")
    assert "can't be read" in refused("artefacts", "import", tmp_path / "absent.zip")
    digest = prepared(tiny_model).digest
    assert "can't be written" in refused("artefacts", "export", digest, "--out", tmp_path)
    assert "does not exist" in refused("artefacts", "export", digest, "--out", tmp_path / "absent" / "x.zip")
    assert "In the cache: torch-plain of tiny." in refused("artefacts", "clear", "--mode", "x", "--yes")
    with manager.jobs().hold("a test"):
        assert "for a test" in refused("artefacts", "clear", "--yes")
        assert "for a test" in refused("artefacts", "import", tmp_path / "x.zip")
        assert "for a test" in refused("artefacts", "build", "--model", tiny_model, "--modes", "torch-plain")


def test_what_fails_to_build_is_told_and_the_rest_goes_on(here: Plain, tiny_model: Path, monkeypatch: Any) -> None:
    from bench.workers.client import WorkerError

    def build(v: Variant, *_: Any) -> Any:
        if dict(v.settings):
            raise WorkerError("out of memory", "Memory ran out.")
        return artefacts_build.prepare(v.model, v.mode, {}, lambda _: None)

    monkeypatch.setattr("bench.cli.artefacts.build_variant", build)
    done = bench("artefacts", "build", "--model", tiny_model, "--modes", "torch-plain:bits=4,torch-plain")
    assert done.exit_code == 1 and "built in" in done.stdout
    assert "torch-plain:bits=4 of" in done.stderr and "failed (out of memory): Memory ran out." in done.stderr
