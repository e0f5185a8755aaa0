"""What is measured and predicted: frozen records with units in their names, on the standard library alone.

What is asked for stands in `bench.core.specs`. A value that is not known is None, never 0 or -1. Times are seconds,
sizes are bytes, SI throughout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant, variant_from

PassKind = Literal["cold", "discarded", "kept"]
RunState = Literal["preparing", "running", "cancelling", "done", "failed", "cancelled", "interrupted"]
GroupState = Literal["running", "done", "superseded"]

LIVE_STATES: frozenset[str] = frozenset({"preparing", "running", "cancelling"})
RESUMABLE_STATES: frozenset[str] = frozenset({"cancelled", "interrupted"})


@dataclass(frozen=True, slots=True)
class Pass:
    """One timed forward pass."""

    kind: PassKind
    seconds: float
    phases: tuple[tuple[str, float], ...] = ()  # seconds of its phases by name, where the family has several


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
    """The interleaved variants of one model and placement at one batch and size, with their visits."""

    id: int
    model: str
    placement: Placement
    batch: int
    size: float
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
    macs: int  # of one pass at batch 1, at the size for which the family counts it
    nodes: int | None = None  # modules or graph nodes that run so


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
    """A word of a transcription."""

    text: str
    begin_s: float
    end_s: float
    confidence: float  # 0 to 1; what exactly, says the family


@dataclass(frozen=True, slots=True)
class Transcription:
    """The text of one clip, and its words with their times."""

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
class Evaluation:
    """An evaluation's head; predictions are read apart."""

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
class Prediction:
    """What one variant made of one clip, and the seconds of its forward passes alone."""

    variant: int  # position in the spec
    clip: int  # position in the evaluation
    seconds: float
    output: Any  # what the evaluation's task says a prediction is, such as a Transcription
    paired: bool = True  # timed right before or after the original; not where memory or a resume set them apart


@dataclass(frozen=True, slots=True)
class VariantText:
    """One variant's transcription of a recording, or the sentence that says why there is none."""

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
    transcription = transcription_from(d["transcription"]) if d["transcription"] else None
    return VariantText(variant_from(d["variant"]), d["seconds"], transcription, d["error"])


def device_from(d: Mapping[str, Any]) -> Device:
    """The inverse of `to_json` for a Device."""
    return Device(**{**d, "isa": tuple(d["isa"])})
