"""Shared by the modes of `torch.ao.quantization.quantize_dynamic`: int8 linear layers, activations scaled per pass.

These modes depend on torch's deprecated `torch.ao`. If it is removed, they are unavailable and nothing else in this
package breaks.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.specs import Setting
from bench.families.family import Config, Family
from bench.modes.mode import Data, Progress
from bench.modes.torch import engine

if TYPE_CHECKING:
    from torch import nn

OPEN_CODE = """model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
model.load_state_dict(torch.load("weights.pt", weights_only=True), assign=True)"""
_ONE_NETWORK_FILE = "weights.pt"  # for models with one network
_TYPES = ("Linear",)  # torch.nn types that `open` supports


class DynamicMode(engine.TorchMode):
    """A mode of quantize_dynamic; its artefact is a state dict that loads with weights_only=True."""

    PER_CHANNEL: bool  # one scale per output channel (row of the weight) instead of one per tensor

    def check(self) -> str:
        """Return a remark with the quantized engine. Raises RuntimeError if torch has no engine or no torch.ao."""
        try:
            import torch.ao.nn.quantized.dynamic
            import torch.ao.quantization  # noqa: F401
        except ImportError as e:
            raise RuntimeError(
                f"this torch no longer has torch.ao ({e}); install the version of requirements.txt"
            ) from e
        return f"engine {quantized_engine()}"

    def supports(self, family: Family, config: Config) -> str:
        """See Mode."""
        others = [name for name in family.DYNAMIC_TYPES if name not in _TYPES]
        return f"it quantizes {', '.join(_TYPES)} alone, and {family.NAME} has {', '.join(others)}" if others else ""

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Quantize every linear layer."""
        import torch
        from torch.ao import quantization

        engine_name = torch.backends.quantized.engine = quantized_engine()
        progress(f"quantizing the linear layers ({engine_name})")
        config = quantization.per_channel_dynamic_qconfig if self.PER_CHANNEL else quantization.default_dynamic_qconfig
        types = {getattr(torch.nn, name): config for name in family.DYNAMIC_TYPES}
        for name, module in source.items():
            quantized = quantization.quantize_dynamic(module, types, dtype=torch.qint8, inplace=True)
            progress("writing the weights")
            torch.save(quantized.state_dict(), _file(out, name, len(source)))
        return {"quantized engine": engine_name}

    def open(self, directory: Path, placement: Any, family: Family, networks: Any) -> Mapping[str, engine.TorchOpened]:
        """Load the state dicts into skeletons with int8 linear layers, so that no float copy of them is made."""
        import torch
        import torch.ao.nn.quantized.dynamic as quantized

        torch.backends.quantized.engine = quantized_engine()
        modules = family.skeleton(directory)
        for network in networks:
            module = modules[network.name]
            linears = [(name, m) for name, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
            for name, linear in linears:
                empty = quantized.Linear(
                    linear.in_features, linear.out_features, linear.bias is not None, dtype=torch.qint8
                )
                module.set_submodule(name, empty)
            weights = torch.load(_file(directory, network.name, len(modules)), weights_only=True)
            module.load_state_dict(weights, assign=True)
        return {n.name: engine.TorchOpened(modules[n.name], n, placement) for n in networks}

    def quantized(self, module: nn.Module) -> tuple[int, int, int] | None:
        """See TorchMode; packed linear layers are counted by their weight's type."""
        import torch.ao.nn.quantized.dynamic as quantized

        if not isinstance(module, quantized.Linear):
            return None
        weight, bias = module.weight(), module.bias()
        return weight.dtype.itemsize * 8, weight.numel(), 0 if bias is None else bias.numel()


def _file(folder: Path, network: str, networks: int) -> Path:
    return folder / (_ONE_NETWORK_FILE if networks == 1 else f"{network}.pt")


def quantized_engine() -> str:
    """Return this torch's quantized engine for the processor. Raises RuntimeError if there is none."""
    import torch

    supported = torch.backends.quantized.supported_engines
    suitable = ("x86", "fbgemm") if platform.machine().lower() in ("x86_64", "amd64") else ("onednn", "qnnpack")
    for name in suitable:
        if name in supported:
            return name
    raise RuntimeError(
        f"this torch has no quantized engine for {platform.machine()}: it offers {', '.join(supported)}, "
        f"and one of {', '.join(suitable)} is needed. Install the torch of requirements.txt."
    )
