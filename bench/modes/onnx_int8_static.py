"""Static int8 of linear layers and convolutions on ONNX Runtime: ranges of activations are found while it is built.

Weights are int8 with one scale an output channel; activations have one scale a tensor, as QuantizeLinear and
DequantizeLinear around every product, which ONNX Runtime fuses into integer kernels. The products of attention, whose
factors are both activations, stay float.

What harms Wav2Vec2 here is the feature extractor's activations: loud frames peak far above what quiet ones differ in,
so a range that holds every peak leaves hardly a step for the rest. Their ranges are therefore quantiles, averaged over
clips; a convolution before a GELU needs no negative range beyond where GELU is zero; and the first convolutions, whose
errors travel furthest, stay float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import Array, Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _onnx_integers, calibration
from bench.records import SAMPLE_RATE_HZ, Coverage, Setting

NAME = "onnx-int8-static"
LABEL = "int8 static, linear layers and convolutions (ONNX Runtime)"
ENGINE = "onnx"
WEIGHTS = (
    "weights of the linear layers and of the feature extractor's later convolutions become 8-bit integers, one scale "
    "an output channel; its first convolutions and the positional one stay fp32"
)
ACTIVATIONS = "8-bit integers inside what is quantized, with ranges found on calibration clips; fp32 elsewhere"
NEEDS = Needs(packages=("onnxruntime",), build_packages=("onnx",))
SETTINGS = {
    **calibration(16),
    "float_convs": Option(3, "how many of the feature extractor's first convolutions stay float: 7 are all", 0, 7),
    "quantile": Option(
        1e-3, "share of the extractor's activations beyond each end of their range; 0: none, on these clips", 0, 0.1
    ),
}
# In int8 throughout, and as toolkits do it by default: with ranges that hold every peak, accuracy collapses.
OFFERED: tuple[dict[str, Setting], ...] = ({"float_convs": 0}, {"float_convs": 0, "quantile": 0.0})
BASE = "onnx-fp32"
CALIBRATES = True
COST = Cost(memory_bytes=200_000_000, memory_copies=3.8, disk_copies=1.2)
STORED_BITS = {"encoder linears": 8, "head": 8, "feature extractor": 17, "": 32}  # of its weights, 5 in 8 become int8
VERSION = 1
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
quantize_static(
    "model.onnx", "model.onnx", Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Conv"],
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=[*convs[:3], convs[-1]],
    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"], "MatMulConstBOnly": True},
)"""
)
OPEN_CODE = _onnx.OPEN_CODE
_EXTRACTOR = "wav2vec2.feature_extractor."
_LINEAR_QUANTILE = 1e-5  # of the encoder's activations, which have few peaks and want them
_GELU_IS_ZERO = -4.0  # below, GELU is nearer to zero than 2e-4, a small part of a step
_LONGEST = 10 * SAMPLE_RATE_HZ  # samples of a clip that are looked at: all activations of a pass are held at once


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

    source, symmetric = model / _onnx.MODEL_FILE, not _onnx_integers.x86()
    with _onnx_integers.scraps(directory), tempfile.TemporaryDirectory() as folder:
        graph = onnx.load(source).graph
        nodes = _chosen(graph, int(settings["float_convs"]))
        ranges = _ranges(source, nodes, [x for x, _ in data], float(settings["quantile"]), Path(folder), progress)
        for name in _into_gelu(graph) & set(ranges):
            ranges[name] = max(ranges[name][0], _GELU_IS_ZERO), ranges[name][1]
        del graph
        known = Path(folder) / "ranges.json"
        tensors = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, tensors), known)
        progress("quantizing")
        quantize_static(
            source,
            directory / _onnx.MODEL_FILE,
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            reduce_range=_onnx_integers.reduced(),
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=known,
            extra_options={
                "ActivationSymmetric": symmetric,
                # What a linear layer gives is never rounded: the sums of the residual path stay float.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
    progress("writing the weights")
    _onnx_integers.save(onnx.load(directory / _onnx.MODEL_FILE), directory)
    return {"range": "7 bits" if _onnx_integers.reduced() else "8 bits", "calibrated on": f"{len(data)} clips"}


def open(directory: Path, threads: int, family: Family) -> _onnx.OnnxOpened:
    """Open what `build` wrote."""
    return _onnx.OnnxOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the file and from a profiled pass."""
    return _onnx.count(opened, family, config)


def _chosen(graph: Any, float_convs: int) -> list[Any]:
    """The nodes to quantize: products with weights, and the extractor's convolutions but the first so many.

    ONNX lists nodes in topological order, so the first convolutions are those that sound reaches first.
    """
    weights = {tensor.name for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv" and node.name.startswith(_EXTRACTOR)]
    return convs[float_convs:] + [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights]


def _into_gelu(graph: Any) -> set[str]:
    """Tensors that nothing reads but GELU."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {name for name, kinds in readers.items() if kinds == {"Gelu"}}


def _ranges(
    source: Path, nodes: Sequence[Any], clips: Sequence[Array], quantile: float, folder: Path, progress: Progress
) -> dict[str, tuple[float, float]]:
    """(lowest, highest) of every activation that is to be quantized, by its name; of clips (1, samples) the first 10 s.

    Each end is the mean over clips of the clip's quantile; where the quantile is 0, the outermost of all clips.
    """
    import onnx
    import onnxruntime

    share = {node.input[0]: quantile if node.op_type == "Conv" else _LINEAR_QUANTILE for node in nodes}
    share |= {node.output[0]: quantile for node in nodes if node.op_type == "Conv"}
    watched = onnx.load(source)
    del watched.graph.output[:]
    for name in share:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(watched, folder / "watched.onnx")
    del watched
    session = onnxruntime.InferenceSession(folder / "watched.onnx", providers=["CPUExecutionProvider"])
    ends: dict[str, list[Any]] = {name: [] for name in share}
    for number, x in enumerate(clips, 1):
        progress(f"finding ranges on clip {number} of {len(clips)}")
        for name, values in zip(share, session.run(list(share), {_onnx.INPUT: x[:, :_LONGEST]}), strict=True):
            ends[name].append(np.quantile(values, (share[name], 1 - share[name])))
    outermost = {name: (np.min(e, axis=0)[0], np.max(e, axis=0)[1]) for name, e in ends.items()}
    return {name: tuple(np.mean(e, axis=0)) if share[name] else outermost[name] for name, e in ends.items()}
