"""16-bit brain floating point on OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _openvino, _openvino_halves
from bench.records import Coverage, Setting

NAME = "openvino-bf16"
LABEL = "bf16 (OpenVINO)"
ENGINE = "openvino"
WEIGHTS = "all weights become 16-bit (bfloat16)"
ACTIVATIONS = "16-bit (bfloat16)"
NEEDS = Needs(packages=("openvino",), fast_isa=_openvino.FAST_BF16)
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = "onnx-fp32"
CALIBRATES = False
COST = Cost(memory_bytes=130_000_000, memory_copies=2.0, disk_copies=0.6)
STORED_BITS = {"": 16}
VERSION = 3
CODE = _openvino.code("bf16")
OPEN_CODE = _openvino.OPEN_CODE


def check() -> str:
    """Says where OpenVINO multiplies in another precision than bf16."""
    return _openvino.remark("bf16")


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Write every weight rounded to bfloat16."""
    progress("converting from ONNX")
    graph = _openvino.read(model / _onnx.MODEL_FILE)
    _openvino_halves.store(graph)
    progress("writing the weights")
    _openvino.save(graph, directory, "bf16")
    return {}


def open(directory: Path, threads: int, family: Family) -> _openvino.OpenVinoOpened:
    """Open what `build` wrote."""
    return _openvino.OpenVinoOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """All bfloat16, if the engine does as it is told."""
    return _openvino.count(opened, family, config)
