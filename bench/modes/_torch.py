"""What the modes on PyTorch's own engine share: how weights are stored, opened, run and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Array, Config, Family
from bench.records import COVERAGE_LENGTH_S, SAMPLE_RATE_HZ, Coverage, Part

if TYPE_CHECKING:
    from torch import nn

NORMS = "norms and biases"  # a part that does no multiply-accumulates
WEIGHTS_FILE = "model.safetensors"
# (bits of the weight, bits of the activations, elements of the weight, other elements) of a module, or None if float
Count = Callable[[Any], tuple[int, int, int, int] | None]


class TorchOpened:
    """A torch module behind the contract of `Opened`."""

    def __init__(self, module: nn.Module, threads: int) -> None:
        """Takes the module over and sets the process's thread count."""
        import torch

        torch.set_num_threads(threads)
        self.module = module.eval()
        self.dtype = next(p.dtype for p in module.parameters())

    def __call__(self, batch: Array) -> Array:
        """(batch, samples) -> (batch, frames, vocab)."""
        import torch

        with torch.inference_mode():
            logits = self.module(torch.from_numpy(batch).to(self.dtype)).logits  # (batch, frames, vocab)
            result: Array = logits.float().numpy()
            return result


def save(model: nn.Module, directory: Path) -> None:
    """Write a float module's weights as safetensors."""
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / WEIGHTS_FILE)


def open_saved(directory: Path, threads: int, family: Family) -> TorchOpened:
    """What `save` wrote, assigned into a skeleton: no second copy of the weights is ever made."""
    from safetensors.torch import load_file

    module = family.skeleton(directory)
    module.load_state_dict(load_file(directory / WEIGHTS_FILE), assign=True)
    return TorchOpened(module, threads)


def count(opened: TorchOpened, family: Family, config: Config, quantized: Count | None = None) -> Coverage:
    """Walk the opened module; `quantized` knows the modules whose weights are no plain parameters."""
    work = family.macs(config, round(COVERAGE_LENGTH_S * SAMPLE_RATE_HZ))
    parameters: Counter[tuple[str, int | None, int]] = Counter()
    macs: Counter[tuple[str, int | None, int]] = Counter()
    nodes: Counter[tuple[str, int | None, int]] = Counter()
    float_bits = opened.dtype.itemsize * 8

    def add(part: str, bits: int | None, activation_bits: int, elements: int, work: int) -> None:
        parameters[part, bits, activation_bits] += elements
        macs[part, bits, activation_bits] += work
        nodes[part, bits, activation_bits] += part != NORMS or work > 0

    for name, module in opened.module.named_modules():
        found = quantized(module) if quantized else None
        if found:
            bits, activation_bits, elements, others = found
            add(family.part(name), bits, activation_bits, elements, work.pop(name, 0))
            add(NORMS, float_bits, float_bits, others, 0)
            continue
        for parameter_name, tensor in module.named_parameters(recurse=False):
            own = parameter_name == "weight" and name in work
            part = family.part(name) if own else NORMS
            bits = tensor.dtype.itemsize * 8
            add(part, bits, bits, tensor.numel(), work.pop(name, 0) if own else 0)
    for name, amount in work.items():  # products of activations with activations: no module holds their weights
        add(family.part(name), None, float_bits, 0, amount)
    return Coverage(
        tuple(
            Part(
                part,
                bits,
                activation_bits,
                elements,
                macs[part, bits, activation_bits],
                nodes[part, bits, activation_bits],
            )
            for (part, bits, activation_bits), elements in parameters.items()
            if elements or macs[part, bits, activation_bits]
        )
    )
