"""32-bit floating point on OpenVINO: what this engine gains alone, before anything is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx, _openvino
from bench.records import Coverage, Setting

NAME = "openvino-fp32"
LABEL = "fp32 (OpenVINO)"
ENGINE = "openvino"
WEIGHTS = "nothing: all weights stay 32-bit floating point"
ACTIVATIONS = "32-bit floating point"
NEEDS = Needs(packages=("openvino",))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = "onnx-fp32"
CALIBRATES = False
COST = Cost(memory_bytes=130_000_000, memory_copies=2.0, disk_copies=1.1)
STORED_BITS = {"": 32}
VERSION = 2
CODE = _openvino.code("f32")
OPEN_CODE = _openvino.OPEN_CODE


def check() -> str:
    """Says where OpenVINO multiplies in another precision than f32."""
    return _openvino.remark("f32")


def build(
    model: Path, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Write the weights as they are."""
    progress("converting from ONNX")
    graph = _openvino.read(model / _onnx.MODEL_FILE)
    progress("writing the weights")
    _openvino.save(graph, directory, "f32")
    return {}


def open(directory: Path, threads: int, family: Family) -> _openvino.OpenVinoOpened:
    """Open what `build` wrote."""
    return _openvino.OpenVinoOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """All float, if the engine does as it is told."""
    return _openvino.count(opened, family, config)
