"""Static int8 on OpenVINO: which convolutions are quantized."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.artefacts import build, cache


@pytest.mark.parametrize("count", [3, 7])
def test_the_first_convolutions_stay_float(count: int, tiny_model: Path, data_folder: Path) -> None:
    import openvino

    settings = {"float_convs": count, "clips": 2}
    artefact, _ = build.prepare(str(tiny_model), "openvino-int8-static", settings, lambda _: None)
    graph = openvino.Core().read_model(cache.folder(artefact.digest) / "model.xml")
    rounded = {}
    for op in graph.get_ops():
        if op.get_type_name() == "Convolution":
            source = op.input_value(0).get_node().get_type_name()
            rounded[op.get_friendly_name()] = source == "FakeQuantize"
    assert rounded == {f"wav2vec2.feature_extractor.conv_layers.{i}.conv": i >= count for i in range(7)}
