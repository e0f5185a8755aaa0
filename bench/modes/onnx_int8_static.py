"""Static int8 of linear layers and convolutions on ONNX Runtime: ranges of activations are found while it is built.

Weights are int8 with one scale an output channel. Linear layers read activations with one step a tensor, convolutions
with one a channel (see `_channels`), as QuantizeLinear and DequantizeLinear around every product, which ONNX Runtime
fuses into integer kernels. The products of attention, whose factors are both activations, stay float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import Array, Config, Family
from bench.modes import (
    Clips,
    Cost,
    Needs,
    Option,
    Progress,
    _channels,
    _onnx,
    _onnx_channels,
    _onnx_integers,
    calibration,
)
from bench.records import Coverage, Setting

NAME = "onnx-int8-static"
LABEL = "int8 static, linear layers and convolutions (ONNX Runtime)"
ENGINE = "onnx"
WEIGHTS = (
    "weights of the linear layers and of the feature extractor's convolutions become 8-bit integers, one scale an "
    "output channel; its first convolution and the positional one stay fp32"
)
ACTIVATIONS = (
    "8-bit integers inside what is quantized, in ranges found on calibration clips: one a channel in the feature "
    "extractor, one a tensor in linear layers; fp32 elsewhere"
)
NEEDS = Needs(packages=("onnxruntime",), build_packages=("onnx",))
SETTINGS = {
    **calibration(16),
    "float_convs": Option(1, "how many of the feature extractor's first convolutions stay float: 7 are all", 0, 7),
    "ranges": Option(
        "channel",
        "of the feature extractor's activations: one a channel with the least error, or one a tensor from the least to "
        "the greatest value of all clips, as is usual",
        allowed=("channel", "minmax"),
    ),
}
OFFERED: tuple[dict[str, Setting], ...] = ({"float_convs": 0, "ranges": "minmax"},)
BASE = "onnx-fp32"
CALIBRATES = True
COST = Cost(memory_bytes=200_000_000, memory_copies=4.2, disk_copies=1.2)
STORED_BITS = {"encoder linears": 8, "head": 8, "feature extractor": 8, "": 32}
VERSION = 2
CODE = _onnx.code(
    """import onnx
from onnxruntime.quantization import QuantType, quantize_static


class Reader:
    clips = iter([audio.numpy()])  # calibrate on speech of your own

    def get_next(self):
        x = next(self.clips, None)
        return None if x is None else {session.get_inputs()[0].name: x}


session = onnxruntime.InferenceSession("model.onnx")
convs = [node.name for node in onnx.load("model.onnx").graph.node if node.op_type == "Conv"]
# One range a tensor: Earbench gives the feature extractor's convolutions one a channel.
quantize_static(
    "model.onnx", "model.onnx", Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Conv"],
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=[convs[0], convs[-1]],
    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"], "MatMulConstBOnly": True},
)"""
)
OPEN_CODE = _onnx.OPEN_CODE
_LINEAR_QUANTILE = 1e-5  # of the encoder's activations, which have few peaks and want them


def check() -> str:
    """Runs everywhere; tells where 8 bits are not quite 8."""
    return _onnx_integers.remark()


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Find ranges on the clips, then quantize every product with a weight but the first convolutions."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    source, signed = model / _onnx.MODEL_FILE, not _onnx_integers.x86()
    with _onnx_integers.scraps(directory), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        graph = onnx.load(source).graph
        weights = {tensor.name for tensor in graph.initializer}
        # By name, what they read and what they give: nothing that holds the weights in memory.
        convs = {
            n.name: (n.input[0], n.output[0]) for n in _channels.convolutions(graph)[int(settings["float_convs"]) :]
        }
        linears = {n.name: n.input[0] for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights}
        gelus = _channels.into_gelu(graph)
        del graph
        by_channel = settings["ranges"] == "channel"
        around = dict.fromkeys(name for both in convs.values() for name in both)
        watched = {name: name in gelus for name in around} if by_channel else {}
        grids = _channels.grids(source, watched, data, folder, progress)
        shares = dict.fromkeys(linears.values(), _LINEAR_QUANTILE)
        if not by_channel:
            shares |= dict.fromkeys(around, 0.0)
        ranges = _ranges(source, shares, data, folder, progress)
        known = folder / "ranges.json"
        tensors = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, tensors), known)
        progress("quantizing")
        quantize_static(
            source,
            directory / _onnx.MODEL_FILE,
            nodes_to_quantize=[*linears] if by_channel else [*convs, *linears],
            per_channel=True,
            reduce_range=_onnx_integers.reduced(),
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=known,
            extra_options={
                "ActivationSymmetric": signed,
                # What a linear layer gives is never rounded: the sums of the residual path stay float.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
    made = onnx.load(directory / _onnx.MODEL_FILE)
    if by_channel:
        levels = 63 if _onnx_integers.reduced() else 127
        for node in [node for node in made.graph.node if node.name in convs]:
            read, given = (grids[name] for name in convs[node.name])
            _onnx_channels.quantize(made.graph, node, read, given, signed=signed, levels=levels)
    progress("writing the weights")
    _onnx_integers.save(made, directory)
    return {"range": "7 bits" if _onnx_integers.reduced() else "8 bits", "calibrated on": f"{len(data)} clips"}


def open(directory: Path, threads: int, family: Family) -> _onnx.OnnxOpened:
    """Open what `build` wrote."""
    return _onnx.OnnxOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the file and from a profiled pass."""
    return _onnx.count(opened, family, config)


def _ranges(
    source: Path, shares: Mapping[str, float], data: Clips, folder: Path, progress: Progress
) -> dict[str, tuple[float, float]]:
    """(lowest, highest) of every activation that is to be quantized with one step, by its name.

    Each end is the mean over clips of the clip's quantile, with that share of its values beyond; where the share is 0,
    the outermost value of all clips.
    """
    ends: dict[str, list[Any]] = {name: [] for name in shares}

    def look(name: str, values: Array) -> None:
        ends[name].append(np.quantile(values, (shares[name], 1 - shares[name])))

    _channels.watch(source, shares, data, folder, progress, look)
    outermost = {name: (np.min(e, axis=0)[0], np.max(e, axis=0)[1]) for name, e in ends.items()}
    return {name: tuple(np.mean(e, axis=0)) if shares[name] else outermost[name] for name, e in ends.items()}
