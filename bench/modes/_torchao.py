"""What the modes of torchao's `quantize_` share: linear layers hold int8 tensors, stored as safetensors."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import _torch
from bench.records import Coverage

if TYPE_CHECKING:
    from torch import nn

OPEN_CODE = """from safetensors import safe_open
from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

with safe_open("model.safetensors", framework="pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights, _ = unflatten_tensor_state_dict(tensors, file.metadata())
model.requires_grad_(False).load_state_dict(weights, assign=True)"""


def save(model: nn.Module, directory: Path) -> None:
    """Write the quantized module: integers and scales as plain tensors, and in the header how they belong together."""
    from safetensors.torch import save_file
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, metadata = flatten_tensor_state_dict(model.state_dict())
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / _torch.WEIGHTS_FILE, metadata)


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """What `save` wrote, assigned into a skeleton: the linear layers are never float."""
    from safetensors import safe_open
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    with safe_open(directory / _torch.WEIGHTS_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights, _ = unflatten_tensor_state_dict(tensors, file.metadata())
    module = family.skeleton(directory).requires_grad_(False)
    module.load_state_dict(weights, assign=True)
    return _torch.TorchOpened(module, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Linear layers are counted by the integers that their weight holds."""
    return _torch.count(opened, family, config, _int8)


def to_int8_dynamic(model: nn.Module) -> str:
    """Linear layers in int8, in place; returns the range that is used, in bits."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    reduced = reduced_range()
    quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=reduced))
    return "7 bits" if reduced else "8 bits"


def reduced_range() -> bool:
    """On x86 without VNNI the products of 8-bit integers are summed in 16 bits first, which overflows."""
    import torch
    from torchao.utils import should_reduce_range

    return platform.machine().lower() in ("x86_64", "amd64") and should_reduce_range(torch.device("cpu"))


def range_remark() -> str:
    """Tells where 8 bits are not quite 8."""
    return "7-bit range: this processor's 8-bit products would overflow" if reduced_range() else ""


def _int8(module: Any) -> tuple[int, int, int] | None:
    from torchao.quantization import Int8Tensor

    weight = getattr(module, "weight", None)
    if not isinstance(weight, Int8Tensor):
        return None
    bias = module.bias
    return weight.qdata.itemsize * 8, weight.qdata.numel(), 0 if bias is None else bias.numel()
