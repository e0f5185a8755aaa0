"""Earbench: what quantizing a model gains and costs on the device in front of you."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.core.bundle import Bundle
    from bench.core.specs import EvaluationSpec, RunSpec
    from bench.jobs.benchmark import Progress


def measure(
    spec: RunSpec | EvaluationSpec,
    folder: Path | str | None = None,
    observe: Callable[[Progress], None] | None = None,
) -> Bundle:
    """Measure what `spec` asks for and return it as a bundle: see `bench.jobs.measure`."""
    from bench.jobs import measure as jobs_measure

    return jobs_measure.measure(spec, folder, observe)
