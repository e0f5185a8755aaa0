"""What the modes on PyTorch's own engine share: how weights are stored, opened, run and counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from bench.core.records import Coverage
from bench.core.specs import Placement
from bench.families.family import Family
from bench.families.network import Feed, Network, Port, Profile
from bench.modes.coverage import NORMS, Tally
from bench.modes.mode import Exercise, Mode

if TYPE_CHECKING:
    from torch import nn

ENDING = ".safetensors"  # of a network's file, behind the network's name
OPEN_CODE = """from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"), assign=True)"""
# Operators that multiply 8-bit integers with 8-bit integers, by the names under which torch dispatches them.
INT8_OPERATORS = frozenset({
    "quantized::linear_dynamic", "aten::_int_mm", "onednn::qlinear_pointwise", "onednn::qconv_pointwise",
    "onednn::qconv2d_pointwise",
})  # fmt: skip
# (bits of the weight, elements of the weight, other elements) of a module, or None if float
Count = Callable[[Any], tuple[int, int, int] | None]
Operators = dict[str, set[str]]  # by the name of the module that called them


class TorchMode(Mode):
    """A mode whose artefact is a safetensors file a network, opened into the family's skeleton."""

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, TorchOpened]:
        """See Mode. No second copy of the weights is ever made."""
        modules = family.skeleton(directory)
        for network in networks:
            self.load(modules[network.name], directory / f"{network.name}{ENDING}")
        return {network.name: TorchOpened(modules[network.name], network, placement) for network in networks}

    def load(self, module: nn.Module, file: Path) -> None:
        """Assign what a network's file holds to its skeleton."""
        from safetensors.torch import load_file

        module.load_state_dict(load_file(file), assign=True)

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """See Mode; counted from the modules."""
        return count(opened, profile, exercise, self.quantized)

    def quantized(self, module: Any) -> tuple[int, int, int] | None:
        """(bits, elements, other elements) of a module whose weights are no plain parameters; None for others."""
        return None


class TorchOpened:
    """A torch module behind the contract of `Opened`."""

    def __init__(self, module: nn.Module, network: Network, placement: Placement) -> None:
        """Takes the module over and sets the process's thread count."""
        import torch

        torch.set_num_threads(placement.threads)
        self.module, self.network = module.eval(), network
        self.dtype = next(p.dtype for p in module.parameters())
        self._names = [port.name for port in network.inputs]
        self._shared = self._session()

    def start(self) -> Callable[[Feed], Feed]:
        """See Opened."""
        return self._session() if self.network.state else self._shared

    def _session(self) -> Callable[[Feed], Feed]:
        import torch

        state: dict[str, torch.Tensor] = {}
        fed_back = self.network.state

        def run(feed: Feed) -> Feed:
            if fed_back and not state:
                state.update({n: self._tensor(x) for n, x in self.network.first_state(feed).items()})
            with torch.inference_mode():
                inputs = [state[n] if n in state else self._tensor(feed[n]) for n in self._names]
                outputs = by_name(self.module(*inputs), self.network.outputs)
                state.update({name: outputs.pop(output) for output, name in fed_back})
                return {name: self._array(x) for name, x in outputs.items()}

        return run

    def _tensor(self, array: npt.NDArray[Any]) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _array(self, tensor: Any) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array


def by_name(result: Any, ports: Sequence[Port]) -> dict[str, Any]:
    """What a network's module returned, by the names of the outputs."""
    if isinstance(result, Mapping):
        return {port.name: result[port.name] for port in ports}
    if not isinstance(result, (tuple, list)):
        result = (result,)
    return {port.name: tensor for port, tensor in zip(ports, result, strict=True)}


def tensors_alone(model: nn.Module, network: Network) -> nn.Module:
    """The module with tensors in and tensors out: what can be exported and compiled."""
    from torch import nn

    class Tensors(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            outputs = tuple(by_name(self.model(*inputs), network.outputs).values())
            return outputs if len(outputs) > 1 else outputs[0]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["self", *(port.name for port in network.inputs)]
    # `torch.export` names inputs, and their free dimensions, as the arguments are named.
    setattr(Tensors.forward, "__signature__", inspect.Signature([inspect.Parameter(n, kind) for n in names]))  # noqa: B010
    return Tensors().eval()


def save(modules: Mapping[str, nn.Module], out: Path) -> None:
    """Write float modules' weights as safetensors, a file a network."""
    from safetensors.torch import save_file

    for name, module in modules.items():
        weights = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
        save_file(weights, out / f"{name}{ENDING}")


def operators(opened: Mapping[str, TorchOpened], exercise: Exercise) -> dict[str, Operators]:
    """The operators that a short pass really dispatches, by network and module."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = {module: (n, name) for n, o in opened.items() for name, module in o.module.named_modules()}
    called: dict[str, Operators] = {n: {} for n in opened}
    stack = [(next(iter(opened)), "")]

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            network, module = stack[-1]
            called[network].setdefault(module, set()).add(func.name().rsplit(".", 1)[0])  # without the overload
            return func(*args, **(kwargs or {}))

    hooks = [m.register_forward_pre_hook(lambda m, _: stack.append(names[m])) for m in names]
    hooks += [m.register_forward_hook(lambda m, _, out: (stack.pop(), out)[1]) for m in names]
    try:
        with Watch():
            exercise(opened)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def count(
    opened: Mapping[str, TorchOpened],
    profile: Profile,
    exercise: Exercise,
    quantized: Count,
    ran: Mapping[str, Mapping[str, set[str]]] | None = None,
) -> Coverage:
    """Walk the opened modules; `quantized` knows those whose weights are no plain parameters.

    Whether activations are 8-bit integers is told by the operators that `ran`, by network and module; else by those
    that a short pass dispatches.
    """
    if ran is None:
        holds = any(quantized(m) for o in opened.values() for m in o.module.modules())
        ran = operators(opened, exercise) if holds else {}
    tally = Tally()
    for network, o in opened.items():
        float_bits = o.dtype.itemsize * 8
        works = {w.module: w for w in profile.works if w.network == network}
        macs = {module: w.macs for module, w in works.items()}
        for name, module in o.module.named_modules():
            part = works[name].part if name in works else NORMS
            if found := quantized(module):
                bits, elements, others = found
                activation_bits = 8 if ran.get(network, {}).get(name, set()) & INT8_OPERATORS else float_bits
                tally.add(part, bits, activation_bits, elements, macs.pop(name, 0), 1)
                tally.add(NORMS, float_bits, float_bits, others, 0, 0)
                continue
            for parameter, tensor in module.named_parameters(recurse=False):
                own = parameter.startswith("weight") and name in works
                bits = tensor.dtype.itemsize * 8
                tally.add(part if own else NORMS, bits, bits, tensor.numel(), macs.pop(name, 0) if own else 0, own)
        for name, left in macs.items():  # products of activations with activations: no module holds their weights
            if left:
                tally.add(works[name].part, None, float_bits, 0, left, 1)
    return tally.coverage()
