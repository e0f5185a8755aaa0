"""What the modes on PyTorch's own engine share: how weights are stored, opened, run and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Array, Config, Family
from bench.records import COVERAGE_LENGTH_S, SAMPLE_RATE_HZ, Coverage, Part

if TYPE_CHECKING:
    from torch import nn

NORMS = "norms and biases"  # a part that does no multiply-accumulates
WEIGHTS_FILE = "model.safetensors"
OPEN_CODE = """from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"), assign=True)"""
# Operators that multiply 8-bit integers with 8-bit integers, by the names under which torch dispatches them.
INT8_OPERATORS = frozenset({
    "quantized::linear_dynamic", "aten::_int_mm", "onednn::qlinear_pointwise", "onednn::qconv_pointwise",
    "onednn::qconv2d_pointwise",
})  # fmt: skip
# (bits of the weight, elements of the weight, other elements) of a module, or None if float
Count = Callable[[Any], tuple[int, int, int] | None]


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


def logits(model: nn.Module) -> nn.Module:
    """The model with its logits alone as output: what can be exported and compiled."""
    from torch import nn

    class Logits(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x).logits  # (batch, frames, vocab)

    return Logits().eval()


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


def operators(opened: TorchOpened, x: Array) -> dict[str, set[str]]:
    """The operators that one pass over (batch, samples) really dispatches, by the module that called them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = {module: name for name, module in opened.module.named_modules()}
    called: dict[str, set[str]] = {}
    stack = [""]

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.setdefault(stack[-1], set()).add(func.name().rsplit(".", 1)[0])  # without the overload
            return func(*args, **(kwargs or {}))

    hooks = [m.register_forward_pre_hook(lambda m, _: stack.append(names[m])) for m in names]
    hooks += [m.register_forward_hook(lambda m, _, out: (stack.pop(), out)[1]) for m in names]
    try:
        with Watch():
            opened(x)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def count(
    opened: TorchOpened,
    family: Family,
    config: Config,
    quantized: Count | None = None,
    ran: Mapping[str, set[str]] | None = None,
) -> Coverage:
    """Walk the opened module; `quantized` knows the modules whose weights are no plain parameters.

    Whether activations are 8-bit integers is told by the operators that `ran`, by module; else by those that a short
    pass dispatches.
    """
    work = family.macs(config, round(COVERAGE_LENGTH_S * SAMPLE_RATE_HZ))
    if ran is None:
        ran = operators(opened, family.inputs(1.0, 1, 0, "noise")) if quantized else {}
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
            bits, elements, others = found
            activation_bits = 8 if ran.get(name, set()) & INT8_OPERATORS else float_bits
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
