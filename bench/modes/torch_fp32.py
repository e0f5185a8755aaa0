"""The original: 32-bit floating point on PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torch-fp32"
LABEL = "fp32, the original (PyTorch)"
ENGINE = "torch"
WEIGHTS = "nothing: all weights stay 32-bit floating point"
ACTIVATIONS = "32-bit floating point"
NEEDS = Needs(packages=("torch", "transformers", "safetensors"))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"": 32}
VERSION = 1
CODE = ""
OPEN_CODE = _torch.OPEN_CODE


def check() -> str:
    """Runs everywhere."""
    return ""


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Write the weights as they are."""
    progress("writing the weights")
    _torch.save(model, directory)
    return {}


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torch.open_saved(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """All float."""
    return _torch.count(opened, family, config)
