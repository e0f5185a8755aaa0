"""Measurements and predictions: frozen records with units in their field names.

Requests are defined in `bench.core.specs`. An unknown value is None, never 0 or -1. Units are SI; times are in seconds
and sizes in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core.codec import from_plain
from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant

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
    phases: tuple[tuple[str, float], ...] = ()  # (name, seconds), if the family's pass has several


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of the device and of one worker between two visits. None: can't be read on this device."""

    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    pss_bytes: int | None = None
    others_cpu_ratio: float | None = None  # CPU time of all other processes during the visit / CPU time of all cores
    temperature_c: float | None = None
    clock_hz: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One variant's turn within a round of a group."""

    variant: int  # position in the spec
    round: int
    position: int  # place in the round's order
    started_s: float  # since the epoch
    passes: tuple[Pass, ...]
    reading: Reading = Reading()

    @property
    def kept_s(self) -> list[float]:
        """Seconds of the kept passes."""
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
    ended: str | None = None  # why it ended, as text
    visits: tuple[Visit, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the network at one precision, as counted in the opened artefact."""

    name: str
    weight_bits: int | None  # None: the part has no weights
    activation_bits: int
    parameters: int
    macs: int  # of one pass at batch 1, at the size that the family uses for counting
    nodes: int | None = None  # modules or graph nodes that run at this precision


LOSS_CURVE = "loss by step"  # key in `Artefact.details` of a tuned artefact; the value is numbers separated by spaces


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is really quantized in an artefact."""

    parts: tuple[Part, ...]

    def macs_ratio(self, activation_bits: int) -> float | None:
        """Share of the MACs that run with activations of this bit width; None if there are no MACs."""
        total = sum(p.macs for p in self.parts)
        return sum(p.macs for p in self.parts if p.activation_bits == activation_bits) / total if total else None

    def parameters_ratio(self, weight_bits: int) -> float | None:
        """Share of the parameters that are stored at this bit width; None if there are no parameters."""
        total = sum(p.parameters for p in self.parts)
        return sum(p.parameters for p in self.parts if p.weight_bits == weight_bits) / total if total else None


@dataclass(frozen=True, slots=True)
class Artefact:
    """A variant on disk, with what building it took."""

    digest: str
    checkpoint: str  # identity of the weights: repository and commit, digest of a folder, or architecture and seed
    size_bytes: int  # of all files that are needed to open it
    build_s: float
    build_peak_rss_bytes: int | None
    from_cache: bool
    details: dict[str, str] = field(default_factory=dict)  # choices made by the builder, e.g. the quantized engine
    build_disk_bytes: int | None = None  # peak disk use of the build


@dataclass(frozen=True, slots=True)
class Opening:
    """Time and memory of opening an artefact in a fresh process."""

    start_s: float  # process start and imports
    load_s: float  # files -> callable
    rss_bytes: int | None
    peak_rss_bytes: int | None
    remark: str = ""  # how the mode runs on this device, e.g. which quantized engine is used


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, stored with the run: failures are results too."""

    variant: int | None
    stage: str  # build, open, or the measured shape
    kind: str  # out of memory, killed, hung, unavailable, error
    message: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """A variant of a run, with its artefact, opening and coverage once they exist."""

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
    confidence: float  # 0 to 1; the family defines its meaning


@dataclass(frozen=True, slots=True)
class Transcription:
    """The transcribed text of one clip, and its words with their times."""

    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """The device on which a run was measured."""

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
    """A run without its groups, variants and failures, which are read separately."""

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
    """An evaluation without its predictions, which are read separately."""

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
    """A clip of an evaluation: its position, its reference text, and its length once it was decoded."""

    position: int
    id: str
    path: str
    text: str
    length_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One variant's output for one clip, and the seconds of its forward passes alone."""

    variant: int  # position in the spec
    clip: int  # position in the evaluation
    seconds: float
    output: Any  # of the type that the evaluation's task defines, such as a Transcription
    paired: bool = True  # timed right before or after the original; False if memory limits or a resume separated them


@dataclass(frozen=True, slots=True)
class VariantText:
    """One variant's transcription of a recording, or an error sentence that says why there is none."""

    variant: Variant
    seconds: float | None = None  # of the forward passes alone
    transcription: Transcription | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A recording and the variants' transcriptions of it."""

    created_s: float
    source: str  # where the audio came from, as shown to users
    length_s: float
    reference: str  # the reference text, if a user entered one
    texts: tuple[VariantText, ...]  # if there is no reference, the others are compared with the first
    audio: str | None = None  # a WAV file, kept only on request
    id: int | None = None
    device: Device | None = None  # where it was transcribed; None if stored by an Earbench that did not record it


def coverage_from(value: Any) -> Coverage:
    """A Coverage from its parsed JSON. Raises RecordError."""
    return from_plain(value, Coverage)


def transcription_from(value: Any) -> Transcription:
    """A Transcription from its parsed JSON. Raises RecordError."""
    return from_plain(value, Transcription)
