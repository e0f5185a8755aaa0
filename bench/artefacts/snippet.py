"""A short script that reproduces a result without Earbench, with PyTorch and the mode's engine alone."""

from __future__ import annotations

from string import Template

from bench import modes
from bench.core.records import VariantRecord
from bench.core.specs import Setting
from bench.families import catalogue
from bench.modes.mode import Mode

_REDUCED = "reduce_range"  # a name in a mode's code beside those of its settings: weights of 7 bits, see `_values`


def heading(record: VariantRecord) -> str:
    """Return what `code` is, for people: the same without Earbench, or a comparable script and why.

    Raises ModelError or ModeError if the model, the mode or a setting no longer exists.
    """
    checkpoint = catalogue.find(record.variant.model)
    if not catalogue.family(checkpoint).code(checkpoint):
        return "There is no short script for this model."
    reason = _difference(record, modes.find(record.variant.mode))
    return f"A comparable script without Earbench: {reason}." if reason else "The same without Earbench."


def _difference(record: VariantRecord, mode: Mode) -> str:
    """Return why the script's outputs are not the artefact's; "" if they are."""
    if mode.SPEC.code_differs:
        return mode.SPEC.code_differs
    if not mode.SPEC.code and mode.name != modes.original():
        return "the mode has no plain code, so the float model is timed"
    names = Template(mode.SPEC.code).get_identifiers()
    values = modes.complete(mode, dict(record.variant.settings))
    changed = [name for name, option in mode.SPEC.settings.items() if values[name] != option.default]
    if ignored := [name for name in changed if name not in names]:
        return f"it does not use {' and '.join(ignored)}"
    if _reduced(record) and _REDUCED not in names:
        return "on this processor Earbench uses 7 bits"
    return ""


def code(record: VariantRecord, size: float, batch: int, repeats: int = 10) -> str:
    """Return a script that times the variant as the lab does: forward pass alone, first pass excluded, k repetitions.

    Raises ModelError or ModeError if the model or the mode no longer exists.
    """
    variant, artefact = record.variant, record.artefact
    checkpoint, mode = catalogue.find(variant.model), modes.find(variant.mode)
    family = catalogue.family(checkpoint)
    load = family.code(checkpoint)
    if not load:
        return f"# {family.NAME} models take more than one script: see Earbench's own code.\n"
    engine = artefact.details.get("quantized engine") if artefact else None
    quantize = f"torch.backends.quantized.engine = {engine!r}\n" if engine else ""
    quantize += f"{Template(mode.SPEC.code).substitute(_values(record, mode))}\n" if mode.SPEC.code else ""
    return f"""import statistics
import time

import torch

torch.set_num_threads({variant.placement.threads})
{load}
{family.example_code(size, batch)}
{quantize}
times = []
with torch.inference_mode():
    for _ in range({repeats + 1}):
        begun = time.perf_counter()
        model(audio)
        times.append(time.perf_counter() - begun)
times = times[1:]  # the first pass warms up
print(f"{{statistics.mean(times) * 1e3:.1f}} ± {{statistics.stdev(times) * 1e3:.1f}} ms")
"""


def _values(record: VariantRecord, mode: Mode) -> dict[str, Setting]:
    """Return what stands for the names in a mode's code: every setting, and whether weights have 7 bits."""
    return {**modes.complete(mode, dict(record.variant.settings)), _REDUCED: _reduced(record)}


def _reduced(record: VariantRecord) -> bool:
    return record.artefact is not None and record.artefact.details.get("range") == "7 bits"
