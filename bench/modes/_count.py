"""From what a graph stores and runs to its coverage: what the modes with graphs of named nodes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from bench.models import Config, Family
from bench.modes._torch import NORMS
from bench.records import COVERAGE_LENGTH_S, SAMPLE_RATE_HZ, Coverage, Part

Stored = Mapping[str, tuple[int | None, int]]  # by node: bits and elements of the weight that it multiplies with
Others = Mapping[int, int]  # elements of all other parameters, by their bits


def count(
    family: Family, config: Config, look: Callable[[set[str]], tuple[Stored, Others, Mapping[str, int]]]
) -> Coverage:
    """What multiplies, by its precision. `look` gets the names of all nodes that do: MODULE, or MODULE/qk and /av.

    It returns what of their weights is stored, what else is, and by node the bits of the activations that are
    multiplied. Raises RuntimeError if a module that multiplies is missing there.
    """
    work = family.macs(config, round(COVERAGE_LENGTH_S * SAMPLE_RATE_HZ))
    for name in [name for name in work if name.endswith(".attention")]:
        products = work.pop(name)
        work[f"{name}/qk"] = work[f"{name}/av"] = products // 2
    weights, others, executed = look(set(work))
    parameters: Counter[tuple[str, int | None, int]] = Counter()
    macs: Counter[tuple[str, int | None, int]] = Counter()
    nodes: Counter[tuple[str, int | None, int]] = Counter()
    for name, amount in work.items():
        bits, elements = weights.get(name, (None, 0))
        if name not in executed or (bits is None and "/" not in name):
            raise RuntimeError(f"{name} is not in the graph that the engine runs: this model can't be counted.")
        key = family.part(name.partition("/")[0]), bits, executed[name]
        parameters[key] += elements
        macs[key] += amount
        nodes[key] += 1
    for others_bits, elements in others.items():
        parameters[NORMS, others_bits, others_bits] += elements
    return Coverage(tuple(Part(*key, elements, macs[key], nodes[key]) for key, elements in parameters.items()))
