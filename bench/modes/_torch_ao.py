"""What the modes of `torch.ao.quantization.quantize_dynamic` share: linear layers in int8, activations scaled per pass.

The only file that imports torch's deprecated `torch.ao`: should it vanish, its modes are unavailable and nothing else
breaks.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Config, Family
from bench.modes import Progress, _torch
from bench.records import Coverage

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "weights.pt"
OPEN_CODE = """model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
model.load_state_dict(torch.load("weights.pt", weights_only=True), assign=True)"""


def check() -> str:
    """Names the engine that will multiply. Raises RuntimeError where torch has none or no torch.ao any more."""
    try:
        import torch.ao.nn.quantized.dynamic
        import torch.ao.quantization  # noqa: F401
    except ImportError as e:
        raise RuntimeError(f"this torch no longer has torch.ao ({e}); install the version of requirements.txt") from e
    return f"engine {_engine()}"


def build(model: nn.Module, directory: Path, progress: Progress, *, per_channel: bool) -> dict[str, str]:
    """Quantize every nn.Linear and write the state dict, which opens with weights_only=True.

    One scale a tensor, or one an output channel (row of the weight).
    """
    import torch
    from torch.ao import quantization

    engine = torch.backends.quantized.engine = _engine()
    progress(f"quantizing the linear layers ({engine})")
    config = quantization.per_channel_dynamic_qconfig if per_channel else quantization.default_dynamic_qconfig
    quantized = quantization.quantize_dynamic(model, {torch.nn.Linear: config}, dtype=torch.qint8, inplace=True)
    progress("writing the weights")
    torch.save(quantized.state_dict(), directory / WEIGHTS_FILE)
    return {"quantized engine": engine}


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Load the state dict into a skeleton whose linear layers are int8 from the start: no float copy of them."""
    import torch
    import torch.ao.nn.quantized.dynamic as quantized

    torch.backends.quantized.engine = _engine()
    module = family.skeleton(directory)
    linears = [(name, m) for name, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
    for name, linear in linears:
        empty = quantized.Linear(linear.in_features, linear.out_features, linear.bias is not None, dtype=torch.qint8)
        module.set_submodule(name, empty)
    module.load_state_dict(torch.load(directory / WEIGHTS_FILE, weights_only=True), assign=True)
    return _torch.TorchOpened(module, threads)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Packed linear layers are counted by the type of the weight that they hold."""
    return _torch.count(opened, family, config, _packed)


def _packed(module: Any) -> tuple[int, int, int] | None:
    import torch.ao.nn.quantized.dynamic as quantized

    if not isinstance(module, quantized.Linear):
        return None
    weight, bias = module.weight(), module.bias()
    return weight.dtype.itemsize * 8, weight.numel(), 0 if bias is None else bias.numel()


def _engine() -> str:
    import torch

    supported = torch.backends.quantized.supported_engines
    wanted = ("x86", "fbgemm") if platform.machine().lower() in ("x86_64", "amd64") else ("onednn", "qnnpack")
    for name in wanted:
        if name in supported:
            return name
    raise RuntimeError(
        f"this torch has no quantized engine for {platform.machine()}: it offers {', '.join(supported)}, "
        f"and one of {', '.join(wanted)} is needed. Install the torch of requirements.txt."
    )
