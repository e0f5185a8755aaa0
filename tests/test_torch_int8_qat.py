"""Fine-tuning that rounds as it learns: what it learns, what it keeps of it, and what a killed one leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import artefacts
from bench.client import Cancelled, Pool
from bench.modes import Clips, ModeError, torch_int8_qat
from bench.opening import Limits, build
from bench.records import LOSS_CURVE, Variant

SETTINGS = {name: option.default for name, option in torch_int8_qat.SETTINGS.items()}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch
    from transformers import Wav2Vec2ForCTC

    torch.manual_seed(2)
    return Wav2Vec2ForCTC.from_pretrained(tiny_model, dtype=torch.float32).eval()


def clips(count: int = 3) -> Clips:
    """Noise that says a letter or two."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((1, 8000), dtype=np.float32), np.array([5 + i, 9], np.int64)) for i in range(count)]


def test_the_loss_falls_and_every_step_is_told_and_kept(model: Any, tmp_path: Path) -> None:
    told: list[str] = []
    chosen = {**SETTINGS, "steps": 24, "learning_rate": 3e-3}
    details = torch_int8_qat.build(copy.deepcopy(model), clips(), chosen, tmp_path, told.append)
    losses = [float(x) for x in details[LOSS_CURVE].split()]
    assert len(losses) == 24
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])  # of the same three clips
    assert f"step 24 of 24, CTC loss {losses[-1]:.3f}" in told
    assert details["tuning"].startswith("24 steps on 3 clips; mean CTC loss a character ")
    assert {f.name for f in tmp_path.iterdir()} == {"model.safetensors"}


def test_the_weights_are_rounded_for_good_as_they_were_while_they_learned(model: Any) -> None:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module = copy.deepcopy(model)
    torch_int8_qat.prepare(module)
    learned = {
        n: m.weight_fake_quantizer(m.weight) for n, m in module.named_modules() if hasattr(m, "weight_fake_quantizer")
    }
    assert len(learned) == 2 * 6 + 2
    assert all(not torch.equal(w, module.get_submodule(n).weight) for n, w in learned.items())
    torch_int8_qat.convert(module)
    quantize_(module, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    for name, weight in learned.items():
        torch.testing.assert_close(module.get_submodule(name).weight.dequantize(), weight, rtol=0, atol=1e-7)


def test_only_linear_layers_learn(model: Any, tmp_path: Path) -> None:
    chosen = {**SETTINGS, "steps": 2, "learning_rate": 1e-2}
    torch_int8_qat.build(copy.deepcopy(model), clips(), chosen, tmp_path, lambda _: None)
    from safetensors.torch import load_file

    kept, was = load_file(tmp_path / "model.safetensors"), model.state_dict()
    same = {n for n, t in was.items() if n in kept and (kept[n] == t).all()}
    assert same == {n for n in was if "conv" in n or "norm" in n or n.endswith("masked_spec_embed")}


def test_clips_without_text_or_too_long_are_refused_in_words(model: Any, tmp_path: Path) -> None:
    silent = [(np.zeros((1, 8000), np.float32), np.array([], np.int64))]
    long = [(np.zeros((1, 16000 * 11), np.float32), np.array([5], np.int64))]
    for data in (silent, long, []):
        with pytest.raises(ModeError, match="is tuned on clips with their text") as e:
            torch_int8_qat.build(model, data, SETTINGS, tmp_path, lambda _: None)
        assert f"none of the {len(data)} that came" in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_build_that_is_cancelled_leaves_no_half_artefact(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    pool = Pool()

    def stage(text: str) -> None:
        if "step 3 of" in text:
            pool.cancel()

    variant = Variant(str(tiny_model), "torch-int8-qat", 1, (("steps", 5000),))
    with pytest.raises(Cancelled):
        build(variant, pool, Limits(), stage)
    assert artefacts.kept() == []
    artefacts.sweep()
    assert not list(artefacts.home().glob("*")) and not list(artefacts.home().glob(".*"))
