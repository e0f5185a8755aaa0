"""The PyTorch engine, shared by its modes: store and open weights, run networks, and count their coverage."""

from __future__ import annotations

import inspect
import re
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

ENDING = ".safetensors"  # suffix of a network's file, after the network's name
OPEN_CODE = """from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"), assign=True)"""
# Operators that multiply 8-bit integers by 8-bit integers, by their dispatch names in torch.
INT8_OPERATORS = frozenset({
    "quantized::linear_dynamic", "aten::_int_mm", "onednn::qlinear_pointwise", "onednn::qconv_pointwise",
    "onednn::qconv2d_pointwise",
})  # fmt: skip
# (bits of the weight, elements of the weight, other elements) of a module, or None if float
Count = Callable[[Any], tuple[int, int, int] | None]
Operators = dict[str, set[str]]  # by the name of the calling module


class TorchMode(Mode):
    """A mode whose artefact has one safetensors file per network, loaded into the family's skeleton."""

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, TorchOpened]:
        """See Mode. The weights are never copied."""
        modules = family.skeleton(directory)
        files = {network.name: directory / f"{network.name}{ENDING}" for network in networks}
        for name, file in files.items():
            self.load(modules[name], file)
        return {n.name: TorchOpened(modules[n.name], n, placement, files[n.name]) for n in networks}

    def load(self, module: nn.Module, file: Path) -> None:
        """Load a network's file into its skeleton."""
        from safetensors.torch import load_file

        module.load_state_dict(load_file(file), assign=True)

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """See Mode; counted from the modules."""
        return count(opened, profile, exercise, self.quantized)

    def quantized(self, module: Any) -> tuple[int, int, int] | None:
        """Return (bits, elements, other elements) of a module whose weights are not plain parameters, else None."""
        return None


class TorchOpened:
    """A torch module that implements `Opened`."""

    def __init__(self, module: nn.Module, network: Network, placement: Placement, file: Path | None = None) -> None:
        """Take ownership of the module and set the process's thread count.

        `file` is the safetensors file that the module was loaded from.
        """
        import torch

        torch.set_num_threads(placement.threads)
        self.module, self.network, self.file = module.eval(), network, file
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
    """Return the result of a network's module as tensors by output name."""
    if isinstance(result, Mapping):
        return {port.name: result[port.name] for port in ports}
    if not isinstance(result, (tuple, list)):
        result = (result,)
    return {port.name: tensor for port, tensor in zip(ports, result, strict=True)}


def tensors_alone(model: nn.Module, network: Network) -> nn.Module:
    """Wrap the module so that it takes and returns only tensors, as export and compilation require."""
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
    """Write float modules' weights as safetensors, one file per network."""
    from safetensors.torch import save_file

    for name, module in modules.items():
        weights = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
        save_file(weights, out / f"{name}{ENDING}")


def operators(opened: Mapping[str, TorchOpened], exercise: Exercise) -> dict[str, Operators]:
    """Return the operators that a short pass dispatches, by network and module."""
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
    """Count the coverage of the opened modules; `quantized` counts modules whose weights are not plain parameters.

    A module's activations count as 8-bit integers if it calls one of INT8_OPERATORS. `ran` holds the called operators
    by network and module; if None, they are recorded in a short pass.
    """
    if ran is None:
        any_quantized = any(quantized(m) for o in opened.values() for m in o.module.modules())
        ran = operators(opened, exercise) if any_quantized else {}
    tally = Tally()
    for network, o in opened.items():
        float_bits = o.dtype.itemsize * 8
        stored_bits = _stored_bits(o.file) if o.file else {}
        works = {w.module: w for w in profile.works if w.network == network}
        macs = {module: w.macs for module, w in works.items()}
        for name, module in o.module.named_modules():
            part = works[name].part if name in works else NORMS
            if sizes := quantized(module):
                bits, elements, others = sizes
                activation_bits = 8 if ran.get(network, {}).get(name, set()) & INT8_OPERATORS else float_bits
                tally.add(part, bits, activation_bits, elements, macs.pop(name, 0), 1)
                tally.add(NORMS, float_bits, float_bits, others, 0, 0)
                continue
            for parameter, tensor in module.named_parameters(recurse=False):
                is_weight = parameter.startswith("weight") and name in works
                bits = tensor.dtype.itemsize * 8
                tally.add(
                    part if is_weight else NORMS,
                    stored_bits.get(f"{name}.{parameter}" if name else parameter, bits),
                    bits,
                    tensor.numel(),
                    macs.pop(name, 0) if is_weight else 0,
                    is_weight,
                )
        for name, remaining in macs.items():  # products of two activations, which have no weights
            if remaining:
                tally.add(works[name].part, None, float_bits, 0, remaining, 1)
    return tally.coverage()


def _stored_bits(file: Path) -> dict[str, int]:
    """Bits of each tensor in a safetensors file: a mode may compute in more than it stores."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        types = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return {name: int(bits[0]) for name, dtype in types.items() if (bits := re.search(r"\d+", dtype))}  # BF16, F8_E4M3
