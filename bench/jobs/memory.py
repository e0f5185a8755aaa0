"""How much memory and disk building, opening and running a variant takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import modes
from bench.artefacts import build, cache
from bench.core.specs import Variant
from bench.families import catalogue
from bench.families.network import Profile

ENGINE_BYTES = 450_000_000  # a worker with torch and transformers imported
COMPILER_BYTES = 500_000_000  # what compiling leaves in the worker that does it


def longest_pass(model: str) -> tuple[tuple[int, float]]:
    """(batch, size) of the largest pass over a real example: what is longer is cut."""
    return ((1, catalogue.family(catalogue.find(model)).LONGEST_SIZE),)


def artefact_bytes(variant: Variant) -> int:
    """Size on disk, from the parameters and the bits that the mode stores."""
    stores = modes.find(variant.mode).SPEC.stores
    return sum(w.parameters * stores.get(w.kind, stores[""]) for w in _profile(variant.model).works) // 8


def to_build(variants: Iterable[Variant]) -> list[Variant]:
    """What has to be built for these variants, and for what they are built from: all that is not in the cache."""
    missing: dict[tuple[str, str], Variant] = {}
    for v in variants:
        if cache.at_hand(v.model, v.mode, dict(v.settings)):
            continue
        missing.setdefault((v.model, v.spelled), v)
        if base := modes.find(v.mode).SPEC.base:
            for needed in to_build([Variant(v.model, base, v.placement)]):
                missing.setdefault((needed.model, needed.spelled), needed)
    return list(missing.values())


def build_bytes(variant: Variant) -> int:
    """Memory that building an artefact takes at its peak; one is built at a time, in a process of its own."""
    return build.build_bytes(modes.find(variant.mode), 4 * parameters(variant.model))


def build_disk_bytes(variants: Sequence[Variant]) -> int:
    """Disk that building them one after another takes at its peak: what is left of each, and scraps of the largest."""
    left = {v: artefact_bytes(v) for v in variants}
    at_most = {v: round(modes.find(v.mode).SPEC.cost.disk_copies * 4 * parameters(v.model)) for v in variants}
    return sum(left.values()) + max((max(0, at_most[v] - left[v]) for v in variants), default=0)


def open_bytes(v: Variant, size_bytes: int, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of a worker with an artefact of this size opened, and the largest of some passes."""
    compiler = COMPILER_BYTES if modes.find(v.mode).SPEC.needs.compiles else 0
    return ENGINE_BYTES + compiler + round(1.1 * size_bytes) + pass_bytes(v.model, shapes)


def pass_bytes(model: str, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of the largest of some passes, (batch, size), beside the weights."""
    checkpoint = catalogue.find(model)
    family = catalogue.family(checkpoint)
    return max(batch * family.profile(checkpoint.config, size).activation_bytes for batch, size in shapes)


def parameters(model: str) -> int:
    """Elements of all weights of a model."""
    return _profile(model).parameters


def _profile(model: str) -> Profile:
    checkpoint = catalogue.find(model)
    family = catalogue.family(checkpoint)
    return family.profile(checkpoint.config, family.COVERAGE_SIZE)
