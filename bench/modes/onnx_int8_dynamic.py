"""Dynamic int8 of the linear layers by ONNX Runtime's `quantize_dynamic`.

Weights are int8 with one scale an output channel; activations are quantized to 8 bits before each linear layer, with
one scale and one zero point for the whole tensor, found anew at every pass. Convolutions stay float: ONNX Runtime's
dynamic one, ConvInteger, is slower than the float one. So do the two products of attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _onnx_integers
from bench.records import Coverage, Setting

NAME = "onnx-int8-dynamic"
LABEL = "int8 dynamic, linear layers (ONNX Runtime)"
ENGINE = "onnx"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) become 8-bit integers, one scale an output channel; "
    "convolutions stay fp32"
)
ACTIVATIONS = "8-bit integers inside the linear layers, scaled anew at every pass; fp32 elsewhere"
NEEDS = Needs(packages=("onnxruntime",), build_packages=("onnx",))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = "onnx-fp32"
CALIBRATES = False
COST = Cost(memory_bytes=100_000_000, memory_copies=3.2, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = _onnx.code(
    """from onnxruntime.quantization import QuantType, quantize_dynamic

quantize_dynamic(
    "model.onnx", "model.onnx", op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
)"""
)
OPEN_CODE = _onnx.OPEN_CODE


def check() -> str:
    """Runs everywhere; tells where 8 bits are not quite 8."""
    return _onnx_integers.remark()


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every product with a weight."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    progress("quantizing the linear layers")
    with _onnx_integers.scraps(directory):
        quantize_dynamic(
            model / _onnx.MODEL_FILE,
            directory / _onnx.MODEL_FILE,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=_onnx_integers.reduced(),
            weight_type=QuantType.QInt8,
        )
    progress("writing the weights")
    _onnx_integers.save(onnx.load(directory / _onnx.MODEL_FILE), directory)
    return {"range": "7 bits" if _onnx_integers.reduced() else "8 bits"}


def open(directory: Path, threads: int, family: Family) -> _onnx.OnnxOpened:
    """Open what `build` wrote."""
    return _onnx.OnnxOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the file and from a profiled pass."""
    return _onnx.count(opened, family, config)
