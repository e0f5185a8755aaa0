"""Static int8 by export and torch.compile: what is quantized, how it is opened, and when it can't be."""

from __future__ import annotations

import copy
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import FAMILY, calibration, inputs
from noise import snr_db

from bench import modes
from bench.families import catalogue
from bench.modes.mode import Data, ModeError
from bench.modes.probe import probe
from bench.modes.torch import compiled
from bench.modes.torchao import int8_static

MODE = int8_static.MODE
SETTINGS = modes.complete(MODE, {})
CLIPS = calibration(inputs(1.0), inputs(1.7))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch

    torch.manual_seed(3)
    return FAMILY.load(catalogue.find(str(tiny_model)), tiny_model)["model"]


@pytest.fixture(scope="module")
def place(model: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact by default settings."""
    return made(model, tiny_model, tmp_path_factory.mktemp("artefact"), SETTINGS)


def describe(tiny_model: Path, directory: Path) -> None:
    """Write what an artefact carries beside weights: a mode finds it there when it builds."""
    for name, content in FAMILY.describe(catalogue.find(str(tiny_model)), tiny_model).items():
        (directory / name).write_bytes(content)


def made(model: Any, tiny_model: Path, directory: Path, settings: dict[str, Any]) -> Path:
    describe(tiny_model, directory)
    MODE.build({"model": copy.deepcopy(model)}, FAMILY, CLIPS, settings, directory, lambda _: None)
    return directory


def integers(directory: Path) -> set[str]:
    from safetensors.torch import load_file

    tensors = load_file(directory / "model.safetensors")
    rounded = {n.removesuffix(".input_scale") for n in tensors if n.endswith(".input_scale")}
    assert rounded == {n.removesuffix(".weight") for n, t in tensors.items() if t.dtype.itemsize == 1}
    return rounded


CONVS = [f"wav2vec2.feature_extractor.conv_layers.{i}.conv" for i in range(7)]


@pytest.mark.parametrize("float_convs", [0, 2, 7])
def test_exactly_the_first_convolutions_stay_float(
    float_convs: int, model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    layers = integers(made(model, tiny_model, tmp_path, {**SETTINGS, "float_convs": float_convs}))
    assert {n for n in layers if "conv" in n} == set(CONVS[float_convs:])
    assert len(layers) == 7 - float_convs + 2 * 6 + 2
    x = torch.from_numpy(inputs(1.0, seed=1))
    with torch.no_grad():
        rounded, exact = (m(x).logits.numpy() for m in (int8_static.reference(tmp_path, FAMILY), model))
    least = 25 if float_convs == 7 else 1  # the peaks of a random extractor leave its frames few steps
    assert least < snr_db(exact, rounded) < 60


def test_the_code_that_opens_it_gives_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(place)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # that takes long, and tests of all modes do it
    names: dict[str, Any] = {}
    exec(f"{FAMILY.SKELETON_CODE}\n\n{MODE.SPEC.open_code}", names)
    x = inputs(1.0)
    with torch.no_grad():
        logits = int8_static.reference(place, FAMILY)(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(names["forward"](x), logits, atol=1e-5)


def test_without_a_compiler_it_is_unavailable_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mode = modes.find("torch-int8-static")
    assert "compiles when it is opened" in mode.check() and probe(mode).state == "available"
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "Python's headers are missing" in probe(mode).remark
    monkeypatch.setattr(shutil, "which", lambda _: None)
    availability = probe(mode)
    assert availability.state == "unavailable"
    assert "no C++ compiler here" in availability.remark and "; fix: apt-get install g++" in availability.remark


def test_a_compiler_of_another_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    assert compiled.compiler() == "clang++"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("CXX", "my-c++")
    assert compiled.compiler() == "my-c++"


def test_without_clips_it_is_not_built(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    describe(tiny_model, tmp_path)
    with pytest.raises(ModeError, match="calibrated on clips, and none came"):
        MODE.build({"model": model}, FAMILY, Data(), SETTINGS, tmp_path, lambda _: None)
