"""The networks of a model: their named inputs and outputs, and their compute costs.

Uses NumPy alone, so that the dashboard's process and workers without PyTorch can import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Feed = Mapping[str, npt.NDArray[Any]]  # inputs or outputs by port name
Mark = Callable[[str], None]  # called at the end of a phase of a pass, with the phase's name
# A module's operation. Attention stands for its two products of activations, which have no weights.
Kind = Literal["linear", "convolution", "grouped convolution", "recurrent", "attention", "embedding"]


@dataclass(frozen=True, slots=True)
class Dim:
    """A free dimension of a port, with its bounds for export. Dimensions of the same name have the same size."""

    name: str
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a network."""

    name: str
    dtype: str  # NumPy's name: float32, int64
    shape: tuple[int | Dim, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a model; a model has one or several.

    Its PyTorch module takes the inputs by position and returns a tensor, a tuple in the order of the outputs, or an
    object that has them by name. `example` holds the inputs for export, with every free dimension longer than 1,
    because `torch.export` specialises 0 and 1. `state` holds (output, input) pairs that an engine feeds back itself.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    example: Feed
    state: tuple[tuple[str, str], ...] = ()
    sensitive: tuple[str, ...] = ()  # modules that static modes may keep float, in execution order

    @property
    def free_inputs(self) -> tuple[Port, ...]:
        """The inputs that are not state: the keys of a feed."""
        fed_back = {name for _, name in self.state}
        return tuple(port for port in self.inputs if port.name not in fed_back)

    @property
    def free_outputs(self) -> tuple[Port, ...]:
        """The outputs that are not state: the results of a pass."""
        fed_back = {name for name, _ in self.state}
        return tuple(port for port in self.outputs if port.name not in fed_back)

    def stateless(self) -> Network:
        """Return the same network with its state as ordinary inputs and outputs."""
        return Network(self.name, self.inputs, self.outputs, self.example, (), self.sensitive)

    def first_state(self, feed: Feed) -> dict[str, npt.NDArray[Any]]:
        """Return the initial state: zeros by input name.

        A dimension that an input of the feed has too takes its size; any other takes its lower bound.
        """
        sizes = {
            dim.name: feed[port.name].shape[axis]
            for port in self.free_inputs
            for axis, dim in enumerate(port.shape)
            if isinstance(dim, Dim)
        }
        ports = {port.name: port for port in self.inputs}
        return {
            name: np.zeros(
                [sizes.get(d.name, d.low or 0) if isinstance(d, Dim) else d for d in ports[name].shape],
                ports[name].dtype,
            )
            for _, name in self.state
        }

    def smallest(self) -> dict[str, npt.NDArray[Any]]:
        """Return zeros of the smallest allowed shape for every free input, for a warm-up pass."""
        return {
            port.name: np.zeros([max(1, d.low or 1) if isinstance(d, Dim) else d for d in port.shape], port.dtype)
            for port in self.free_inputs
        }


@dataclass(frozen=True, slots=True)
class Work:
    """The compute and parameters of one module with weights, or of one attention."""

    network: str
    module: str  # its name in the network's PyTorch module
    part: str  # part of the model, for people: feature extractor, encoder linears, head
    kind: Kind
    macs: int  # multiply-accumulates of one pass at batch 1
    parameters: int  # elements of its weight, biases not included


@dataclass(frozen=True, slots=True)
class Profile:
    """The compute of one pass at batch 1 by module, and an estimate of its memory beside the weights."""

    works: tuple[Work, ...]
    activation_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole pass."""
        return sum(w.macs for w in self.works)

    @property
    def parameters(self) -> int:
        """Elements of all weights, without biases and norms."""
        return sum(w.parameters for w in self.works)


@dataclass(frozen=True, slots=True)
class Steps:
    """A pass of fixed work: a number of decoder steps, whatever the output. 0 if the family has no decoder steps."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class UntilEnd:
    """A pass over a whole real example. `progress` is called with (parts done, parts) if it takes several parts."""

    limit: int = 10_000  # maximum number of steps
    progress: Callable[[int, int], None] = lambda done, count: None


Stop = Steps | UntilEnd
