"""What a mode offers, and what describes it."""

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
Exercise = Callable[[Mapping[str, Opened]], None]  # runs one short pass through opened networks


class ModeError(EarbenchError):
    """A mode can't be had."""


@dataclass(frozen=True, slots=True)
class Precision:
    """What a mode does to weights or activations."""

    bits: int  # of those that it quantizes; 32: of all
    text: str  # for people: what becomes which precision


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a mode can run."""

    packages: tuple[str, ...]  # to open and run
    fast_isa: frozenset[str] = field(default_factory=frozenset)  # without any of these the mode is emulated, and slow
    build_packages: tuple[str, ...] = ()  # further ones to build
    compiles: bool = False  # when it is opened and at the first pass of a shape: that may take minutes


@dataclass(frozen=True, slots=True)
class Option:
    """Something that a person may set: its default, what it does, and what is allowed."""

    default: Setting
    help: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[Setting, ...] = ()

    def read(self, name: str, value: Setting) -> Setting:
        """The value in the default's type. Raises ModeError."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if kind is str and type(value) in (int, float):
            value = str(value)
        inside = (
            type(value) is kind
            and (self.low is None or float(value) >= self.low)
            and (self.high is None or float(value) <= self.high)
            and (not self.allowed or value in self.allowed)
        )
        if not inside:
            raise ModeError(f"Setting {name}: got {value!r}; allowed: {self.range}.")
        return value

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.allowed:
            return ", ".join(map(str, self.allowed))
        kind = {int: "whole numbers", float: "numbers", bool: "true or false", str: "a text"}[type(self.default)]
        if self.low is not None and self.high is not None:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return kind if self.low is None else f"{kind} from {self.low:g}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What building takes, as measured: so many bytes and so many times the float32 weights."""

    memory_bytes: int
    memory_copies: float  # the peak of resident memory is memory_bytes and so many times the weights
    disk_copies: float  # while it is built, what is left included


def calibration(examples: int) -> dict[str, Option]:
    """The two settings of every mode that looks at real examples while it is built."""
    return {
        "clips": Option(examples, "how many clips are used, 0 for all", 0, 100_000),
        "data": Option("", "folder of the clips (split “calibrate” where it has splits); empty: the shipped ones"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSpec:
    """Everything that describes a mode. What is not said has its usual value."""

    name: str  # by which people ask for it; nothing parses it
    label: str
    engine: str
    weights: Precision
    activations: Precision
    needs: Needs
    cost: Cost
    stores: Mapping[Kind | Literal[""], int]  # bits by the kind of module, "" for the rest: the size before building
    settings: Mapping[str, Option] = field(default_factory=dict)  # what a person may set
    offered: tuple[dict[str, Setting], ...] = ()  # further variants that menus offer, by what they set
    base: str = ""  # "": `build` gets the float modules; else the mode whose artefact's folder it gets
    data: Literal["", "examples", "targets"] = (
        ""  # what it looks at while it is built; then it has `calibration`'s settings
    )
    float_reference: str = ""  # the engine's own fp32 mode, whose speed-up is the engine's share; "": there is none
    min_snr_db: float = 0.0  # of a trained model's outputs against the original's: what is less differs
    min_random_snr_db: float = 0.0  # the same of a small random network, whose frames differ by little
    first: bool = False  # among those that menus begin with
    version: int = 1  # grows when what `build` writes changes
    code: str = ""  # the same in plain lines, after `model` was loaded: shown beside a result
    open_code: str = ""  # plain lines that open the artefact in the current folder, see `bench.artefacts.transfer`


@dataclass(frozen=True, slots=True)
class Data:
    """Real examples for modes that look at them.

    `examples`: prepared inputs, and the target as the family's loss wants it. `feeds`: by network, what it was fed
    while the float model ran the examples, its state included.
    """

    examples: Sequence[tuple[Feed, Any]] = ()
    feeds: Mapping[str, Sequence[Feed]] = field(default_factory=dict)


class Mode(ABC):
    """A way to quantize and run a model. One file each, with a `MODE`; engines have base classes that do most of it."""

    SPEC: ModeSpec

    @property
    def name(self) -> str:
        """By which people ask for it."""
        return self.SPEC.name

    def check(self) -> str:
        """A remark on how the mode will run here. Raises RuntimeError with the reason if it can't."""
        return ""

    def supports(self, family: Family, config: Config) -> str:
        """Why the mode can't be had of such a model; "" if it can."""
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
        """Write the model's weights into the folder `out` in this mode; returns what was chosen on the way.

        `source` are the float modules by network, or the folder of the base's artefact. `data` is empty where the mode
        does not ask for it. `settings` has every setting. The files that the family describes are there already.
        `progress` is called at least every few minutes.
        """

    @abstractmethod
    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, Opened]:
        """The networks of an artefact, by name. Imports nothing beyond what the mode needs to open."""

    @abstractmethod
    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """What the opened artefact holds and runs, counted from it and from the engine, not from intentions.

        Called in the process that builds, never in one that is timed: it may import anything.
        """


def several_networks(family: Family, config: Config) -> str:
    """The reason of modes that take models of one network without a state; "" for such a model."""
    networks = family.networks(config)
    if len(networks) == 1 and not networks[0].state:
        return ""
    return f"it takes models of one network without a state, and {family.NAME} has {len(networks)}"
