"""A model as large ones are: a layer norm behind every convolution, which has a bias, and norms before attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import forward, inputs
from noise import snr_db
from tiny_model import CONFIG, save

from bench import modes
from bench.artefacts import build, cache
from bench.modes.openvino import bfloat16
from bench.modes.openvino import engine as openvino_engine

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
    artefact, coverage = build.prepare(str(tiny), name, {}, lambda _: None)
    least, extractor = EXPECTED[name]
    parts = [p for p in coverage.parts if p.name == "feature extractor" and p.nodes]
    is_openvino = modes.find(name).SPEC.engine == "openvino"
    if is_openvino and openvino_engine.runs("bf16") == "f32":
        extractor = {(weight, 32 if bits == 16 else bits): nodes for (weight, bits), nodes in extractor.items()}
    assert {(p.weight_bits, p.activation_bits): p.nodes for p in parts} == extractor
    x = inputs(2.0, batch=2)
    with torch.inference_mode():
        original = Wav2Vec2ForCTC.from_pretrained(tiny).eval()(torch.from_numpy(x)).logits.numpy()
    directory = cache.folder(artefact.digest)
    logits = forward(name, directory)(x)
    assert least < snr_db(np.asarray(original), logits)
    if is_openvino:  # biases and the attention's scale included, reading bf16 changes nothing
        monkeypatch.setattr(bfloat16, "read", lambda _: None)
        assert snr_db(forward(name, directory)(x), logits) > 100
