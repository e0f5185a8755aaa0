"""Dynamic int8 of the linear layers, as in `torch.quantization.quantize_dynamic`.

Weights are int8 with one scale a tensor; activations are quantized to 8 bits on the fly before each linear layer, with
the range that they have at that moment, and everything else stays float.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch, _torch_ao
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torch-int8-dynamic"
LABEL = "int8 dynamic, linear layers (PyTorch)"
ENGINE = "torch"
WEIGHTS = "weights of the linear layers (encoder, projection, head) become 8-bit integers; convolutions stay fp32"
ACTIVATIONS = "8-bit integers inside the linear layers, scaled anew at every pass; fp32 elsewhere"
NEEDS = Needs(packages=("torch", "transformers"))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = "model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)"
OPEN_CODE = _torch_ao.OPEN_CODE


def check() -> str:
    """Names the engine that will multiply. Raises RuntimeError where torch has none or no torch.ao any more."""
    return _torch_ao.check()


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every nn.Linear with one scale a tensor."""
    return _torch_ao.build(model, directory, progress, per_channel=False)


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torch_ao.open(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Packed linear layers are counted by the type of the weight that they hold."""
    return _torch_ao.coverage(opened, family, config)
