"""Estimate what a run or an evaluation will take before it starts: time, memory, disk and download."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core import paths
from bench.core.specs import RunSpec, Variant
from bench.core.stats import StopRule
from bench.core.units import duration
from bench.device import cpu
from bench.families import catalogue, family
from bench.jobs.history import History
from bench.jobs.memory import artefact_bytes, build_bytes, build_disk_bytes, longest_pass, open_bytes, to_build
from bench.jobs.predictor import Predictor
from bench.jobs.progress import Clock, Remaining, start_s
from bench.jobs.work import check

DECODE_S = 0.5  # per clip, in a separate process
HEADERS = 20  # clips whose headers are read to estimate how long an evaluation takes


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is expected to take."""

    duration: Remaining
    memory_bytes: int  # the peak that is required; more is used where more is free
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    download_bytes: int

    @property
    def time_text(self) -> str:
        """The duration as a range, for people."""
        return time_text(self.duration)

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


def time_text(remaining: Remaining) -> str:
    """A duration as a range, for people: “2 min when quiet, at most 9 min”."""
    quiet, most = duration(remaining.quiet_s), duration(remaining.most_s)
    return f"about {quiet}" if quiet == most else f"{quiet} when quiet, at most {most}"


def estimate(spec: RunSpec, earlier: History | None = None) -> Estimate:
    """Estimate what a run will take. Raises ModelError, ModeError or SpecError for an unknown name.

    `earlier`: what was measured on this device (`history.of`); speeds that are not in it are guessed.
    """
    check(spec.variants)
    checkpoints = {v.model: catalogue.find(v.model) for v in spec.variants}
    builds = to_build(spec.variants)
    clock = Clock(spec, StopRule(spec.precision_target, spec.repeats), earlier, builds, now=lambda: 0.0)
    opened_bytes = [open_bytes(v, artefact_bytes(v), spec.shapes) for v in spec.variants]
    return Estimate(
        duration=clock.remaining(),
        memory_bytes=max(
            max((build_bytes(v) for v in builds), default=0),
            max(sum(sorted(opened_bytes[i] for i in positions)[-2:]) for positions in spec.comparisons.values()),
        ),
        memory_available_bytes=cpu.available_memory_bytes(),
        disk_bytes=build_disk_bytes(builds),
        disk_free_bytes=shutil.disk_usage(paths.data_folder()).free,
        download_bytes=sum(c.download_bytes for c in checkpoints.values() if not _cached(c)),
    )


def evaluation_s(variants: Sequence[Variant], clips: Sequence[Path], earlier: History | None = None) -> float | None:
    """Estimate an evaluation's seconds from the headers of some clips; None if none of them states a length.

    Raises ModelError for an unknown name.
    """
    sample = clips[:: max(1, len(clips) // HEADERS)]
    lengths_s = [s for path in sample if (s := header_s(path))]
    if not lengths_s:
        return None
    clip_s = sum(lengths_s) / len(lengths_s)
    earlier = earlier or History()
    predictor = Predictor(earlier.measured)
    passes_s = sum(predictor.pass_s(v, 1, clip_s) for v in variants)
    return start_s(variants, to_build(variants), earlier) + len(clips) * (DECODE_S + passes_s)


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


def _cached(checkpoint: family.Checkpoint) -> bool:
    """Whether the checkpoint needs no download."""
    if checkpoint.source != "hub":
        return True
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(checkpoint.where, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )
