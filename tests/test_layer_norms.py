"""A model as large ones are: a layer norm behind every convolution, which has a bias, and norms before attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from noise import snr_db
from tiny_model import CONFIG, save

from bench import artefacts, models, modes
from bench.models import wav2vec2
from bench.modes import _openvino, _openvino_halves

LARGE = CONFIG | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
# Logits against transformers', dB; and of the feature extractor, (bits of weights, of activations) -> convolutions.
EXPECTED = {
    "onnx-fp32": (90.0, {(32, 32): 7}),
    "onnx-int8-static": (5.0, {(32, 32): 1, (8, 8): 6}),
    "openvino-fp32": (90.0, {(32, 32): 7}),
    "openvino-bf16": (25.0, {(16, 16): 7}),
    "openvino-int8-weight-only": (25.0, {(8, 16): 7}),
    "openvino-int8-static": (8.0, {(16, 16): 1, (8, 8): 6}),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("large"), LARGE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_large_models_extractor(name: str, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    monkeypatch.setenv("EARBENCH_DATA", str(data))
    made, coverage = artefacts.prepare(str(tiny), name, {}, lambda _: None)
    least, extractor = EXPECTED[name]
    parts = [p for p in coverage.parts if p.name == "feature extractor" and p.nodes]
    found = {(p.weight_bits, p.activation_bits): p.nodes for p in parts}
    if modes.find(name).ENGINE == "openvino" and _openvino.runs("bf16") == "f32":
        extractor = {(weight, 32 if bits == 16 else bits): nodes for (weight, bits), nodes in extractor.items()}
    assert found == extractor
    x = wav2vec2.inputs(2.0, 2, 0, "speech")
    with torch.inference_mode():
        wanted = Wav2Vec2ForCTC.from_pretrained(tiny).eval()(torch.from_numpy(x)).logits.numpy()
    opened = modes.find(name).open(artefacts.folder(made.digest), 2, models.families()["wav2vec2"])
    logits = opened(x)
    assert least < snr_db(np.asarray(wanted), logits)
    if modes.find(name).ENGINE == "openvino":  # biases and the attention's scale included, reading bf16 changes nothing
        monkeypatch.setattr(_openvino_halves, "read", lambda _: None)
        plain = modes.find(name).open(artefacts.folder(made.digest), 2, models.families()["wav2vec2"])
        assert snr_db(plain(x), logits) > 100
