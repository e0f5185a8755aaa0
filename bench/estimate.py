"""What a run will take, told before it starts: time, memory, disk and download. Figures are about right, not exact."""

from __future__ import annotations

import math
import shutil
import time
import wave
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench import artefacts, device, longform, models, modes, paths
from bench.records import SAMPLE_RATE_HZ, RunSpec, Variant
from bench.stats import StopRule

ENGINE_BYTES = 450_000_000  # a worker with torch and transformers imported
COMPILER_BYTES = 500_000_000  # what compiling leaves in the worker that does it
PASSES_A_VISIT = 5  # the discarded one, three kept ones, and a share of what 0.3 s hold
SHORTEST_VISIT_S = 0.4
DEVICE_SHARE = 0.5  # of the matrix product's rate that a whole model reaches
BUILD_S_PER_PARAMETER = 1e-7
COMPILE_S = 60.0  # to open what is compiled then: less for a few layers, more for twelve and up
DECODE_S = 0.5  # of a clip, in a process of its own
LONGEST_PASS = ((1, longform.CHUNK_S),)  # of speech: longer audio is passed in chunks
HEADERS = 20  # clips that are looked at to tell how long an evaluation takes


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take."""

    duration_s: float
    memory_bytes: int  # the most that is needed at once; more is used where there is more
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    download_bytes: int

    @property
    def refusal(self) -> str | None:
        """Why the run can't fit, with a way out; None if it can."""
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


def estimate(spec: RunSpec, measured: Mapping[tuple[str, int], float] | None = None) -> Estimate:
    """What a run will take. Raises ModelError or ModeError for a name that is not known.

    `measured` has MAC/s by mode and threads from earlier runs (`report.rates`); what it lacks is guessed.
    """
    for v in spec.variants:
        modes.check(v)
    rate = {(v.spelled, v.threads): _guess(v.threads) for v in spec.variants} | dict(measured or {})
    rule = StopRule(spec.precision_target, spec.repeats)
    duration = 0.0
    for v in spec.variants:
        for batch, length_s in spec.shapes:
            pass_s = work(v.model, batch, length_s) / rate[v.spelled, v.threads]
            kept, visit_s = (1, 2 * pass_s) if pass_s > 2 else (3, max(SHORTEST_VISIT_S, PASSES_A_VISIT * pass_s))
            duration += visit_s * max(rule.min_rounds, math.ceil(spec.repeats / kept))
    checkpoints = {v.model: models.find(v.model) for v in spec.variants}
    builds = to_build(spec.variants)
    duration += _start_s(spec.variants, builds)
    opened = [open_bytes(v, artefact_bytes(v), spec.shapes) for v in spec.variants]
    return Estimate(
        duration_s=duration,
        memory_bytes=max(
            max((build_bytes(v) for v in builds), default=0),
            max(sum(sorted(opened[i] for i in f)[-2:]) for f in spec.families.values()),
        ),
        memory_available_bytes=device.available_memory_bytes(),
        disk_bytes=build_disk_bytes(builds),
        disk_free_bytes=shutil.disk_usage(paths.data_folder()).free,
        download_bytes=sum(c.download_bytes for c in checkpoints.values() if not _cached(c)),
    )


def evaluation_s(
    variants: Sequence[Variant], clips: Sequence[Path], measured: Mapping[tuple[str, int], float] | None = None
) -> float | None:
    """Seconds that an evaluation will take, from the headers of some clips; None where they don't tell a length.

    Raises ModelError for a name that is not known.
    """
    some = clips[:: max(1, len(clips) // HEADERS)]
    lengths_s = [s for path in some if (s := header_s(path))]
    if not lengths_s:
        return None
    clip_s = sum(lengths_s) / len(lengths_s)
    rate = {(v.spelled, v.threads): _guess(v.threads) for v in variants} | dict(measured or {})
    passes = sum(work(v.model, 1, clip_s) / rate[v.spelled, v.threads] for v in variants)
    return _start_s(variants, to_build(variants)) + len(clips) * (DECODE_S + passes)


def evaluation_refusal(variants: Sequence[Variant]) -> str | None:
    """Why not even one variant at a time fits into memory, with a way out; None if they do.

    Where they fit only one by one, they are heard one after another. Raises ModelError or ModeError.
    """
    needs = [(build_bytes(v), f"Building {v.spelled}") for v in to_build(variants)]
    needs += [(open_bytes(v, artefact_bytes(v), LONGEST_PASS), v.spelled) for v in variants]
    need, what = max(needs)
    free = device.available_memory_bytes()
    if need <= free:
        return None
    return (
        f"{what} needs about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Close other programs, "
        "leave it out, or choose a smaller model."
    )


def header_s(path: Path) -> float | None:
    """How long a WAV or FLAC file says it is; None for other files and broken ones."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
            if head[:4] == b"fLaC":  # STREAMINFO: 20 bits of rate from byte 18 on, 36 bits of samples at byte 21.5
                rate_hz = int.from_bytes(head[18:21]) >> 4
                return (int.from_bytes(head[21:26]) & (1 << 36) - 1) / rate_hz
            file.seek(0)
            with wave.open(file) as sound:
                return float(sound.getnframes() / sound.getframerate())
    except (OSError, wave.Error, EOFError, ZeroDivisionError):
        return None


def work(model: str, batch: int, length_s: float) -> int:
    """Multiply-accumulates of one pass."""
    checkpoint = models.find(model)
    macs = models.family(checkpoint).macs(checkpoint.config, round(length_s * SAMPLE_RATE_HZ))
    return batch * sum(macs.values())


def artefact_bytes(variant: Variant) -> int:
    """Size on disk, from the parameters and the bits that the mode stores."""
    checkpoint, mode = models.find(variant.model), modes.find(variant.mode)
    parts = models.family(checkpoint).parameters(checkpoint.config)
    return sum(n * mode.STORED_BITS.get(part, mode.STORED_BITS[""]) // 8 for part, n in parts.items())


def to_build(variants: Iterable[Variant]) -> list[Variant]:
    """What has to be built for these variants, and for what they are built from: all that is not in the cache."""
    found: dict[tuple[str, str], Variant] = {}
    for v in variants:
        if artefacts.at_hand(v.model, v.mode, dict(v.settings)):
            continue
        found.setdefault((v.model, v.spelled), v)
        if base := modes.find(v.mode).BASE:
            for needed in to_build([Variant(v.model, base, v.threads)]):
                found.setdefault((needed.model, needed.spelled), needed)
    return list(found.values())


def build_bytes(variant: Variant) -> int:
    """Memory that building an artefact takes at its peak; one is built at a time, in a process of its own."""
    return artefacts.build_bytes(modes.find(variant.mode), 4 * _parameters(variant.model))


def build_disk_bytes(variants: Sequence[Variant]) -> int:
    """Disk that building them one after another takes at its peak: what is left of each, and scraps of the largest."""
    left = {v: artefact_bytes(v) for v in variants}
    at_most = {v: round(modes.find(v.mode).COST.disk_copies * 4 * _parameters(v.model)) for v in variants}
    return sum(left.values()) + max((max(0, at_most[v] - left[v]) for v in variants), default=0)


def _start_s(variants: Sequence[Variant], builds: Sequence[Variant]) -> float:
    """Seconds until all are open: processes start, and what is not in the cache is built.

    What is compiled when it is opened is so twice if it is built: to count what it quantizes it is opened too.
    """
    compiled = sum(modes.find(v.mode).NEEDS.compiles for v in (*variants, *builds))
    building = sum(_parameters(v.model) * BUILD_S_PER_PARAMETER for v in builds)
    return 5 * len(variants) + building + COMPILE_S * compiled


def open_bytes(v: Variant, size_bytes: int, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of a worker with an artefact of this size opened, and the largest of some passes."""
    compiler = COMPILER_BYTES if modes.find(v.mode).NEEDS.compiles else 0
    return ENGINE_BYTES + compiler + round(1.1 * size_bytes) + pass_bytes(v.model, shapes)


def pass_bytes(model: str, shapes: Iterable[tuple[int, float]]) -> int:
    """Memory of the largest of some passes, (batch, length in seconds), beside the weights."""
    checkpoint = models.find(model)
    family = models.family(checkpoint)
    return max(b * family.activation_bytes(checkpoint.config, round(s * SAMPLE_RATE_HZ)) for b, s in shapes)


def _parameters(model: str) -> int:
    checkpoint = models.find(model)
    return sum(models.family(checkpoint).parameters(checkpoint.config).values())


def _guess(threads: int) -> float:
    """MAC/s that a float model may reach with so many threads."""
    return _product_rate() * DEVICE_SHARE * min(threads, device.default_threads())


@lru_cache(maxsize=1)
def _product_rate() -> float:
    """MAC/s of one core in NumPy's float32 matrix product, the best of a few tries."""
    a = np.ones((384, 384), dtype=np.float32)
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begun)
    return float(384**3 / min(times) / device.default_threads())


def _cached(checkpoint: models.Checkpoint) -> bool:
    """Whether nothing needs to be downloaded."""
    if checkpoint.source != "hub":
        return True
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(checkpoint.where, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )
