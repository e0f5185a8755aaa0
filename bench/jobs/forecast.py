"""Estimate what a run will take before it starts: time, memory, disk and download. Figures are approximate."""

from __future__ import annotations

import math
import shutil
import time
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench import modes
from bench.core import paths
from bench.core.specs import Placement, RunSpec, Variant
from bench.core.stats import StopRule
from bench.device import cpu
from bench.families import catalogue, family
from bench.jobs.memory import (
    artefact_bytes,
    build_bytes,
    build_disk_bytes,
    longest_pass,
    open_bytes,
    parameters,
    to_build,
)
from bench.jobs.work import check, work

PASSES_A_VISIT = 5  # the discarded pass, three kept ones, and a share of those that fit into 0.3 s
SHORTEST_VISIT_S = 0.4
DEVICE_SHARE = 0.5  # share of the matrix product's rate that a whole model reaches
BUILD_S_PER_PARAMETER = 1e-7
COMPILE_S = 60.0  # to open a mode that compiles then: less for a few layers, more for twelve and up
DECODE_S = 0.5  # per clip, in a separate process
HEADERS = 20  # clips whose headers are read to estimate how long an evaluation takes


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is expected to take."""

    duration_s: float
    memory_bytes: int  # the peak that is required; more is used where more is free
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    download_bytes: int

    @property
    def refusal(self) -> str | None:
        """Why the run can't fit, and what to do about it; None if it fits."""
        if self.memory_bytes > self.memory_available_bytes:
            return (
                f"This run needs about {self.memory_bytes / 1e9:.1f} GB of memory at once, and "
                f"{self.memory_available_bytes / 1e9:.1f} GB are free. Close other programs, or choose a smaller "
                "model, a shorter length or a smaller batch."
            )
        if self.disk_bytes + self.download_bytes > self.disk_free_bytes:
            return (
                f"This run writes about {(self.disk_bytes + self.download_bytes) / 1e9:.1f} GB, and "
                f"{self.disk_free_bytes / 1e9:.1f} GB are free on {paths.data_folder()}. Make room there, or name "
                "another folder in EARBENCH_DATA."
            )
        return None


def estimate(spec: RunSpec, measured: Mapping[tuple[str, Placement], float] | None = None) -> Estimate:
    """Estimate what a run will take. Raises ModelError, ModeError or SpecError for an unknown name.

    `measured` holds MAC/s by mode and placement from earlier runs (`report.rates`); missing rates are guessed.
    """
    check(spec.variants)
    mac_per_s = {(v.spelled, v.placement): _guess(v.placement) for v in spec.variants} | dict(measured or {})
    rule = StopRule(spec.precision_target, spec.repeats)
    duration_s = 0.0
    for v in spec.variants:
        for batch, size in spec.shapes:
            pass_s = work(v.model, batch, size) / mac_per_s[v.spelled, v.placement]
            kept_passes, visit_s = (
                (1, 2 * pass_s) if pass_s > 2 else (3, max(SHORTEST_VISIT_S, PASSES_A_VISIT * pass_s))
            )
            duration_s += visit_s * max(rule.min_rounds, math.ceil(spec.repeats / kept_passes))
    checkpoints = {v.model: catalogue.find(v.model) for v in spec.variants}
    builds = to_build(spec.variants)
    duration_s += _start_s(spec.variants, builds)
    opened_bytes = [open_bytes(v, artefact_bytes(v), spec.shapes) for v in spec.variants]
    return Estimate(
        duration_s=duration_s,
        memory_bytes=max(
            max((build_bytes(v) for v in builds), default=0),
            max(sum(sorted(opened_bytes[i] for i in positions)[-2:]) for positions in spec.comparisons.values()),
        ),
        memory_available_bytes=cpu.available_memory_bytes(),
        disk_bytes=build_disk_bytes(builds),
        disk_free_bytes=shutil.disk_usage(paths.data_folder()).free,
        download_bytes=sum(c.download_bytes for c in checkpoints.values() if not _cached(c)),
    )


def evaluation_s(
    variants: Sequence[Variant], clips: Sequence[Path], measured: Mapping[tuple[str, Placement], float] | None = None
) -> float | None:
    """Estimate an evaluation's seconds from the headers of some clips; None if none of them states a length.

    Raises ModelError for an unknown name.
    """
    sample = clips[:: max(1, len(clips) // HEADERS)]
    lengths_s = [s for path in sample if (s := header_s(path))]
    if not lengths_s:
        return None
    clip_s = sum(lengths_s) / len(lengths_s)
    mac_per_s = {(v.spelled, v.placement): _guess(v.placement) for v in variants} | dict(measured or {})
    passes_s = sum(work(v.model, 1, clip_s) / mac_per_s[v.spelled, v.placement] for v in variants)
    return _start_s(variants, to_build(variants)) + len(clips) * (DECODE_S + passes_s)


def evaluation_refusal(variants: Sequence[Variant]) -> str | None:
    """Why a variant does not fit into memory even alone, and what to do about it; None if each one fits.

    Variants that fit only one at a time are evaluated one after another. Raises ModelError or ModeError.
    """
    needs = [(build_bytes(v), f"Building {v.spelled}") for v in to_build(variants)]
    needs += [(open_bytes(v, artefact_bytes(v), longest_pass(v.model)), v.spelled) for v in variants]
    need_bytes, subject = max(needs)
    free_bytes = cpu.available_memory_bytes()
    if need_bytes <= free_bytes:
        return None
    return (
        f"{subject} needs about {need_bytes / 1e9:.1f} GB of memory, and {free_bytes / 1e9:.1f} GB are free. "
        "Close other programs, leave it out, or choose a smaller model."
    )


def header_s(path: Path) -> float | None:
    """Seconds that the header of a WAV or FLAC file states; None for other files and broken ones."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
            if head[:4] == b"fLaC":  # STREAMINFO: 20 bits of rate from byte 18, 36 bits of sample count from byte 21.5
                rate_hz = int.from_bytes(head[18:21]) >> 4
                return (int.from_bytes(head[21:26]) & (1 << 36) - 1) / rate_hz
            file.seek(0)
            with wave.open(file) as sound:
                return float(sound.getnframes() / sound.getframerate())
    except (OSError, wave.Error, EOFError, ZeroDivisionError):
        return None


def _start_s(variants: Sequence[Variant], builds: Sequence[Variant]) -> float:
    """Seconds until all variants are open: processes start, and what is not in the cache is built.

    A mode that compiles when it is opened compiles twice if it is built: to count what it quantizes, it is opened too.
    """
    compiled = sum(modes.find(v.mode).SPEC.needs.compiles for v in (*variants, *builds))
    build_s = sum(parameters(v.model) * BUILD_S_PER_PARAMETER for v in builds)
    return 5 * len(variants) + build_s + COMPILE_S * compiled


def _guess(placement: Placement) -> float:
    """A guess of the MAC/s that a float model reaches on a placement."""
    return _product_rate() * DEVICE_SHARE * min(placement.threads, cpu.default_threads())


@lru_cache(maxsize=1)
def _product_rate() -> float:
    """MAC/s of one core in NumPy's float32 matrix product, the best of a few tries."""
    matrix = np.ones((384, 384), dtype=np.float32)
    times_s = []
    for _ in range(8):
        start_s = time.perf_counter()
        matrix @ matrix
        times_s.append(time.perf_counter() - start_s)
    return float(384**3 / min(times_s) / cpu.default_threads())


def _cached(checkpoint: family.Checkpoint) -> bool:
    """Whether the checkpoint needs no download."""
    if checkpoint.source != "hub":
        return True
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(checkpoint.where, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )
