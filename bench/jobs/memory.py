"""Memory and disk that building, opening and running a variant takes."""

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
    """(batch, size) of the largest pass over a real example; longer examples are cut."""
    return ((1, catalogue.family(catalogue.find(model)).LONGEST_SIZE),)


def artefact_bytes(variant: Variant) -> int:
    """Size on disk, from the parameters and the bits that the mode stores."""
    stores = modes.find(variant.mode).SPEC.stores
    return sum(w.parameters * stores.get(w.kind, stores[""]) for w in _profile(variant.model).works) // 8


def to_build(variants: Iterable[Variant]) -> list[Variant]:
    """What must be built for these variants, including the base modes they are built from: all that is not cached."""
    missing: dict[tuple[str, str], Variant] = {}
    for v in variants:
        if cache.at_hand(v.model, v.mode, dict(v.settings)):
            continue
        missing.setdefault((v.model, v.spelled), v)
        if base := modes.find(v.mode).SPEC.base:
            for base_variant in to_build([Variant(v.model, base, v.placement)]):
                missing.setdefault((base_variant.model, base_variant.spelled), base_variant)
    return list(missing.values())


def build_bytes(variant: Variant) -> int:
    """Peak memory of building an artefact. One is built at a time, in a separate process."""
    return build.build_bytes(modes.find(variant.mode), 4 * parameters(variant.model))


def build_disk_bytes(variants: Sequence[Variant]) -> int:
    """Peak disk use of building the variants one after another: every artefact, and the largest temporary files."""
    artefact_sizes = {v: artefact_bytes(v) for v in variants}
    peak_sizes = {v: round(modes.find(v.mode).SPEC.cost.disk_copies * 4 * parameters(v.model)) for v in variants}
    return sum(artefact_sizes.values()) + max((max(0, peak_sizes[v] - artefact_sizes[v]) for v in variants), default=0)


def open_bytes(v: Variant, size_bytes: int, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of a worker that has opened an artefact of this size, during the largest of some passes."""
    compiler = COMPILER_BYTES if modes.find(v.mode).SPEC.needs.compiles else 0
    return ENGINE_BYTES + compiler + round(1.1 * size_bytes) + pass_bytes(v.model, shapes)


def pass_bytes(model: str, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of the largest of some passes, (batch, size), without the weights."""
    checkpoint = catalogue.find(model)
    family = catalogue.family(checkpoint)
    return max(batch * family.profile(checkpoint.config, size).activation_bytes for batch, size in shapes)


def parameters(model: str) -> int:
    """Number of elements in all weights of a model."""
    return _profile(model).parameters


def _profile(model: str) -> Profile:
    checkpoint = catalogue.find(model)
    family = catalogue.family(checkpoint)
    return family.profile(checkpoint.config, family.COVERAGE_SIZE)
