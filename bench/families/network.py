"""The networks of a model: what goes into them and comes out, by name, and how much they compute.

NumPy alone, so that the dashboard's process and workers without PyTorch can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Feed = Mapping[str, npt.NDArray[Any]]  # inputs or outputs by port name
Mark = Callable[[str], None]  # called at the end of a phase of a pass, with the phase's name
# What a module does. Attention is the two products of activations with activations, whose module has no weights.
Kind = Literal["linear", "convolution", "grouped convolution", "recurrent", "attention", "embedding"]


@dataclass(frozen=True, slots=True)
class Dim:
    """A free dimension of a port, with its bounds for export. Dimensions of one name are of one size."""

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
    object that has them by name. `example` is what it is exported with: every free dimension longer than 1, since
    `torch.export` makes constants of 0 and 1. `state` are (output, input) pairs that an engine feeds back by itself.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    example: Feed
    state: tuple[tuple[str, str], ...] = ()
    sensitive: tuple[str, ...] = ()  # modules that static modes may keep float, in the order in which they run

    @property
    def free_inputs(self) -> tuple[Port, ...]:
        """The inputs that are no state: what a feed holds."""
        fed_back = {name for _, name in self.state}
        return tuple(port for port in self.inputs if port.name not in fed_back)

    @property
    def free_outputs(self) -> tuple[Port, ...]:
        """The outputs that are no state: what a pass gives."""
        fed_back = {name for name, _ in self.state}
        return tuple(port for port in self.outputs if port.name not in fed_back)

    def stateless(self) -> Network:
        """The same network with its state among the inputs and outputs."""
        return Network(self.name, self.inputs, self.outputs, self.example, (), self.sensitive)

    def first_state(self, feed: Feed) -> dict[str, npt.NDArray[Any]]:
        """Input name -> zeros, as a state begins.

        A dimension that an input of the feed has too is as long as there; another one is as short as it may be.
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
        """Zeros for every free input, as small as they may be: for a first pass that readies an engine."""
        return {
            port.name: np.zeros([max(1, d.low or 1) if isinstance(d, Dim) else d for d in port.shape], port.dtype)
            for port in self.free_inputs
        }


@dataclass(frozen=True, slots=True)
class Work:
    """What one module with weights, or one attention, computes and holds."""

    network: str
    module: str  # its name within the network's PyTorch module
    part: str  # of the model, for people: feature extractor, encoder linears, head
    kind: Kind
    macs: int  # multiply-accumulates of one pass at batch 1
    parameters: int  # elements of its weight; biases are not among them


@dataclass(frozen=True, slots=True)
class Profile:
    """What one pass at batch 1 computes, module by module, and about how much memory it takes beside the weights."""

    works: tuple[Work, ...]
    activation_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole pass."""
        return sum(w.macs for w in self.works)

    @property
    def parameters(self) -> int:
        """Elements of all weights, biases and norms left out."""
        return sum(w.parameters for w in self.works)


@dataclass(frozen=True, slots=True)
class Steps:
    """A pass of fixed work: so many steps of a decoder, whatever it says. 0 where the family has none."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class UntilEnd:
    """A pass over a real example, until it is done. `progress` gets (parts done, parts) of what takes several."""

    limit: int = 10_000  # steps at the most
    progress: Callable[[int, int], None] = lambda done, count: None


Stop = Steps | UntilEnd
