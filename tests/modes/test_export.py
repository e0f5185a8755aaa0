"""From torch to ONNX: names that lead back to modules, whatever the modules are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from noise import snr_db

from bench.core.specs import Placement
from bench.families.network import Dim, Network, Port
from bench.modes.onnx import engine, export, integers

WIDTH = 16
BATCH = Dim("batch")
STEP = Network(
    "step",
    inputs=(Port("token", "int64", (BATCH, 1)), Port("state", "float32", (BATCH, WIDTH))),
    outputs=(Port("logits", "float32", (BATCH, 8)), Port("next", "float32", (BATCH, WIDTH))),
    example={"token": np.zeros((2, 1), np.int64), "state": np.zeros((2, WIDTH), np.float32)},
    state=(("next", "state"),),
)


def step() -> Any:
    """A recurrent cell of two dimensions: its products are ONNX's Gemm unless something is done."""
    import torch
    from torch import nn

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cell, self.head = nn.Embedding(8, WIDTH), nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

        def forward(self, token: Any, state: Any) -> Any:
            state = self.cell(self.embed(token)[:, 0], state)
            return self.head(state), state

    torch.manual_seed(0)
    return Step().eval()


def plain_loop(model: Any, tokens: Any) -> Any:
    import torch

    state, logits = torch.zeros(len(tokens), WIDTH), []
    with torch.inference_mode():
        for i in range(tokens.shape[1]):
            now, state = model(torch.from_numpy(tokens[:, i : i + 1]), state)
            logits.append(now.numpy())
    return np.stack(logits, 1)  # (batch, steps, 8)


def steps(file: Path, tokens: Any) -> Any:
    session = engine.OnnxOpened(file, STEP, Placement("cpu", 1)).start()
    slices = [np.ascontiguousarray(tokens[:, i : i + 1]) for i in range(tokens.shape[1])]
    return np.stack([np.array(session({"token": token})["logits"]) for token in slices], 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model, file = step(), tmp_path_factory.mktemp("export") / "step.onnx"
    export.export(model, STEP, file)
    return model, file


def test_products_of_two_dimensions_are_named_and_quantized_too(exported: tuple[Any, Path], tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, file = exported
    graph = onnx.load(file).graph
    assert not any(node.op_type == "Gemm" for node in graph.node)
    names = [node.name for node in graph.node if node.op_type == "MatMul"]
    assert names == ["cell", "cell_2", "head"]
    assert next(node.name for node in graph.node if node.op_type == "Gather") == "embed"
    tokens = np.random.default_rng(0).integers(0, 8, (3, 12))
    assert snr_db(plain_loop(model, tokens), steps(file, tokens)) > 100
    quantized = tmp_path / "step.onnx"
    quantize_dynamic(file, quantized, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    integers.save(onnx.load(quantized), quantized)
    assert 20 < snr_db(plain_loop(model, tokens), steps(quantized, tokens)) < 80


def test_what_is_left_in_floats_is_an_error(exported: tuple[Any, Path], tmp_path: Path) -> None:
    _, file = exported
    with pytest.raises(RuntimeError, match=r"left cell, cell_2, head in floating point"):
        integers.save(onnx.load(file), tmp_path / "step.onnx")


def test_a_whole_recurrent_layer_is_one_node(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.gru(x)[0]

    shape = (BATCH, Dim("tokens", 1), WIDTH)
    network = Network(
        "layer",
        inputs=(Port("x", "float32", shape),),
        outputs=(Port("y", "float32", shape),),
        example={"x": np.zeros((2, 5, WIDTH), np.float32)},
    )
    torch.manual_seed(0)
    model = Layer().eval()
    export.export(model, network, tmp_path / "layer.onnx")
    assert [n.name for n in onnx.load(tmp_path / "layer.onnx").graph.node if n.op_type == "GRU"] == ["gru"]
    x = np.random.default_rng(0).standard_normal((3, 9, WIDTH)).astype(np.float32)
    with torch.inference_mode():
        plain = model(torch.from_numpy(x)).numpy()
    opened = engine.OnnxOpened(tmp_path / "layer.onnx", network, Placement("cpu", 1))
    assert snr_db(plain, opened.start()({"x": x})["y"]) > 100
