"""Dynamic int8 of the linear layers by torchao, PyTorch's present library for quantization.

Weights are int8 with one scale an output channel (row); activations are quantized to 8 bits on the fly before each
linear layer, with one scale a frame; both symmetric. Everything else stays float.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch, _torchao
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torchao-int8-dynamic"
LABEL = "int8 dynamic, linear layers (torchao)"
ENGINE = "torch"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) become 8-bit integers, one scale a row; "
    "convolutions stay fp32"
)
ACTIVATIONS = "8-bit integers inside the linear layers, one scale a frame, anew at every pass; fp32 elsewhere"
NEEDS = Needs(packages=("torch", "transformers", "torchao", "safetensors"))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = """from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))"""
OPEN_CODE = _torchao.OPEN_CODE


def check() -> str:
    """Runs everywhere; tells where 8 bits are not quite 8."""
    return _torchao.range_remark()


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every nn.Linear."""
    progress("quantizing the linear layers")
    used = _torchao.to_int8_dynamic(model)
    progress("writing the weights")
    _torchao.save(model, directory)
    return {"range": used}


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torchao.open(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the opened model."""
    return _torchao.coverage(opened, family, config)
