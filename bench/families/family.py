"""The base class of model families, and their checkpoints."""

from __future__ import annotations

import importlib
import json
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bench.core.errors import EarbenchError
from bench.core.specs import Axis, InputKind
from bench.families.network import Feed, Mark, Network, Profile, Steps, Stop
from bench.families.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.families.session import Opened

Progress = Callable[[str], None]
Config = Mapping[str, Any]  # a model's `config.json`
Files = Mapping[str, Any]  # an artefact's files other than weights, by name: parsed JSON, else bytes
Array = npt.NDArray[np.float32]
CONFIG_FILE = "config.json"


class ModelError(EarbenchError):
    """A model is missing, invalid or unsupported."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that can be selected by name: trained weights, or an architecture with random weights."""

    name: str
    label: str
    family: str
    source: Literal["random", "hub", "folder", "imported"]
    where: str  # architecture, repository or folder; if imported, the identity of its weights
    note: str
    config: Config
    download_bytes: int = 0
    showcase: bool = False  # large enough for quantization to pay, and needs no download: for a first benchmark


@dataclass(frozen=True, slots=True)
class Support:
    """The kind of `config.json` that a family opens, and the files that must be beside it."""

    model_type: str
    architecture: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"a {self.architecture} in Hugging Face format ({', '.join((CONFIG_FILE, *self.files))})"


class Family(ABC):
    """One family of models. Uses NumPy alone, except in `load`, `skeleton` and `loss`, which import PyTorch."""

    NAME: ClassVar[str]
    TASK: ClassVar[Task]
    AXIS: ClassVar[Axis]  # the meaning and unit of an input's size
    CHECKPOINTS: Sequence[Checkpoint] = ()
    SUPPORTS: ClassVar[tuple[Support, ...]] = ()
    FILES: ClassVar[tuple[str, ...]] = (CONFIG_FILE,)  # the files of `describe`; always with the configuration
    BOUNDS: ClassVar[Mapping[str, tuple[int, int]]] = {}  # (minimum, maximum) of each number in a configuration
    DYNAMIC_TYPES: ClassVar[tuple[str, ...]] = ("Linear",)  # torch.nn types that dynamic modes quantize
    TORCH_MODULES: ClassVar[tuple[str, ...]] = ()  # what `skeleton` imports besides torch
    TORCH_OPTIONAL: ClassVar[tuple[str, ...]] = ()  # packages that those import if installed, and no pass needs
    COVERAGE_SIZE: ClassVar[float]  # the size at which *What is quantized* counts multiply-accumulates (MACs)
    LONGEST_SIZE: ClassVar[float]  # of one pass over a real example; longer ones are cut
    CALIBRATION_SIZE: ClassVar[float] = float("inf")  # static modes calibrate on at most this much of an example
    SKELETON_CODE: ClassVar[str] = ""  # plain code that makes `model`, without weights, from an artefact's folder
    RUN_CODE: ClassVar[str] = ""  # plain code that uses `forward`, which SKELETON_CODE or the mode defines

    # --- checkpoints

    def open_folder(self, folder: Path, config: Config) -> Checkpoint:
        """Return the checkpoint of a local folder. Raises ModelError if something is missing."""
        raise ModelError(f"{folder} can't be opened: {self.NAME} models are not read from folders.")

    @abstractmethod
    def identity(self, checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
        """Return (the weights' permanent identity: commit, digest or seed; their folder). Downloads if necessary."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, nn.Module]:
        """Return the float modules by network, in evaluation mode, ready to be quantized or saved."""

    @abstractmethod
    def describe(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, bytes]:
        """Return the contents of FILES, which an artefact stores beside the weights."""

    @abstractmethod
    def skeleton(self, directory: Path) -> dict[str, nn.Module]:
        """Build the modules without weights (on torch's meta device) from an artefact's files."""

    def import_torch(self) -> None:
        """Import torch and TORCH_MODULES in a worker that only opens artefacts, without TORCH_OPTIONAL.

        It takes seconds and is not load time. Python takes a module that is None for one that is not installed.
        """
        importlib.import_module("torch")
        hidden = [name for name in self.TORCH_OPTIONAL if name not in sys.modules]
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
        try:
            for name in self.TORCH_MODULES:
                importlib.import_module(name)
        finally:
            for name in hidden:
                del sys.modules[name]

    def code(self, checkpoint: Checkpoint) -> str:
        """Return plain code that loads the float model as `model`, for people to copy; "" if that is not possible."""
        return ""

    def example_code(self, size: float, batch: int) -> str:
        """Return a line of plain code that makes `audio`, the input of `model` for a pass of this size."""
        return ""

    # --- networks

    @abstractmethod
    def networks(self, config: Config) -> tuple[Network, ...]:
        """Return the networks in the order in which they first run."""

    @abstractmethod
    def profile(self, config: Config, size: float) -> Profile:
        """Return the compute and memory costs of one pass of this size at batch 1."""

    # --- passes

    @abstractmethod
    def inputs(self, size: float, batch: int, seed: int, kind: InputKind, files: Files) -> Feed:
        """Return the inputs of a timed pass of this size; deterministic for the same arguments."""

    @abstractmethod
    def prepare(self, example: Any, files: Files) -> Feed:
        """Return the inputs of a pass over a real clip, image or sentence."""

    def size(self, feed: Feed) -> float:
        """Return the size of prepared inputs on the family's axis."""
        return 0.0

    def crop(self, feed: Feed, size: float) -> Feed:
        """Return the beginning of prepared inputs, cut to at most this size."""
        return feed

    def steps(self, config: Config, size: float) -> Steps:
        """Return the fixed work of a timed pass of this size."""
        return Steps()

    @abstractmethod
    def run(self, networks: Mapping[str, Opened], feed: Feed, files: Files, stop: Stop, mark: Mark) -> Feed:
        """Run one pass and return its outputs: with `Steps` fixed work for timing, with `UntilEnd` a whole example.

        If a pass has several phases, `mark` is called with a phase's name when the phase ends.
        """

    @abstractmethod
    def predict(self, outputs: Feed, files: Files) -> Any:
        """Return the task's prediction from the outputs of `run` for one example. Raises ModelError."""

    # --- tuning

    def encode(self, target: Any, files: Files) -> Any:
        """Convert what should be predicted to the form that `loss` takes."""
        return target

    def loss(self, models: Mapping[str, nn.Module], feed: Feed, target: Any) -> torch.Tensor | None:
        """Return the loss of one example; None if the family has no loss and can't be tuned."""
        return None

    # --- for all families

    def check(self, config: Config, what: str) -> None:
        """Raise ModelError for out-of-range numbers, before anything computes with them."""
        for name, (low, high) in self.BOUNDS.items():
            value = config.get(name)
            numbers = list(value) if isinstance(value, (list, tuple)) else [value]
            if isinstance(value, (list, tuple)) and not 1 <= len(value) <= _MAX_NUMBERS:
                raise ModelError(
                    f"{what}: config.json lists {len(value)} numbers for {name}; allowed: 1 to {_MAX_NUMBERS}."
                )
            for number in numbers:
                if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
                    raise ModelError(
                        f"{what}: config.json says {name} is {reprlib.repr(number)}; allowed: whole numbers from "
                        f"{low} to {high}. Save the model again, or correct the file."
                    )

    def read_files(self, directory: Path) -> dict[str, Any]:
        """Read an artefact's files other than weights, by file name."""
        return self.parse_files({name: (directory / name).read_bytes() for name in self.FILES})

    def parse_files(self, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """Parse the contents of FILES into the form of `Files`."""
        return {name: json.loads(data) if name.endswith(".json") else data for name, data in contents.items()}

    def read_networks(self, directory: Path) -> tuple[Network, ...]:
        """Return the networks of an artefact."""
        return self.networks(json.loads((directory / CONFIG_FILE).read_text()))


_MAX_NUMBERS = 64  # maximum length of a list in a configuration
