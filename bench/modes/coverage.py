"""Counting a coverage from what networks store and run; shared by all engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.core.records import Coverage, Part
from bench.families.network import Profile

NORMS = "norms and biases"  # a part without multiply-accumulates
ATTENTION = ("qk", "av")  # the two products of activations


class Tally:
    """Parameters, multiply-accumulates and nodes by part and precision."""

    def __init__(self) -> None:
        """All counts start at 0."""
        self._parameters: Counter[tuple[str, int | None, int]] = Counter()
        self._macs: Counter[tuple[str, int | None, int]] = Counter()
        self._nodes: Counter[tuple[str, int | None, int]] = Counter()

    def add(
        self, part: str, weight_bits: int | None, activation_bits: int, parameters: int, macs: int, nodes: int
    ) -> None:
        """Add counts; `weight_bits` is None for what has no weights."""
        key = part, weight_bits, activation_bits
        self._parameters[key] += parameters
        self._macs[key] += macs
        self._nodes[key] += nodes

    def coverage(self) -> Coverage:
        """Return the counts as a coverage, parts in the order of their first `add`."""
        return Coverage(
            tuple(
                Part(*key, parameters, self._macs[key], self._nodes[key])
                for key, parameters in self._parameters.items()
                if parameters or self._macs[key]
            )
        )


@dataclass(frozen=True, slots=True)
class Graph:
    """What the nodes of a network's graph store and read, by node name: MODULE, or MODULE/qk and MODULE/av."""

    stored: Mapping[str, tuple[int | None, int]]  # bits and elements of each node's weight
    executed: Mapping[str, int]  # bits of each node's input activations
    others: Mapping[int, int] = field(default_factory=dict)  # elements of all other parameters, by bits


def count(profile: Profile, look: Callable[[str, set[str]], Graph]) -> Coverage:
    """Count the coverage of graphs with named nodes. `look` takes a network's name and the names of its compute nodes.

    Raises RuntimeError if a module with multiply-accumulates is missing in the executed graph.
    """
    tally = Tally()
    for network in dict.fromkeys(w.network for w in profile.works):
        works = {}
        for w in (w for w in profile.works if w.network == network):
            names = [f"{w.module}/{product}" for product in ATTENTION] if w.kind == "attention" else [w.module]
            works.update(dict.fromkeys(names, (w, w.macs // len(names))))
        graph = look(network, set(works))
        for name, (w, macs) in works.items():
            bits, elements = graph.stored.get(name, (None, 0))
            if w.kind == "embedding":  # a lookup without products: read in its stored precision
                tally.add(w.part, bits or 32, bits or 32, elements or w.parameters, 0, 1)
                continue
            if w.kind == "recurrent" and name in graph.executed:  # has several weights, or one concatenated weight
                tally.add(w.part, bits or 32, graph.executed[name], w.parameters, macs, 1)
                continue
            if name not in graph.executed or (bits is None and w.kind != "attention"):
                raise RuntimeError(f"{name} is not in the graph that the engine runs: this model can't be counted.")
            if w.kind != "attention" and elements != w.parameters:
                raise RuntimeError(
                    f"{name} holds {elements} weights in the graph, and {w.parameters} in the family's profile: "
                    "correct the profile, or its kind (a recurrent cell holds several weights)."
                )
            tally.add(w.part, bits, graph.executed[name], elements, macs, 1)
        for others_bits, elements in graph.others.items():
            tally.add(NORMS, others_bits, others_bits, elements, 0, 0)
    return tally.coverage()
