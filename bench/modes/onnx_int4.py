"""4-bit weights of the linear layers on ONNX Runtime (MatMulNBits): rounded to the nearest, no activations quantized.

Every `block_size` weights of an output channel share a scale and a zero point. The products are computed in float32
(accuracy level 1): weights are unpacked block by block while they are multiplied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _onnx_integers
from bench.records import Coverage, Setting

NAME = "onnx-int4"
LABEL = "int4 weights, linear layers (ONNX Runtime)"
ENGINE = "onnx"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) become 4-bit integers, a scale and a zero point a block; "
    "convolutions stay fp32"
)
ACTIVATIONS = "32-bit floating point"
NEEDS = Needs(packages=("onnxruntime",), build_packages=("onnx", "onnx_ir"))
SETTINGS = {
    "block_size": Option(32, "how many weights share a scale: fewer is more accurate and larger", allowed=(32, 64, 128))
}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = "onnx-fp32"
CALIBRATES = False
COST = Cost(memory_bytes=120_000_000, memory_copies=2.1, disk_copies=0.3)
STORED_BITS = {"encoder linears": 4, "head": 4, "": 32}
VERSION = 1
CODE = _onnx.code(
    """import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

quantizer = MatMulNBitsQuantizer(onnx.load("model.onnx"), bits=4, block_size=32, accuracy_level=1)
quantizer.process()
onnx.save(quantizer.model.model, "model.onnx")"""
)
OPEN_CODE = _onnx.OPEN_CODE


def check() -> str:
    """Runs everywhere."""
    return ""


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every product with a weight."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    progress("quantizing the linear layers")
    quantizer = MatMulNBitsQuantizer(
        onnx.load(model / _onnx.MODEL_FILE), bits=4, block_size=int(settings["block_size"]), accuracy_level=1
    )
    quantizer.process()
    progress("writing the weights")
    _onnx_integers.save(quantizer.model.model, directory)
    return {}


def open(directory: Path, threads: int, family: Family) -> _onnx.OnnxOpened:
    """Open what `build` wrote."""
    return _onnx.OnnxOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the file and from a profiled pass."""
    return _onnx.count(opened, family, config)
