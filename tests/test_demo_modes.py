"""Every mode on the bundled model: built, opened, heard beside fp32, counted, weighed, built again when it breaks."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from noise import snr_db

from bench import artefacts, audio, datasets, models, modes
from bench.models import Array
from bench.modes import _openvino, _openvino_halves
from bench.records import Variant

# Signal to noise of the logits against the original on speech, dB, at least. int8 of the linear layers alone leaves
# about 35, of the extractor as well about 28, and what has collapsed has less than 10.
SNR_DB = {
    "torch-fp32": 100.0,
    "torch-bf16": 33.0,
    "torch-int8-dynamic": 27.0,
    "torch-int8-dynamic-per-channel": 28.0,
    "torchao-int8-dynamic": 28.0,
    "torchao-int8-weight-only": 33.0,
    "torch-int8-static": 20.0,
    "torch-int8-qat": 15.0,  # tuned: other weights
    "onnx-fp32": 80.0,
    "onnx-int8-dynamic": 28.0,
    "onnx-int8-static": 15.0,
    "onnx-int4": 15.0,
    "openvino-fp32": 80.0,
    "openvino-bf16": 38.0,
    "openvino-int8-weight-only": 30.0,
    "openvino-int8-static": 22.0,
}
QUICK: dict[str, dict[str, Any]] = {"torch-int8-qat": {"steps": 2, "clips": 2}, "torch-int8-static": {"clips": 4}}
SIZE_RATIO = {32: (0.98, 1.1), 16: (1.8, 2.1), 8: (2.6, 4.1), 4: (3.0, 8.0)}  # of fp32's size over this one's


@pytest.fixture(scope="module")
def speech() -> Array:
    """(1, samples): a clip that nothing was calibrated on, prepared."""
    family = models.families()["wav2vec2"]
    preparation = json.loads((Path(models.find("demo").where) / "preprocessor_config.json").read_text())
    clip = datasets.find(str(datasets.bundled()), "evaluate").clips[0]
    return family.prepare(audio.decode(clip.path).samples, preparation)


@pytest.fixture(scope="module")
def original(speech: Array) -> Array:
    """Logits of plain transformers, nothing of Earbench between."""
    import torch
    from transformers import Wav2Vec2ForCTC

    with torch.inference_mode():
        model = Wav2Vec2ForCTC.from_pretrained(models.find("demo").where, local_files_only=True).eval()
        logits: Array = model(torch.from_numpy(speech)).logits.numpy()
        return logits


@pytest.mark.filterwarnings("ignore:.*(torch.ao|quantized tensor|TypedStorage)")
@pytest.mark.parametrize("name", modes.modes())
def test_a_mode_on_the_bundled_model(name: str, speech: Array, original: Array, cache: Path, data_folder: Path) -> None:
    import torch

    mode, family = modes.find(name), models.families()["wav2vec2"]
    settings = QUICK.get(name, {})
    # What would be compiled for a minute gives the same logits without; it then multiplies floats.
    with torch.compiler.set_stance("force_eager") if mode.NEEDS.compiles else nullcontext():
        made, coverage = artefacts.prepare("demo", name, settings, lambda _: None)
        place = artefacts.folder(made.digest)

        # What it claims to store is what the file holds.
        stored = {p.weight_bits for p in coverage.parts if p.weight_bits and p.macs}
        assert min(stored) == min(mode.STORED_BITS.values())
        if "int8" in name and not mode.NEEDS.compiles:
            assert min(p.activation_bits for p in coverage.parts) in ((16, 32) if "only" in name else (8,))

        least, most = SIZE_RATIO[min(stored)]
        weights = (Path(models.find("demo").where) / "model.safetensors").stat().st_size
        assert least < weights / made.size_bytes < most

        assert snr_db(original, mode.open(place, 2, family)(speech)) > SNR_DB[name]

        # One bit of the weights is wrong: it is found out and built again, and works as before.
        weights_file = max(place.iterdir(), key=lambda f: f.stat().st_size)
        broken = bytearray(weights_file.read_bytes())
        broken[len(broken) // 2] ^= 1
        weights_file.write_bytes(broken)
        again, _ = artefacts.prepare("demo", name, settings, lambda _: None)
        assert again.digest == made.digest and not again.from_cache
        assert weights_file.read_bytes() != bytes(broken)
        assert snr_db(original, mode.open(place, 2, family)(speech)) > SNR_DB[name]


@pytest.mark.parametrize(
    "spelled", ["openvino-int8-static:float_convs=0:ranges=minmax", "onnx-int8-static:float_convs=0:ranges=minmax"]
)
def test_ranges_from_end_to_end_collapse(
    spelled: str, speech: Array, original: Array, cache: Path, data_folder: Path
) -> None:
    """What menus offer so that people can see it happen does happen, and is int8 from the first convolution on."""
    assert spelled in modes.menu()
    variant = Variant.named("demo", spelled, 2)
    made, coverage = artefacts.prepare("demo", variant.mode, dict(variant.settings), lambda _: None)
    extractor = [p for p in coverage.parts if p.name == "feature extractor"]
    assert {(p.weight_bits, p.activation_bits): p.nodes for p in extractor} == {(8, 8): 7}
    opened = modes.find(variant.mode).open(artefacts.folder(made.digest), 2, models.families()["wav2vec2"])
    assert snr_db(original, opened(speech)) < 15


@pytest.mark.parametrize("name", ["openvino-bf16", "openvino-int8-weight-only", "openvino-int8-static"])
def test_reading_bf16_changes_no_logits(
    name: str, speech: Array, cache: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attention's scale is no number of bfloat16 here, so the queries' product has to stay as it is."""
    made, _ = artefacts.prepare("demo", name, {}, lambda _: None)
    place = artefacts.folder(made.digest)
    halved = _openvino.OpenVinoOpened(place, 1)(speech)
    monkeypatch.setattr(_openvino_halves, "read", lambda _: None)
    plain = _openvino.OpenVinoOpened(place, 1)(speech)
    assert snr_db(plain, halved) > 100


@pytest.mark.parametrize("count", [3, 7])
def test_the_first_convolutions_stay_float_on_openvino(count: int, cache: Path, data_folder: Path) -> None:
    import openvino

    settings = {"float_convs": count, "clips": 2}
    made, _ = artefacts.prepare("demo", "openvino-int8-static", settings, lambda _: None)
    graph = openvino.Core().read_model(artefacts.folder(made.digest) / "model.xml")
    rounded = {}
    for op in graph.get_ops():
        if op.get_type_name() == "Convolution":
            fed = op.input_value(0).get_node().get_type_name()
            rounded[op.get_friendly_name()] = fed == "FakeQuantize"
    assert rounded == {f"wav2vec2.feature_extractor.conv_layers.{i}.conv": i >= count for i in range(7)}
