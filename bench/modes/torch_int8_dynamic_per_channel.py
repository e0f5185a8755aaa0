"""Dynamic int8 of the linear layers by `quantize_dynamic`, with one scale an output channel.

As `torch_int8_dynamic`, but every row of a weight matrix has a scale of its own: a row of small weights is no longer
rounded with the step of the largest row. It costs a few kilobytes and next to no time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch, _torch_ao
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torch-int8-dynamic-per-channel"
LABEL = "int8 dynamic, linear layers, per channel (PyTorch)"
ENGINE = "torch"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) become 8-bit integers, one scale a row; "
    "convolutions stay fp32"
)
ACTIVATIONS = "8-bit integers inside the linear layers, scaled anew at every pass; fp32 elsewhere"
NEEDS = Needs(packages=("torch", "transformers"))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = """from torch.ao.quantization import per_channel_dynamic_qconfig

model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)"""
OPEN_CODE = _torch_ao.OPEN_CODE


def check() -> str:
    """Names the engine that will multiply. Raises RuntimeError where torch has none or no torch.ao any more."""
    return _torch_ao.check()


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every nn.Linear with one scale a row of its weight."""
    return _torch_ao.build(model, directory, progress, per_channel=True)


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torch_ao.open(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Packed linear layers are counted by the type of the weight that they hold."""
    return _torch_ao.coverage(opened, family, config)
