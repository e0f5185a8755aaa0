"""Quantization modes: one file a mode. To add one, write a module that satisfies `Mode` and add it to `modes()`.

Modes import their engine inside functions, so that reading this list costs nothing. Their order is the menu's order,
and a mode's place in it is its colour; the first one is the original that all are compared with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from bench.models import Array, Config, Family
from bench.records import Coverage, Setting, Variant, spelled

# OpenVINO and NNCF tell their makers over the network how they are used if this package can be imported: now it can't.
# They do without, and a worker takes 7 MB less.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

Progress = Callable[[str], None]
Labels = npt.NDArray[np.int64]
# (1, samples) float32, prepared as the model wants it; (tokens,) CTC labels of what is said
Clips = Sequence[tuple[Array, Labels]]


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
        wanted = type(self.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is str and type(value) in (int, float):
            value = str(value)
        inside = (
            type(value) is wanted
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


def calibration(clips: int) -> dict[str, Option]:
    """The two settings of every mode that looks at speech while it is built."""
    return {
        "clips": Option(clips, "how many clips are used, 0 for all", 0, 100_000),
        "data": Option("", "folder of the clips (split “calibrate” where it has splits); empty: the shipped ones"),
    }


class Opened(Protocol):
    """A variant opened from its artefact: (batch, samples) float32 -> (batch, frames, vocab) float32."""

    def __call__(self, batch: Array) -> Array:
        """One forward pass."""


class Mode(Protocol):
    """What a mode's module offers."""

    NAME: str  # engine-precision-how, as in torch-int8-dynamic
    LABEL: str
    ENGINE: str
    WEIGHTS: str  # what becomes which precision, for people
    ACTIVATIONS: str
    NEEDS: Needs
    SETTINGS: dict[str, Option]  # what a person may set
    OFFERED: tuple[dict[str, Setting], ...]  # further variants that menus offer, by what they set
    BASE: str  # "": build gets the float module; else the mode whose artefact's folder it gets
    CALIBRATES: bool  # whether it looks at clips while it is built; then SETTINGS has those of `calibration`
    COST: Cost
    STORED_BITS: dict[str, int]  # by part of the network, "" for the rest: to estimate a size before building
    VERSION: int  # grows when what build() writes changes
    CODE: str  # the same in plain lines, after `model` was loaded: shown beside a result
    OPEN_CODE: str  # plain lines that open the artefact in the current folder, see `bench.parcels`

    def check(self) -> str:
        """A remark on how the mode will run here. Raises RuntimeError with the reason if it can't."""

    def build(
        self, model: Any, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
    ) -> dict[str, str]:
        """Write the model's weights into the directory in this mode; returns what was chosen on the way.

        `model` is the float torch module, or the folder of BASE's artefact. `data` are clips to calibrate or to tune
        on, none where the mode does not ask. `settings` has every setting. The configuration files are there already.
        `progress` is called at least every few minutes.
        """

    def open(self, directory: Path, threads: int, family: Family) -> Opened:
        """The artefact as a callable that runs on so many threads. Imports nothing beyond NEEDS.packages."""

    def coverage(self, opened: Any, family: Family, config: Config) -> Coverage:
        """What the opened artefact holds and runs, counted from it and from the engine, not from intentions.

        Called in the process that builds, never in one that is timed: it may import anything.
        """


def modes() -> dict[str, Mode]:
    """All modes by name, in the menu's order."""
    from bench.modes import (
        onnx_fp32,
        onnx_int4,
        onnx_int8_dynamic,
        onnx_int8_static,
        openvino_bf16,
        openvino_fp32,
        openvino_int8_static,
        openvino_int8_weight_only,
        torch_bf16,
        torch_fp32,
        torch_int8_dynamic,
        torch_int8_dynamic_per_channel,
        torch_int8_qat,
        torch_int8_static,
        torchao_int8_dynamic,
        torchao_int8_weight_only,
    )

    order = (
        torch_fp32,
        torch_bf16,
        torch_int8_dynamic,
        torch_int8_dynamic_per_channel,
        torchao_int8_dynamic,
        torchao_int8_weight_only,
        torch_int8_static,
        torch_int8_qat,
        onnx_fp32,
        onnx_int8_dynamic,
        onnx_int8_static,
        onnx_int4,
        openvino_fp32,
        openvino_bf16,
        openvino_int8_weight_only,
        openvino_int8_static,
    )
    return {module.NAME: cast(Mode, module) for module in order}


class ModeError(ValueError):
    """A mode can't be had; the text says what came and what is allowed."""


def find(name: str) -> Mode:
    """The mode of a name. Raises ModeError."""
    known = modes()
    if name not in known:
        raise ModeError(f"There is no mode “{name}”. Allowed: {', '.join(known)}.")
    return known[name]


def check(variant: Variant) -> None:
    """Raises ModeError for a mode or a setting that there is not."""
    complete(find(variant.mode), dict(variant.settings))


def complete(mode: Mode, given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Every setting of a mode, by what was given and by default. Raises ModeError."""
    for name in given:
        if name not in mode.SETTINGS:
            allowed = ", ".join(mode.SETTINGS) or "none: this mode has nothing to set"
            raise ModeError(f"{mode.NAME} has no setting “{name}”. Allowed: {allowed}.")
    return {name: o.read(name, given.get(name, o.default)) for name, o in mode.SETTINGS.items()}


def menu() -> dict[str, str]:
    """What menus offer: every mode as it is, then with what it offers to be set; spelling -> label for people."""
    out = {}
    for name, mode in modes().items():
        out[name] = mode.LABEL
        for given in mode.OFFERED:
            out[spelled(name, given)] = f"{mode.LABEL}, {', '.join(f'{k} = {v}' for k, v in given.items())}"
    return out
