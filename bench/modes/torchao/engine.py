"""Shared by the modes of torchao's `quantize_`: linear layers with int8 tensors, stored as safetensors."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.modes.torch import engine

if TYPE_CHECKING:
    from torch import nn

OPEN_CODE = """from safetensors import safe_open
from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

with safe_open("model.safetensors", framework="pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights, _ = unflatten_tensor_state_dict(tensors, file.metadata())
model.requires_grad_(False).load_state_dict(weights, assign=True)"""


class TorchaoMode(engine.TorchMode):
    """A mode whose linear layers are quantized by torchao."""

    def load(self, module: nn.Module, file: Path) -> None:
        """Load a file of `save` into a skeleton; the linear layers are never float."""
        from safetensors import safe_open
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            weights, _ = unflatten_tensor_state_dict(tensors, opened.metadata())
        module.requires_grad_(False).load_state_dict(weights, assign=True)

    def quantized(self, module: Any) -> tuple[int, int, int] | None:
        """See TorchMode; linear layers are counted by their weight's integer tensor."""
        from torchao.quantization import Int8Tensor

        weight = getattr(module, "weight", None)
        if not isinstance(weight, Int8Tensor):
            return None
        bias = module.bias
        return weight.qdata.itemsize * 8, weight.qdata.numel(), 0 if bias is None else bias.numel()


def save(modules: Mapping[str, nn.Module], out: Path) -> None:
    """Write quantized modules: integers and scales as plain tensors, and their relations in the header."""
    from safetensors.torch import save_file
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    for name, module in modules.items():
        tensors, metadata = flatten_tensor_state_dict(module.state_dict())
        save_file({key: t.contiguous() for key, t in tensors.items()}, out / f"{name}{engine.ENDING}", metadata)


def to_int8_dynamic(module: nn.Module) -> str:
    """Quantize linear layers to int8, in place; return the integer range as text, in bits."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    reduced = reduced_range()
    quantize_(module, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=reduced))
    return "7 bits" if reduced else "8 bits"


def reduced_range() -> bool:
    """Return whether to use 7 bits: x86 without VNNI accumulates 8-bit products in 16 bits first, which overflows."""
    import torch
    from torchao.utils import should_reduce_range

    return platform.machine().lower() in ("x86_64", "amd64") and should_reduce_range(torch.device("cpu"))


def range_remark() -> str:
    """Return a remark if the range is reduced to 7 bits here."""
    return "7-bit range: this processor's 8-bit products would overflow" if reduced_range() else ""
