"""Fine-tuning that rounds as it learns: what it learns, what it keeps of it, and what a killed one leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import modes
from bench.artefacts import cache
from bench.core.records import LOSS_CURVE
from bench.core.specs import Placement, Variant
from bench.families.family import Array
from bench.families.wav2vec2 import FAMILY
from bench.modes.mode import Data, ModeError
from bench.modes.torchao import int8_qat
from bench.workers.client import Cancelled, Pool
from bench.workers.start import Limits, build

MODE = int8_qat.MODE
SETTINGS = modes.complete(MODE, {})


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch
    from transformers import Wav2Vec2ForCTC

    torch.manual_seed(2)
    return Wav2Vec2ForCTC.from_pretrained(tiny_model, dtype=torch.float32).eval()


def clips(count: int = 3) -> Data:
    """Noise that says a letter or two."""
    rng = np.random.default_rng(0)
    return labelled(*((rng.standard_normal((1, 8000), dtype=np.float32), [5 + i, 9]) for i in range(count)))


def labelled(*clips: tuple[Array, list[int]]) -> Data:
    """Clips with the tokens that they say."""
    feeds = [{"x": clip} for clip, _ in clips]
    targets = [np.array(tokens, np.int64) for _, tokens in clips]
    return Data(list(zip(feeds, targets, strict=True)), {"model": feeds})


def tuned(model: Any, data: Data, directory: Path, progress: Callable[[str], None], **changed: Any) -> dict[str, str]:
    """Build the mode's weights from a copy of the model; returns what was chosen."""
    return MODE.build({"model": copy.deepcopy(model)}, FAMILY, data, {**SETTINGS, **changed}, directory, progress)


def test_the_loss_falls_and_every_step_is_told_and_kept(model: Any, tmp_path: Path) -> None:
    reported: list[str] = []
    details = tuned(model, clips(), tmp_path, reported.append, steps=24, learning_rate=3e-3)
    losses = [float(x) for x in details[LOSS_CURVE].split()]
    assert len(losses) == 24
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])  # of the same three clips
    assert f"step 24 of 24, loss {losses[-1]:.3f}" in reported
    assert details["tuning"].startswith("24 steps on 3 clips; mean loss ")
    assert {f.name for f in tmp_path.iterdir()} == {"model.safetensors"}


def test_the_weights_are_rounded_for_good_as_they_were_while_they_learned(model: Any) -> None:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module = copy.deepcopy(model)
    int8_qat.prepare(module)
    learned = {
        n: m.weight_fake_quantizer(m.weight) for n, m in module.named_modules() if hasattr(m, "weight_fake_quantizer")
    }
    assert len(learned) == 2 * 6 + 2
    assert all(not torch.equal(w, module.get_submodule(n).weight) for n, w in learned.items())
    int8_qat.convert(module)
    quantize_(module, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    for name, weight in learned.items():
        torch.testing.assert_close(module.get_submodule(name).weight.dequantize(), weight, rtol=0, atol=1e-7)


def test_only_linear_layers_learn(model: Any, tmp_path: Path) -> None:
    tuned(model, clips(), tmp_path, lambda _: None, steps=2, learning_rate=1e-2)
    from safetensors.torch import load_file

    kept, was = load_file(tmp_path / "model.safetensors"), model.state_dict()
    same = {n for n, t in was.items() if n in kept and (kept[n] == t).all()}
    assert same == {n for n in was if "conv" in n or "norm" in n or n.endswith("masked_spec_embed")}


def test_clips_without_text_or_too_long_are_refused_in_words(model: Any, tmp_path: Path) -> None:
    silent = labelled((np.zeros((1, 8000), np.float32), []))
    long = labelled((np.zeros((1, 16000 * 11), np.float32), [5]))
    for data in (silent, long, Data()):
        with pytest.raises(ModeError, match="is tuned on clips with their text") as e:
            tuned(model, data, tmp_path, lambda _: None)
        assert f"none of the {len(data.examples)} that came" in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_build_that_is_cancelled_leaves_no_half_artefact(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    pool = Pool()

    def stage(text: str) -> None:
        if "step 3 of" in text:
            pool.cancel()

    variant = Variant(str(tiny_model), "torch-int8-qat", Placement("cpu", 1), (("steps", 5000),))
    with pytest.raises(Cancelled):
        build(variant, pool, Limits(), stage)
    assert cache.kept() == []
    cache.sweep()
    assert not list(cache.home().glob("*")) and not list(cache.home().glob(".*"))
