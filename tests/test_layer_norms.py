"""A model as large ones are: a layer norm behind every convolution, which has a bias, and norms before attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from noise import snr_db

from bench import artefacts, models, modes
from bench.models import wav2vec2

CONFIG = {
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.1,
}
# Logits against transformers', dB; and of the feature extractor, (bits of weights, of activations) -> convolutions.
EXPECTED = {
    "onnx-fp32": (90.0, {(32, 32): 7}),
    "onnx-int8-static": (5.0, {(32, 32): 1, (8, 8): 6}),
    "openvino-fp32": (90.0, {(32, 32): 7}),
    "openvino-int8-static": (8.0, {(16, 16): 1, (8, 8): 6}),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("large")
    torch.manual_seed(1)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**CONFIG))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate("_|abcdefghijklmnopqrstuvwxyz'!?.")}))
    return folder


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
    if name == "openvino-int8-static" and not {16} & {bits for _, bits in found}:
        extractor = {(16, 32): 1, (8, 8): 6}  # a processor that does not multiply in bf16
    assert found == extractor
    x = wav2vec2.inputs(2.0, 2, 0, "speech")
    with torch.inference_mode():
        wanted = Wav2Vec2ForCTC.from_pretrained(tiny).eval()(torch.from_numpy(x)).logits.numpy()
    opened = modes.find(name).open(artefacts.folder(made.digest), 2, models.families()["wav2vec2"])
    assert least < snr_db(np.asarray(wanted), opened(x))
