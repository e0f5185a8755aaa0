"""The Device page by AppTest: facts and fixes, an empty cache, artefacts to export, to clear and to bring."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_pages import FOUND, opened, texts

from bench.artefacts import cache, recipe, transfer
from bench.artefacts.cache import ArtefactError
from bench.core import paths
from bench.core.lease import Refused
from bench.core.paths import ROOT, SHIPPED
from bench.device import cpu
from bench.families import catalogue, wav2vec2
from bench.jobs import manager
from bench.modes import find, probe
from bench.modes.probe import Availability
from bench.sound import audio
from bench.sound.microphone import Input, MicrophoneError
from bench.ui import artefacts as ui_artefacts
from bench.ui import microphone

PAGE = "pages/5_Device.py"
DEMO = SHIPPED / "models" / "demo"
MICROPHONE = Input(3, "USB [hw:1,0]", "ALSA", 44_100, 1, is_default=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(probe, "at_hand", lambda **_: FOUND)
    monkeypatch.setattr(microphone, "devices", lambda: [MICROPHONE])
    manager._jobs.cache_clear()
    yield tmp_path
    manager._jobs.cache_clear()


def kept(model: str = "demo", mode: str = "torch-fp32", *, imported: bool = False, old: bool = False) -> str:
    """An artefact by hand, whole as far as a cache and a zip can tell; returns its digest."""
    spec = find(mode).SPEC
    manifest: dict[str, Any] = {
        "checkpoint": f"{model}, state 1234567890",
        "mode": mode,
        "mode version": spec.version,
        "settings": {name: option.default for name, option in spec.settings.items()},
        "versions": recipe.versions_of(find(mode)) | ({"torch": "0.1"} if old else {}),
        "clips": [],
        "base": None,
        "family": "wav2vec2",
        "model": model,
        "details": {},
        "device": "a processor",
        "built_s": 1.7e9,
        "build_s": 2.5,
        "build_peak_rss_bytes": 321_000_000,
        "build_disk_bytes": 2_000_000,
    }
    place = cache.folder(recipe.digest_of(manifest))
    place.mkdir(parents=True)
    for name in wav2vec2.FAMILY.FILES:
        (place / name).write_bytes((DEMO / name).read_bytes())
    (place / "model.safetensors").write_bytes(bytes(1_500_000))
    files = {f.name: recipe.digest_of_file(f) for f in sorted(place.iterdir())}
    (place / cache.MANIFEST).write_text(json.dumps(manifest | {"files": files}))
    if imported:
        mark = {"name": "", "mode": mode, "family": "wav2vec2", "checkpoint": manifest["checkpoint"], "imported_s": 1.0}
        (place / catalogue.IMPORTED).write_text(json.dumps(mark))
    return place.name


def table(at: AppTest, column: str) -> Any:
    """The table with this column."""
    return next(d.value for d in at.dataframe if column in d.value)


def test_what_the_device_is_and_that_nothing_is_built_yet() -> None:
    at = opened(PAGE)
    said = texts(at)
    assert cpu.cpu_name() in said and "Clock governor" in said and "torch" in said
    assert list(table(at, "Here")["Mode"]) == list(FOUND)
    assert "Nothing is built yet" in said and "python -m bench artefacts build" in said
    assert "USB \\[hw\\:1,0\\] (ALSA), 44.1 kHz, the default" in "".join(m.value for m in at.markdown)
    assert "python -m bench serve --lan" in said
    assert not at.get("download_button") and len(at.get("file_uploader")) == 1


def test_every_mode_is_told_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "pip install -r requirements.txt"
    found = FOUND | {
        "onnx-fp32": Availability("unavailable", f"onnxruntime can't be imported (no module); fix: {fix}"),
        "openvino-fp32": Availability("unavailable", f"openvino can't be imported (no module); fix: {fix}"),
        "torch-int8-dynamic": Availability("unavailable", "this torch has no quantized engine."),
    }
    monkeypatch.setattr(probe, "at_hand", lambda **_: found)
    at = opened(PAGE)
    shown = table(at, "Here").set_index("Mode")
    assert "unavailable" in shown["Here"]["onnx-fp32"] and "emulated" in shown["Here"]["torch-bf16"]
    assert shown["Why, or how"]["onnx-fp32"] == "onnxruntime can't be imported (no module)"
    assert [c.value for c in at.code] == [fix], "one command for both"
    said = texts(at)
    assert "**onnx-fp32, openvino-fp32**" in said and "3 unavailable" in said and "1 emulated" in said
    assert "**torch-int8-dynamic** is unavailable: this torch has no quantized engine." in said


def test_missing_microphones_and_ffmpeg_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> list[Input]:
        raise MicrophoneError("No microphone was found. Plug one in.")

    monkeypatch.setattr(microphone, "devices", absent)
    monkeypatch.setattr(audio.shutil, "which", lambda _: None)
    at = opened(PAGE)
    told = [w.value for w in at.warning]
    assert told[0] == "No microphone was found. Plug one in." and "apt install ffmpeg" in told[1]
    monkeypatch.setattr(microphone, "devices", lambda: [MICROPHONE])
    at.button(key="device_refresh").click().run()
    assert "1 microphone:" in texts(at)


def test_artefacts_are_listed_and_cleared_as_chosen() -> None:
    first, second = kept(), kept("other", "torch-int8-dynamic", imported=True)
    useless = kept("demo", "torch-bf16", old=True)
    (cache.home() / "broken").mkdir()
    at = opened(PAGE)
    shown = table(at, "Use").set_index("Digest")
    assert dict(shown["Use"]) == {
        first[:8]: "current",
        second[:8]: "imported",
        useless[:8]: "none: of other versions",
        "broken": "none: can't be read",
    }
    assert shown["Memory while building, MB"][first[:8]] == 321 and shown["Built in, s"][first[:8]] == 2.5
    assert "in 4 artefacts" in texts(at)
    assert len(at.get("download_button")) == 1

    at.multiselect(key="clear_chosen").set_value([second]).run()
    assert "This removes 1 artefact and frees 2 MB" in texts(at) and "but not the 1 that was imported" in texts(at)
    assert len(cache.kept()) == 4, "it asks first"
    at.button(key="clear_chosen_yes").click().run()
    assert not at.exception and {k.digest for k in cache.kept()} == {first, useless, "broken"}
    assert [s.value for s in at.success] == ["Removed: 2 MB are free again."]

    at.button(key="clear_useless_yes").click().run()
    assert [k.digest for k in cache.kept()] == [first]
    at.button(key="clear_all_yes").click().run()
    assert cache.kept() == [] and "Nothing is built yet" in texts(at) and not at.exception


def test_a_zip_goes_out_and_comes_in_again(home: Path) -> None:
    digest = kept()
    with ui_artefacts.packed(manager.jobs(), digest) as file:
        whole = file.read()
        assert not list(paths.cache().glob(".*")), "nothing is left on the disk"
        file.seek(0)
        assert ui_artefacts.taken(file, "a.zip").startswith("torch-fp32 of demo was here already.")
        cache.remove([digest])
        file.seek(0)
        assert ui_artefacts.taken(file, "../a.zip").startswith("torch-fp32 of demo@12345678 is here now.")
    assert [(k.digest, k.imported) for k in cache.kept()] == [(digest, True)]
    assert len(whole) > 1_500_000 and not list(paths.cache().glob(".*"))
    assert list(table(opened(PAGE), "Use")["Use"]) == ["imported"]


def test_an_upload_on_the_page_is_taken_or_refused_in_a_sentence(home: Path) -> None:
    digest = kept()
    transfer.write(digest, home / "good.zip")
    cache.remove([digest])
    with zipfile.ZipFile(home / "bad.zip", "w") as packed:
        packed.writestr("model.py", "print()")
    at = opened(PAGE)
    at.get("file_uploader")[0].set_value(("bad.zip", (home / "bad.zip").read_bytes(), "application/zip")).run()
    assert any("bad.zip holds “model.py”. Allowed endings" in e.value for e in at.error), [e.value for e in at.error]
    assert cache.kept() == [] and not at.exception
    at.get("file_uploader")[0].set_value(("good.zip", (home / "good.zip").read_bytes(), "application/zip")).run()
    assert [k.digest for k in cache.kept()] == [digest]
    assert any("demo@12345678 is here now" in s.value for s in at.success) and not at.error


def test_what_is_no_zip_leaves_nothing(home: Path) -> None:
    (home / "none").write_bytes(b"no zip")
    with (home / "none").open("rb") as file, pytest.raises(ArtefactError, match=r"none\.zip can't be read"):
        ui_artefacts.taken(file, "none.zip")
    assert cache.kept() == [] and not list(paths.cache().glob(".*"))


def test_beside_a_measurement_the_cache_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = kept()
    at = opened(PAGE)
    monkeypatch.setattr(manager.Jobs, "hold", _refusing)  # it began after the page was drawn
    at.button(key="clear_all_yes").click().run()
    assert [e.value for e in at.error] == ["A benchmark is under way."]
    with pytest.raises(Refused):
        ui_artefacts.packed(manager.jobs(), digest)
    assert len(cache.kept()) == 1
    monkeypatch.setattr(manager.Jobs, "holder", lambda self: "This device is busy: process 7.")
    at = opened(PAGE)
    assert any("process 7" in i.value for i in at.info)
    assert at.get("download_button")[0].proto.disabled and at.get("file_uploader")[0].proto.disabled


@contextmanager
def _refusing(self: Any, what: str) -> Iterator[None]:
    raise Refused("A benchmark is under way.")
    yield


def test_what_memory_can_not_hold_is_exported_by_command(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = kept()
    monkeypatch.setattr("bench.device.cpu.available_memory_bytes", lambda: 1_000_000)
    at = opened(PAGE)
    assert at.get("download_button")[0].proto.disabled
    assert f"python -m bench artefacts export {digest[:8]}" in texts(at)


def test_the_page_is_thin() -> None:
    assert (ROOT / PAGE).read_text().count("\n") < 120
