"""A short script that reproduces a result without Earbench, with PyTorch and the mode's engine alone."""

from __future__ import annotations

from bench import modes
from bench.core.records import VariantRecord
from bench.families import catalogue


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
    quantize += f"{mode.SPEC.code}\n" if mode.SPEC.code else ""
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
