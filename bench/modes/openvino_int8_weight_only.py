"""Weights stored in int8 on OpenVINO, multiplied as floats: a small file, and accuracy as it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _openvino, _openvino_halves
from bench.records import Coverage, Setting

_COMPRESS = """# Earbench stores the positional convolution, which stays float here, in bfloat16.
graph = nncf.compress_weights(
    graph,
    mode=nncf.CompressWeightsMode.INT8_SYM,
    ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"]),
)
"""
NAME = "openvino-int8-weight-only"
LABEL = "int8 weight-only (OpenVINO)"
ENGINE = "openvino"
WEIGHTS = (
    "matrix products and convolutions are stored in 8-bit integers, one scale an output channel; the positional "
    "convolution, and biases of convolutions, in 16 bits (bfloat16)"
)
ACTIVATIONS = "not quantized: 16-bit (bfloat16) where the processor has it"
NEEDS = Needs(packages=("openvino",), build_packages=_openvino.QUANTIZE_PACKAGES)
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = "onnx-fp32"
CALIBRATES = False
COST = Cost(memory_bytes=340_000_000, memory_copies=2.0, disk_copies=0.3)
STORED_BITS = {"": 8, "positional conv": 16, "norms and biases": 32}
VERSION = 3
CODE = _openvino.code("bf16", _COMPRESS)
OPEN_CODE = _openvino.OPEN_CODE


def check() -> str:
    """Says where OpenVINO multiplies in another precision than bf16."""
    return _openvino.remark("bf16")


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Write every weight in int8 but those of the positional convolution.

    No kernel multiplies a convolution's int8 weights with floats, so the floats stay in memory beside the engine's own
    copy. That one has half of all such weights; bfloat16, in which they run, is read as it lies in the file: on base 5
    MB more of a file save 9 MB of memory, or 19 where OpenVINO opens it alone.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    progress("converting from ONNX")
    graph = _openvino.read(model / _onnx.MODEL_FILE)
    progress("rounding the weights")
    graph = nncf.compress_weights(
        graph,
        mode=nncf.CompressWeightsMode.INT8_SYM,
        ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"]),
    )
    _openvino_halves.store_convolutions(graph)
    progress("writing the weights")
    _openvino.save(graph, directory, "bf16")
    return {}


def open(directory: Path, threads: int, family: Family) -> _openvino.OpenVinoOpened:
    """Open what `build` wrote."""
    return _openvino.OpenVinoOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Int8 in the file, floats in the engine."""
    return _openvino.count(opened, family, config)
