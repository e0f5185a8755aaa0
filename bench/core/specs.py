"""Requests: placements, variants, runs and evaluations, each validated on construction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.core.errors import EarbenchError

Setting = str | int | float | bool
InputKind = Literal["speech", "noise"]

SAMPLE_RATE_HZ = 16_000
MAX_BATCH = 64
MAX_THREADS = 256
MAX_REPEATS = 1000


class SpecError(EarbenchError):
    """A requested run, evaluation or part of one is not valid."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a variant runs, and on how many threads. Written as DEVICE/THREADS: cpu/2."""

    device: str = "cpu"
    threads: int = 1

    @classmethod
    def parse(cls, text: str) -> Placement:
        """The inverse of `str`; a number alone means threads of the CPU. Raises SpecError."""
        device, slash, threads = text.strip().partition("/")
        if not slash:
            device, threads = "cpu", device
        try:
            if not device:
                raise ValueError
            return cls(device, int(threads))
        except ValueError as e:
            raise SpecError(f"Placement: got “{text}”. Allowed: DEVICE/THREADS, such as cpu/2, or a number.") from e

    def __str__(self) -> str:
        return f"{self.device}/{self.threads}"

    @property
    def label(self) -> str:
        """The placement as shown to users."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return threads if self.device == "cpu" else f"{self.device}, {threads}"


@dataclass(frozen=True, slots=True)
class Axis:
    """The meaning of an input's size in a model family: its name, unit and bounds."""

    name: str  # as in a column name: length, side, tokens
    unit: str  # s, px; "" if the name is enough
    label: str  # as shown to users: "Input length"
    low: float
    high: float
    defaults: tuple[float, ...]  # for a first run
    sweep: tuple[float, ...]  # for a run that shows how latency grows

    @property
    def column(self) -> str:
        """The name of the size's column in tables."""
        return f"{self.name}_{self.unit}" if self.unit else self.name

    @property
    def title(self) -> str:
        """Label and unit, as on a chart's axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def plural(self) -> str:
        """The label in the plural."""
        return self.label if self.label.endswith("s") else f"{self.label}s"

    @property
    def units(self) -> str:
        """The unit of sizes as a word in the plural; the name if there is no unit."""
        return {"s": "seconds", "px": "pixels"}.get(self.unit, self.unit or self.name)

    def show(self, size: float) -> str:
        """A size with its unit, or with the axis's name if it has no unit."""
        return f"{size:g} {self.unit or self.name}"


# The axis from before families defined their own.
LENGTH = Axis("length", "s", "Input length", 0.1, 60.0, (1.0, 5.0), (1.0, 2.0, 5.0, 10.0, 20.0))


@dataclass(frozen=True, slots=True)
class Variant:
    """One model in one mode at one placement. The mode implies its engine."""

    model: str
    mode: str
    placement: Placement
    settings: tuple[tuple[str, Setting], ...] = ()  # (name, value) of those that differ from the mode's defaults

    @classmethod
    def parse(cls, model: str, text: str, placement: Placement) -> Variant:
        """Parse a mode as users write it: MODE, or MODE:setting=value:setting=value. Raises SpecError."""
        mode, *parts = text.split(":")
        settings: dict[str, Setting] = {}
        for part in parts:
            name, equals, value = part.partition("=")
            if not (name and equals):
                raise SpecError(f"Mode: got “{text}”. Allowed: MODE, or MODE:setting=value:setting=value.")
            settings[name] = _literal(value)
        return cls(model, mode, placement, tuple(sorted(settings.items())))

    @property
    def spelled(self) -> str:
        """The mode with its settings, as `parse` reads it. Distinguishes variants of the same mode."""
        return spelled(self.mode, dict(self.settings))


Comparison = tuple[str, Placement]  # model and placement, which the variants of one comparison share


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A requested benchmark. The first variant of each model and placement is the baseline."""

    variants: tuple[Variant, ...]
    sizes: tuple[float, ...]  # of inputs, on the axis
    batches: tuple[int, ...] = (1,)
    repeats: int = 10
    precision_target: float = 0.02
    seed: int = 0
    input_kind: InputKind = "speech"
    axis: Axis = LENGTH

    def __post_init__(self) -> None:
        axis = self.axis
        check_each("variants", self.variants, lambda v: isinstance(v, Variant), "at least one model and mode")
        bounds = f"{axis.units} from {axis.low:g} to {axis.high:g}"
        check_each(axis.label.lower(), self.sizes, lambda x: axis.low <= x <= axis.high, bounds)
        check_each("batch sizes", self.batches, whole(1, MAX_BATCH), f"whole numbers from 1 to {MAX_BATCH}")
        check_threads(self.variants)
        check_each("repeats", [self.repeats], whole(2, MAX_REPEATS), f"a whole number from 2 to {MAX_REPEATS}")
        check_each("precision target", [self.precision_target], lambda x: 0.001 <= x <= 1, "a fraction from 0.001 to 1")
        check_each("seed", [self.seed], whole(0, 2**32 - 1), "a whole number from 0 to 2^32 - 1")
        check_each("input", [self.input_kind], lambda x: x in ("speech", "noise"), "speech or noise")

    @classmethod
    def grid(
        cls,
        models: Sequence[str],
        modes: Sequence[str],
        sizes: Iterable[float],
        *,
        batches: Iterable[int] = (1,),
        placements: Iterable[Placement],
        repeats: int = 10,
        precision_target: float = 0.02,
        seed: int = 0,
        input_kind: InputKind = "speech",
        axis: Axis = LENGTH,
    ) -> RunSpec:
        """Every model in every mode at every placement, without duplicates; sizes and batches are sorted.

        Modes are written as `Variant.parse` reads them.
        """
        variants = [Variant.parse(model, mode, p) for model in models for p in placements for mode in modes]
        return cls(
            tuple(dict.fromkeys(variants)),
            tuple(sorted({float(x) for x in sizes})),
            tuple(sorted(set(batches))),
            repeats,
            precision_target,
            seed,
            input_kind,
            axis,
        )

    @property
    def comparisons(self) -> dict[Comparison, list[int]]:
        """Positions of the variants in each comparison, in listed order."""
        out: dict[Comparison, list[int]] = {}
        for i, v in enumerate(self.variants):
            out.setdefault((v.model, v.placement), []).append(i)
        return out

    @property
    def shapes(self) -> list[tuple[int, float]]:
        """(batch, size) of every group of a comparison, shortest first."""
        return sorted(((b, s) for b in self.batches for s in self.sizes), key=lambda x: (x[0] * x[1], x[1]))


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """A requested evaluation: variants and clips. The first variant of each model is the baseline."""

    variants: tuple[Variant, ...]
    dataset: str  # a folder on this device, or a manifest in one; stored as an absolute path
    split: str = "evaluate"
    limit: int = 0  # maximum number of clips, drawn by the seed; 0: all
    seed: int = 0
    normaliser: str = "basic"  # chosen at the start; the stored texts are raw
    digest: str = ""  # of the clips at the start; "" before
    task: str = "transcription"  # defines the type of a prediction and how errors are counted

    def __post_init__(self) -> None:
        check_each("variants", self.variants, lambda v: isinstance(v, Variant), "at least one model and mode")
        check_threads(self.variants)
        check_each("data sets", [self.dataset], bool, "the path of a folder with clips and their texts")
        check_each("clips at most", [self.limit], whole(0, 10**6), "a whole number, 0 for all")
        check_each("seed", [self.seed], whole(0, 2**32 - 1), "a whole number from 0 to 2^32 - 1")

    @property
    def comparisons(self) -> dict[str, list[int]]:
        """Positions of the variants by model, in listed order. Variants of one model are compared."""
        out: dict[str, list[int]] = {}
        for i, v in enumerate(self.variants):
            out.setdefault(v.model, []).append(i)
        return out


def spelled(mode: str, settings: Mapping[str, Setting]) -> str:
    """A mode with settings as text, in the form that `Variant.parse` reads."""
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in sorted(settings.items())}
    return ":".join([mode, *(f"{k}={v}" for k, v in texts.items())])


def _literal(text: str) -> Setting:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, Setting) else text


def whole(low: int, high: int) -> Callable[[Any], bool]:
    """A predicate for whole numbers from `low` to `high`, both included."""
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def check_each(name: str, values: Iterable[Any], good: Callable[[Any], object], allowed: str) -> None:
    """Raise SpecError if there is no value, or if one is not finite or not `good`."""
    items = list(values)
    if not items:
        raise SpecError(f"No {name} given; allowed: {allowed}.")
    for x in items:
        if (isinstance(x, float) and not math.isfinite(x)) or not good(x):
            raise SpecError(f"{name.capitalize()}: got {x}; allowed: {allowed}.")


def check_threads(variants: Iterable[Variant]) -> None:
    """Raise SpecError unless all thread counts are from 1 to MAX_THREADS."""
    threads = [v.placement.threads for v in variants]
    check_each("threads", threads, whole(1, MAX_THREADS), f"whole numbers from 1 to {MAX_THREADS}")
