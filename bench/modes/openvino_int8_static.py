"""Int8 with calibrated ranges on OpenVINO: NNCF for the transformer, a step a channel for the feature extractor."""

from __future__ import annotations

import itertools
import logging
import tempfile
from pathlib import Path
from typing import Any

from bench.models import Array, Config, Family
from bench.modes import (
    Clips,
    Cost,
    Labels,
    Needs,
    Option,
    Progress,
    _channels,
    _onnx,
    _openvino,
    _openvino_channels,
    _openvino_halves,
    calibration,
)
from bench.records import Coverage, Setting

_QUANTIZE = """clips = [audio.numpy()]  # calibrate on speech of your own
first = next(op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution")
# One range a tensor: Earbench gives the feature extractor's convolutions one a channel.
graph = nncf.quantize(
    graph,
    nncf.Dataset(clips),
    model_type=nncf.ModelType.TRANSFORMER,
    ignored_scope=nncf.IgnoredScope(names=[first.get_friendly_name()], types=["GroupConvolution"]),
    advanced_parameters=nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
    ),
)
"""
NAME = "openvino-int8-static"
LABEL = "int8 static (OpenVINO)"
ENGINE = "openvino"
WEIGHTS = (
    "matrix products and convolutions become 8-bit integers, one scale an output channel; the first convolution and "
    "the positional one 16-bit (bfloat16)"
)
ACTIVATIONS = (
    "8-bit integers inside them, in ranges found on calibration clips: one a channel in the feature extractor, one a "
    "tensor elsewhere; the rest 16-bit (bfloat16) where the processor has it"
)
NEEDS = Needs(packages=("openvino",), build_packages=(*_openvino.QUANTIZE_PACKAGES, "onnx", "onnxruntime"))
SETTINGS = {
    **calibration(16),
    "float_convs": Option(1, "how many of the feature extractor's first convolutions stay float", 0, 7),
    "ranges": Option(
        "channel",
        "of the feature extractor's activations: one a channel with the least error, or one a tensor between the means "
        "over clips of its least and of its greatest value, as is usual",
        allowed=("channel", "minmax"),
    ),
}
OFFERED: tuple[dict[str, Setting], ...] = ({"float_convs": 0, "ranges": "minmax"},)
BASE = "onnx-fp32"
CALIBRATES = True
COST = Cost(memory_bytes=700_000_000, memory_copies=4.0, disk_copies=0.3)
STORED_BITS = {"": 8, "positional conv": 16, "norms and biases": 32}
VERSION = 3
CODE = _openvino.code("bf16", _QUANTIZE)
OPEN_CODE = _openvino.OPEN_CODE


def check() -> str:
    """Says where what stays float is multiplied in another precision than bf16."""
    return _openvino.remark("bf16")


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Calibrate on the clips and write int8 weights."""
    source = model / _onnx.MODEL_FILE
    first, by_channel = int(settings["float_convs"]), settings["ranges"] == "channel"
    grids: list[_channels.Grid] = []
    if by_channel:
        import onnx

        inputs = [conv.input[0] for conv in _channels.convolutions(onnx.load(source).graph)[first:]]
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            grids = list(_channels.grids(source, dict.fromkeys(inputs, False), data, Path(folder), progress).values())
    progress("converting from ONNX")
    graph = _openvino.read(source)
    convs = _openvino_channels.convolutions(graph)
    names = [conv.get_friendly_name() for conv in (convs if by_channel else convs[:first])]
    graph = _nncf(graph, data, names, progress)
    if by_channel:
        convs = _openvino_channels.convolutions(graph)
        for conv, grid in zip(convs[first:], grids, strict=True):
            _openvino_channels.quantize(conv, grid)
    _openvino_halves.store_convolutions(graph)  # those that stay float
    progress("writing the weights")
    _openvino.save(graph, directory, "bf16")
    return {}


def _nncf(graph: Any, data: Clips, floats: list[str], progress: Progress) -> Any:
    """All products in int8 but those of the nodes that stay float and the positional convolution, 3 % of the work.

    In int8 OpenVINO 2026.4 gets that one wrong on processors with AMX (logits at -5 dB). SmoothQuant's shift between
    activations and weights cost 9 dB on a trained model, and bias correction changes nothing.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    seen = itertools.count(1)

    def clip(item: tuple[Array, Labels]) -> Array:
        progress(f"watching the network, clip {next(seen)} of {len(data)}")
        return item[0][:, : _channels.LONGEST]

    return nncf.quantize(
        graph,
        nncf.Dataset(data, clip),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(data),
        ignored_scope=nncf.IgnoredScope(names=floats, types=["GroupConvolution"]),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
        ),
    )


def open(directory: Path, threads: int, family: Family) -> _openvino.OpenVinoOpened:
    """Open what `build` wrote."""
    return _openvino.OpenVinoOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Int8 where the file says so and the engine does."""
    return _openvino.count(opened, family, config)
