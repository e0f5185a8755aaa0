"""The few plain lines that reproduce a result without Earbench, in PyTorch and the mode's engine."""

from __future__ import annotations

from bench import models, modes
from bench.records import SAMPLE_RATE_HZ, VariantRecord


def code(record: VariantRecord, length_s: float, batch: int, repeats: int = 10) -> str:
    """A script that times the variant as the lab asks: forward pass alone, first pass excluded, k repetitions.

    Raises ModelError or ModeError where the model or the mode is gone.
    """
    variant, artefact = record.variant, record.artefact
    checkpoint, mode = models.find(variant.model), modes.find(variant.mode)
    load = models.family(checkpoint).code(checkpoint)
    engine = artefact.details.get("quantized engine") if artefact else None
    quantize = f"torch.backends.quantized.engine = {engine!r}\n" if engine else ""
    quantize += f"{mode.CODE}\n" if mode.CODE else ""
    return f"""import statistics
import time

import torch

torch.set_num_threads({variant.threads})
{load}
audio = torch.randn({batch}, {round(length_s * SAMPLE_RATE_HZ)})  # {length_s:g} s at {SAMPLE_RATE_HZ // 1000} kHz
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
