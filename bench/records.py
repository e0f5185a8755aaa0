"""The nouns of Earbench: frozen records with units in their names, on the standard library alone.

A value that is not known is None, never 0 or -1. Times are seconds, sizes are bytes, SI throughout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Setting = str | int | float | bool
InputKind = Literal["speech", "noise"]
PassKind = Literal["cold", "discarded", "kept"]
RunState = Literal["preparing", "running", "cancelling", "done", "failed", "cancelled", "interrupted"]
GroupState = Literal["running", "done", "superseded"]

LIVE_STATES: frozenset[str] = frozenset({"preparing", "running", "cancelling"})
RESUMABLE_STATES: frozenset[str] = frozenset({"cancelled", "interrupted"})

SAMPLE_RATE_HZ = 16_000
MAX_LENGTH_S = 60.0
MAX_BATCH = 64
MAX_THREADS = 256
MAX_REPEATS = 1000


class SpecError(ValueError):
    """A run that was asked for can't be written; the text says what came and what is allowed."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model in one mode at one thread count. The mode implies its engine."""

    model: str
    mode: str
    threads: int
    settings: tuple[tuple[str, Setting], ...] = ()  # what differs from the mode's defaults, by name

    @classmethod
    def named(cls, model: str, text: str, threads: int) -> Variant:
        """The variant of a mode as people spell it: MODE, or MODE:setting=value:setting=value. Raises SpecError."""
        mode, *parts = text.split(":")
        found: dict[str, Setting] = {}
        for part in parts:
            name, equals, value = part.partition("=")
            if not (name and equals):
                raise SpecError(f"Mode: got “{text}”. Allowed: MODE, or MODE:setting=value:setting=value.")
            found[name] = _literal(value)
        return cls(model, mode, threads, tuple(sorted(found.items())))

    @property
    def spelled(self) -> str:
        """The mode with its settings, as `named` reads it: how a variant is told from others of its mode."""
        return spelled(self.mode, dict(self.settings))


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What is to be measured. The first variant of a model and thread count is its baseline."""

    variants: tuple[Variant, ...]
    lengths_s: tuple[float, ...]
    batches: tuple[int, ...] = (1,)
    repeats: int = 10
    precision_target: float = 0.02
    seed: int = 0
    input_kind: InputKind = "speech"

    def __post_init__(self) -> None:
        _each("variants", self.variants, lambda v: isinstance(v, Variant), "at least one model and mode")
        _each("lengths", self.lengths_s, lambda x: 0.1 <= x <= MAX_LENGTH_S, f"seconds from 0.1 to {MAX_LENGTH_S:g}")
        _each("batch sizes", self.batches, _whole(1, MAX_BATCH), f"whole numbers from 1 to {MAX_BATCH}")
        threads = [v.threads for v in self.variants]
        _each("threads", threads, _whole(1, MAX_THREADS), f"whole numbers from 1 to {MAX_THREADS}")
        _each("repeats", [self.repeats], _whole(2, MAX_REPEATS), f"a whole number from 2 to {MAX_REPEATS}")
        _each("precision target", [self.precision_target], lambda x: 0.001 <= x <= 1, "a fraction from 0.001 to 1")
        _each("seed", [self.seed], _whole(0, 2**32 - 1), "a whole number from 0 to 2^32 - 1")
        _each("input", [self.input_kind], lambda x: x in ("speech", "noise"), "speech or noise")

    @classmethod
    def grid(
        cls,
        models: Sequence[str],
        modes: Sequence[str],
        lengths_s: Iterable[float],
        *,
        batches: Iterable[int] = (1,),
        threads: Iterable[int],
        repeats: int = 10,
        precision_target: float = 0.02,
        seed: int = 0,
        input_kind: InputKind = "speech",
    ) -> RunSpec:
        """Every model in every mode (as `Variant.named` reads it) at every thread count; doubles are dropped, lengths
        and batches sorted.
        """
        variants = [Variant.named(model, mode, t) for model in models for t in threads for mode in modes]
        return cls(
            tuple(dict.fromkeys(variants)),
            tuple(sorted({float(x) for x in lengths_s})),
            tuple(sorted(set(batches))),
            repeats,
            precision_target,
            seed,
            input_kind,
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_json` for a RunSpec."""
        variants = tuple(_variant(v) for v in d["variants"])
        rest = {k: v for k, v in d.items() if k not in ("variants", "lengths_s", "batches")}
        return cls(variants, tuple(d["lengths_s"]), tuple(d["batches"]), **rest)

    @property
    def families(self) -> dict[tuple[str, int], list[int]]:
        """Positions of the variants that are compared with one another, by (model, threads), in listed order."""
        out: dict[tuple[str, int], list[int]] = {}
        for i, v in enumerate(self.variants):
            out.setdefault((v.model, v.threads), []).append(i)
        return out

    @property
    def shapes(self) -> list[tuple[int, float]]:
        """(batch, length in seconds) of every group of a family, the shortest first."""
        return sorted(((b, s) for b in self.batches for s in self.lengths_s), key=lambda x: (x[0] * x[1], x[1]))


@dataclass(frozen=True, slots=True)
class Pass:
    """One timed forward pass."""

    kind: PassKind
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The device and one worker between two visits. What can't be read here is None."""

    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    pss_bytes: int | None = None
    others_cpu_ratio: float | None = None  # CPU time of all other processes during the visit, of all cores' time
    temperature_c: float | None = None
    clock_hz: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One variant's turn within a round of a group."""

    variant: int  # position in the spec
    round: int
    position: int  # the place in the round's order
    started_s: float  # since the epoch
    passes: tuple[Pass, ...]
    reading: Reading = Reading()

    @property
    def kept_s(self) -> list[float]:
        """Seconds of the passes that count."""
        return [p.seconds for p in self.passes if p.kind == "kept"]


@dataclass(frozen=True, slots=True)
class Group:
    """The interleaved variants of one model and thread count at one batch and length, with their visits."""

    id: int
    model: str
    threads: int
    batch: int
    length_s: float
    variants: tuple[int, ...]  # positions in the spec, the baseline first
    state: GroupState
    ended: str | None = None  # why it ended, in words
    visits: tuple[Visit, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the network at one precision, counted from the opened artefact."""

    name: str
    weight_bits: int | None  # None: the part has no weights
    activation_bits: int
    parameters: int
    macs: int  # of one pass at COVERAGE_LENGTH_S, batch 1
    nodes: int | None = None  # modules or graph nodes that run so


COVERAGE_LENGTH_S = 5.0
LOSS_CURVE = "loss by step"  # the detail of an artefact that was tuned: numbers with spaces between


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is really quantized."""

    parts: tuple[Part, ...]

    def macs_ratio(self, activation_bits: int) -> float | None:
        """Share of the multiply-accumulates that run with activations of so many bits."""
        total = sum(p.macs for p in self.parts)
        return sum(p.macs for p in self.parts if p.activation_bits == activation_bits) / total if total else None

    def parameters_ratio(self, weight_bits: int) -> float | None:
        """Share of the parameters that are stored in so many bits."""
        total = sum(p.parameters for p in self.parts)
        return sum(p.parameters for p in self.parts if p.weight_bits == weight_bits) / total if total else None


@dataclass(frozen=True, slots=True)
class Artefact:
    """A variant on disk."""

    digest: str
    checkpoint: str  # what the weights are: repository and commit, digest of a folder, or architecture and seed
    size_bytes: int  # all files that opening it needs
    build_s: float
    build_peak_rss_bytes: int | None
    from_cache: bool
    details: dict[str, str] = field(default_factory=dict)  # what the builder chose, e.g. the quantized engine
    build_disk_bytes: int | None = None  # the most that building held on disk


@dataclass(frozen=True, slots=True)
class Opening:
    """What it took to open an artefact in a fresh process."""

    start_s: float  # process start and imports
    load_s: float  # files -> callable
    rss_bytes: int | None
    peak_rss_bytes: int | None
    remark: str = ""  # how the mode runs here, e.g. which quantized engine multiplies


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that did not work, kept with the run: the difficulties are results too."""

    variant: int | None
    stage: str  # build, open, or the shape that was measured
    kind: str  # out of memory, killed, hung, unavailable, error
    message: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """A variant of a run with what is known of its artefact."""

    variant: Variant
    artefact: Artefact | None = None
    opening: Opening | None = None
    coverage: Coverage | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A word that a model heard."""

    text: str
    begin_s: float
    end_s: float
    confidence: float  # 0 to 1; what exactly, says the family's decode


@dataclass(frozen=True, slots=True)
class Transcription:
    """What a model heard in one clip."""

    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run was measured."""

    id: str
    name: str
    cpu: str
    cores: int
    isa: tuple[str, ...]
    ram_bytes: int
    os: str
    machine: str
    versions: dict[str, str]
    governor: str | None = None
    virtual: bool | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run's head; groups, variants and failures are read apart."""

    id: str
    created_s: float
    state: RunState
    spec: RunSpec
    device: Device
    message: str | None = None
    started_s: float | None = None
    finished_s: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """Which variants are to transcribe which clips. The first variant of a model is its baseline."""

    variants: tuple[Variant, ...]
    dataset: str  # a folder on this device, or a manifest in one; stored as its whole path
    split: str = "evaluate"
    limit: int = 0  # clips at most, drawn by the seed; 0: all
    seed: int = 0
    normaliser: str = "basic"  # the one that was chosen at the start; what is stored is raw text
    digest: str = ""  # of the clips as they were at the start; "" before

    def __post_init__(self) -> None:
        _each("variants", self.variants, lambda v: isinstance(v, Variant), "at least one model and mode")
        _each("threads", [v.threads for v in self.variants], _whole(1, MAX_THREADS), f"1 to {MAX_THREADS}")
        _each("data sets", [self.dataset], bool, "the path of a folder with clips and their texts")
        _each("clips at most", [self.limit], _whole(0, 10**6), "a whole number, 0 for all")
        _each("seed", [self.seed], _whole(0, 2**32 - 1), "a whole number from 0 to 2^32 - 1")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> EvaluationSpec:
        """The inverse of `to_json` for an EvaluationSpec."""
        return cls(**{**d, "variants": tuple(_variant(v) for v in d["variants"])})

    @property
    def families(self) -> dict[str, list[int]]:
        """Positions of the variants that are compared with one another, by model, in listed order."""
        out: dict[str, list[int]] = {}
        for i, v in enumerate(self.variants):
            out.setdefault(v.model, []).append(i)
        return out


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation's head; what was heard is read apart."""

    id: str
    created_s: float
    state: RunState
    spec: EvaluationSpec
    device: Device
    message: str | None = None
    started_s: float | None = None
    finished_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """A clip of an evaluation: its place in it, what is said, and how long it is once it was decoded."""

    position: int
    id: str
    path: str
    text: str
    length_s: float | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What one variant made of one clip: the raw text, and the seconds of its forward passes alone."""

    variant: int  # position in the spec
    clip: int  # position in the evaluation
    seconds: float
    transcription: Transcription
    paired: bool = True  # timed right before or after the original; not where memory or a resume set them apart


@dataclass(frozen=True, slots=True)
class VariantText:
    """What one variant made of one recording: its text, or the sentence that says why there is none."""

    variant: Variant
    seconds: float | None = None  # of the forward passes alone
    transcription: Transcription | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A recording and what the variants made of it."""

    created_s: float
    source: str  # where the audio came from, for people
    length_s: float
    reference: str  # what was said, if somebody typed it in
    texts: tuple[VariantText, ...]  # the first is what the others are compared with where there is no reference
    audio: str | None = None  # a WAV file, kept only if asked
    id: int | None = None
    device: Device | None = None  # where it was transcribed; None for those of an Earbench that did not keep it


def to_json(record: Any) -> str:
    """A record as JSON, keys in the order of its fields."""
    return json.dumps(asdict(record), ensure_ascii=False)


def coverage_from(d: Mapping[str, Any]) -> Coverage:
    """The inverse of `to_json` for a Coverage."""
    return Coverage(tuple(Part(**p) for p in d["parts"]))


def transcription_from(d: Mapping[str, Any]) -> Transcription:
    """The inverse of `to_json` for a Transcription."""
    return Transcription(d["text"], tuple(Word(**w) for w in d["words"]))


def variant_text_from(d: Mapping[str, Any]) -> VariantText:
    """The inverse of `asdict` for a VariantText."""
    heard = d["transcription"]
    return VariantText(_variant(d["variant"]), d["seconds"], transcription_from(heard) if heard else None, d["error"])


def device_from(d: Mapping[str, Any]) -> Device:
    """The inverse of `to_json` for a Device."""
    return Device(**{**d, "isa": tuple(d["isa"])})


def _variant(d: Mapping[str, Any]) -> Variant:
    return Variant(d["model"], d["mode"], d["threads"], tuple((k, s) for k, s in d.get("settings", ())))


def spelled(mode: str, settings: Mapping[str, Setting]) -> str:
    """A mode with settings as text, the inverse of what `Variant.named` reads."""
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in sorted(settings.items())}
    return ":".join([mode, *(f"{k}={v}" for k, v in texts.items())])


def _literal(text: str) -> Setting:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, Setting) else text


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and low <= x <= high


def _each(name: str, values: Iterable[Any], good: Any, allowed: str) -> None:
    found = list(values)
    if not found:
        raise SpecError(f"No {name} given; allowed: {allowed}.")
    for x in found:
        if (isinstance(x, float) and not math.isfinite(x)) or not good(x):
            raise SpecError(f"{name.capitalize()}: got {x}; allowed: {allowed}.")
