"""How much a pass computes, and whether variants are valid."""

from __future__ import annotations

from collections.abc import Iterable

from bench import modes
from bench.core.specs import Axis, SpecError, Variant
from bench.device import kinds
from bench.families import catalogue


def work(model: str, batch: int, size: float) -> int:
    """Multiply-accumulates of one pass. Raises ModelError."""
    checkpoint = catalogue.find(model)
    return batch * catalogue.family(checkpoint).profile(checkpoint.config, size).macs


def check(variants: Iterable[Variant]) -> None:
    """Check that each variant's device, model, mode and settings exist and fit together.

    Raises SpecError for a device, ModelError or ModeError for a model, a mode or a setting.
    """
    for v in variants:
        kinds.find(v.placement.device)
        checkpoint = catalogue.find(v.model)
        modes.check(v)
        modes.refuse_unsupported(modes.find(v.mode), catalogue.family(checkpoint), checkpoint.config, v.model)


def axis(models: Iterable[str]) -> Axis:
    """What the size of an input means to these models.

    Raises ModelError, or SpecError if they differ in it or none is given.
    """
    axes = {catalogue.family(catalogue.find(model)).AXIS: model for model in models}
    if not axes:
        raise SpecError("Models: none is chosen. Allowed: at least one.")
    if len(axes) > 1:
        names = " and ".join(f"{a.title} ({model})" for a, model in axes.items())
        raise SpecError(f"Models: their inputs are of different kinds: {names}. Measure them in runs of their own.")
    return next(iter(axes))
