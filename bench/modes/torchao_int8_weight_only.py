"""int8 weights of the linear layers by torchao, activations left float.

A third of the size at hardly a loss. It is no faster: before each product the integers become floats again. It pays
where a model is bound by the memory that its weights take, and it shows what quantized activations add to the loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Clips, Cost, Needs, Option, Progress, _torch, _torchao
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

NAME = "torchao-int8-weight-only"
LABEL = "int8 weights only, linear layers (torchao)"
ENGINE = "torch"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) become 8-bit integers, one scale a row; "
    "convolutions stay fp32"
)
ACTIVATIONS = "fp32: the weights become floats again at every pass"
NEEDS = Needs(packages=("torch", "transformers", "torchao", "safetensors"))
SETTINGS: dict[str, Option] = {}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = False
COST = Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = """from torchao.quantization import Int8WeightOnlyConfig, quantize_

quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))"""
OPEN_CODE = _torchao.OPEN_CODE


def check() -> str:
    """Runs everywhere."""
    return ""


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Quantize every nn.Linear."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    progress("quantizing the linear layers")
    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))
    progress("writing the weights")
    _torchao.save(model, directory)
    return {}


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torchao.open(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the opened model."""
    return _torchao.coverage(opened, family, config)
