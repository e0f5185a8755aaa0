"""The base class of modes, and the records that describe a mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import EarbenchError
from bench.core.records import Coverage
from bench.core.specs import Placement, Setting
from bench.families.family import Config, Family
from bench.families.network import Feed, Kind, Network, Profile
from bench.families.session import Opened

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]
Exercise = Callable[[Mapping[str, Opened]], None]  # runs one short pass with opened networks


class ModeError(EarbenchError):
    """A mode is unknown, unsupported or can't be built."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision that a mode gives to weights or activations."""

    bits: int  # of the quantized ones; 32 if none is quantized
    text: str  # for people: which parts have which precision


@dataclass(frozen=True, slots=True)
class Needs:
    """What a mode requires to run and to be built."""

    packages: tuple[str, ...]  # for opening and running
    fast_isa: frozenset[str] = field(default_factory=frozenset)  # if none is present, the mode is emulated and slow
    build_packages: tuple[str, ...] = ()  # additional ones for building
    compiles: bool = False  # compiles at opening and at the first pass of a shape, which may take minutes


@dataclass(frozen=True, slots=True)
class Option:
    """A setting that users can change: its default, its help text, and its allowed values."""

    default: Setting
    help: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[Setting, ...] = ()

    def read(self, name: str, value: Setting) -> Setting:
        """Return the value, converted to the default's type. Raises ModeError if it is not allowed."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if kind is str and type(value) in (int, float):
            value = str(value)
        valid = (
            type(value) is kind
            and (self.low is None or float(value) >= self.low)
            and (self.high is None or float(value) <= self.high)
            and (not self.allowed or value in self.allowed)
        )
        if not valid:
            raise ModeError(f"Setting {name}: got {value!r}; allowed: {self.range}.")
        return value

    @property
    def range(self) -> str:
        """The allowed values, in words."""
        if self.allowed:
            return ", ".join(map(str, self.allowed))
        kind = {int: "whole numbers", float: "numbers", bool: "true or false", str: "a text"}[type(self.default)]
        if self.low is not None and self.high is not None:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return kind if self.low is None else f"{kind} from {self.low:g}"


@dataclass(frozen=True, slots=True)
class Cost:
    """The measured cost of building, in bytes and in multiples of the float32 weights' size."""

    memory_bytes: int
    memory_copies: float  # the peak resident memory is memory_bytes + memory_copies * the weights' size
    disk_copies: float  # peak disk space during the build, the artefact included


def calibration(examples: int) -> dict[str, Option]:
    """Return the two settings of every mode that uses real examples during the build."""
    return {
        "clips": Option(examples, "how many clips are used, 0 for all", 0, 100_000),
        "data": Option("", "folder of the clips (split “calibrate” where it has splits); empty: the shipped ones"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSpec:
    """The description of a mode."""

    name: str  # unique identifier for users; never parsed
    label: str
    engine: str
    weights: Precision
    activations: Precision
    needs: Needs
    cost: Cost
    stores: Mapping[Kind | Literal[""], int]  # bits by kind of module, "" for the rest: predicts the size
    settings: Mapping[str, Option] = field(default_factory=dict)  # what users can change
    offered: tuple[dict[str, Setting], ...] = ()  # settings of further variants that menus offer
    base: str = ""  # the mode whose artefact's folder `build` gets; "": `build` gets the float modules
    data: Literal["", "examples", "targets"] = (
        ""  # what it needs during the build; if set, it has the settings of `calibration`
    )
    float_reference: str = ""  # the engine's fp32 mode, whose speed-up is the engine's share; "": none
    min_snr_db: float = 0.0  # a trained model's outputs *differ* below this SNR against the original's
    min_random_snr_db: float = 0.0  # the same for a small random network, whose frames differ little
    first: bool = False  # selected by default in menus
    version: int = 1  # increment when the output of `build` changes
    code: str = ""  # plain code that quantizes a loaded `model`, shown beside a result; $NAME stands for a setting
    code_differs: str = ""  # why `code` can't give the artefact's outputs; "": it gives the same
    open_code: str = ""  # plain code that opens the artefact in the current folder, see `bench.artefacts.transfer`


@dataclass(frozen=True, slots=True)
class Data:
    """Real examples for modes that use them during the build.

    `examples`: pairs of prepared inputs and the target in the form of the family's loss. `feeds`: by network, its feeds
    while the float model ran the examples, state included.
    """

    examples: Sequence[tuple[Feed, Any]] = ()
    feeds: Mapping[str, Sequence[Feed]] = field(default_factory=dict)


class Mode(ABC):
    """A way to quantize and run a model. One file each, with a `MODE`; each engine has a base class for most of it."""

    SPEC: ModeSpec

    @property
    def name(self) -> str:
        """The mode's unique name."""
        return self.SPEC.name

    def check(self) -> str:
        """Return a remark on how the mode runs on this device. Raises RuntimeError with the reason if it can't run."""
        return ""

    def supports(self, family: Family, config: Config) -> str:
        """Return the reason why the mode does not support such a model; "" if it does."""
        return ""

    @abstractmethod
    def build(
        self,
        source: Mapping[str, nn.Module] | Path,
        family: Family,
        data: Data,
        settings: Mapping[str, Setting],
        out: Path,
        progress: Progress,
    ) -> dict[str, str]:
        """Quantize the model and write its weights into the folder `out`; return details of the build.

        `source` holds the float modules by network, or is the folder of the base's artefact. `data` is empty if the
        mode does not need it. `settings` has every setting. `out` already contains the files of `Family.describe`.
        `progress` is called at least every few minutes.
        """

    @abstractmethod
    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, Opened]:
        """Open the networks of an artefact, by name. Imports only the packages that opening needs."""

    @abstractmethod
    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """Count what the opened artefact stores and runs, from the artefact and the engine, not from the mode's intent.

        Called in the process that builds, never in one that is timed, so it may import anything.
        """


def several_networks(family: Family, config: Config) -> str:
    """Return why a mode for models of one network without state does not support a model; "" if it does."""
    networks = family.networks(config)
    if len(networks) == 1 and not networks[0].state:
        return ""
    return f"it takes models of one network without a state, and {family.NAME} has {len(networks)}"
