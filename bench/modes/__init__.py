"""Quantization modes: one file a mode. To add one, write a module that satisfies `Mode` and add it to `modes()`.

Modes import their engine inside functions, so that reading this list costs nothing. Their order is the menu's order,
and a mode's place in it is its colour; the first one is the original that all are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bench.models import Array, Config, Family
from bench.records import Coverage, Setting

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]
Clips = Iterable[tuple[Array, str]]  # (samples,) float32 at 16 kHz, and what is said


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a mode can run."""

    packages: tuple[str, ...]
    fast_isa: frozenset[str] = field(default_factory=frozenset)  # without any of these the mode is emulated, and slow


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
    SETTINGS: dict[str, Setting]  # what a person may set, with the defaults
    STORED_BITS: dict[str, int]  # by part of the network, "" for the rest: to estimate a size before building
    VERSION: int  # grows when what build() writes changes
    CODE: str  # the same in plain lines, after `model` was loaded: shown beside a result

    def check(self) -> str:
        """A remark on how the mode will run here. Raises RuntimeError with the reason if it can't."""

    def build(
        self, model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
    ) -> dict[str, str]:
        """Write the float model's weights into the directory in this mode; returns what was chosen on the way.

        `data` are clips to calibrate or to tune on; no mode asks for any yet, so there are none.
        The configuration files are there already. `progress` is called at least every few minutes.
        """

    def open(self, directory: Path, threads: int, family: Family) -> Opened:
        """The artefact as a callable that runs on so many threads."""

    def coverage(self, opened: Any, family: Family, config: Config) -> Coverage:
        """What the opened artefact holds and runs, counted from it and not from intentions."""


def modes() -> dict[str, Mode]:
    """All modes by name, in the menu's order."""
    from bench.modes import onnx_fp32, torch_bf16, torch_fp32, torch_int8_dynamic

    order = (torch_fp32, torch_bf16, torch_int8_dynamic, onnx_fp32)
    return {module.NAME: cast(Mode, module) for module in order}


class ModeError(ValueError):
    """A mode can't be had; the text says what came and what is allowed."""


def find(name: str) -> Mode:
    """The mode of a name. Raises ModeError."""
    known = modes()
    if name not in known:
        raise ModeError(f"There is no mode “{name}”. Allowed: {', '.join(known)}.")
    return known[name]
