"""Static int8 by export and torch.compile: what is quantized, how it is opened, and when it can't be."""

from __future__ import annotations

import copy
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import snr_db

from bench import models, modes
from bench.models import wav2vec2
from bench.modes import Clips, ModeError, _inductor, torch_int8_static
from bench.modes.probe import probe

FAMILY = models.families()["wav2vec2"]
SETTINGS = {name: option.default for name, option in torch_int8_static.SETTINGS.items()}
CLIPS: Clips = [(wav2vec2.inputs(s, 1, 0, "speech"), np.array([], np.int64)) for s in (1.0, 1.7)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch

    torch.manual_seed(3)
    return FAMILY.load(models.find(str(tiny_model)), tiny_model)


@pytest.fixture(scope="module")
def place(model: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact by default settings."""
    return made(model, tiny_model, tmp_path_factory.mktemp("artefact"), SETTINGS)


def made(model: Any, tiny_model: Path, directory: Path, settings: dict[str, Any]) -> Path:
    texts = FAMILY.describe(models.find(str(tiny_model)), tiny_model)
    for name, text in texts.items():
        (directory / name).write_text(text)
    torch_int8_static.build(copy.deepcopy(model), CLIPS, settings, directory, lambda _: None)
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

    found = integers(made(model, tiny_model, tmp_path, {**SETTINGS, "float_convs": float_convs}))
    assert {n for n in found if "conv" in n} == set(CONVS[float_convs:])
    assert len(found) == 7 - float_convs + 2 * 6 + 2
    x = torch.from_numpy(wav2vec2.inputs(1.0, 1, 1, "speech"))
    with torch.no_grad():
        rounded, exact = (m(x).logits.numpy() for m in (torch_int8_static.reference(tmp_path, FAMILY), model))
    least = 25 if float_convs == 7 else 1  # the peaks of a random extractor leave its frames few steps
    assert least < snr_db(exact, rounded) < 60


def test_the_code_that_opens_it_gives_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(place)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # that takes long, and tests of all modes do it
    names: dict[str, Any] = {}
    exec(f"{wav2vec2.SKELETON_CODE}\n\n{torch_int8_static.OPEN_CODE}", names)
    x = wav2vec2.inputs(1.0, 1, 0, "speech")
    with torch.no_grad():
        wanted = torch_int8_static.reference(place, FAMILY)(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(names["forward"](x), wanted, atol=1e-5)


def test_without_a_compiler_it_is_unavailable_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mode = modes.find("torch-int8-static")
    assert "compiles when it is opened" in mode.check() and probe(mode).state == "available"
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "Python's headers are missing" in probe(mode).remark
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = probe(mode)
    assert found.state == "unavailable"
    assert "no C++ compiler here" in found.remark and "; fix: apt-get install g++" in found.remark


def test_a_compiler_of_another_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    assert _inductor.compiler() == "clang++"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("CXX", "my-c++")
    assert _inductor.compiler() == "my-c++"


def test_without_clips_it_is_not_built(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModeError, match="calibrated on clips, and none came"):
        torch_int8_static.build(model, [], SETTINGS, tmp_path, lambda _: None)
