"""16-bit brain floating point on PyTorch: half the size, and fast where the processor multiplies it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torch-bf16"
LABEL = "bf16 (PyTorch)"
ENGINE = "torch"
WEIGHTS = "all weights become 16-bit (bfloat16)"
ACTIVATIONS = "16-bit (bfloat16)"
NEEDS = Needs(
    packages=("torch", "transformers", "safetensors"), fast_isa=frozenset({"avx512_bf16", "amx_bf16", "bf16"})
)
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"": 16}
VERSION = 1
CODE = "model = model.to(torch.bfloat16)\naudio = audio.to(torch.bfloat16)"
OPEN_CODE = _torch.OPEN_CODE


def check() -> str:
    """Runs everywhere, slowly without hardware for it."""
    return ""


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Write every weight rounded to bfloat16."""
    import torch

    progress("rounding to bf16")
    _torch.save(model.to(torch.bfloat16), directory)
    return {}


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torch.open_saved(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """All bfloat16."""
    return _torch.count(opened, family, config)
