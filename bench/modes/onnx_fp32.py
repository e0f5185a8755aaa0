"""32-bit floating point on ONNX Runtime: what this engine gains alone, before anything is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _onnx
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "onnx-fp32"
LABEL = "fp32 (ONNX Runtime)"
ENGINE = "onnx"
WEIGHTS = "nothing: all weights stay 32-bit floating point"
ACTIVATIONS = "32-bit floating point"
NEEDS = Needs(packages=("onnxruntime",), build_packages=_onnx.EXPORT_PACKAGES)
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=700_000_000, memory_copies=4.0, disk_copies=1.0)
STORED_BITS = {"": 32}
VERSION = 1
CODE = _onnx.code()
OPEN_CODE = _onnx.OPEN_CODE


def check() -> str:
    """Runs everywhere."""
    return ""


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Export the model as it is."""
    progress("exporting to ONNX")
    _onnx.export(model, directory / _onnx.MODEL_FILE)
    return {}


def open(directory: Path, threads: int, family: Family) -> _onnx.OnnxOpened:
    """Open what `build` wrote."""
    return _onnx.OnnxOpened(directory, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """All float."""
    return _onnx.count(opened, family, config)
