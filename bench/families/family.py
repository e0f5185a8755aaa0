"""What a model family offers, and the checkpoints of it."""

from __future__ import annotations

import json
import reprlib
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
Files = Mapping[str, Any]  # what an artefact carries beside weights, by file name: JSON as read, else bytes
Array = npt.NDArray[np.float32]
CONFIG_FILE = "config.json"


class ModelError(EarbenchError):
    """A model can't be had."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Something that people can ask for by name: weights, or an architecture with random ones."""

    name: str
    label: str
    family: str
    source: Literal["random", "hub", "folder", "imported"]
    where: str  # architecture, repository or folder; of an imported one, what its weights are
    note: str
    config: Config
    download_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Support:
    """The kind of `config.json` that a family opens, and the files that people must have beside it."""

    model_type: str
    architecture: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"a {self.architecture} in Hugging Face format ({', '.join((CONFIG_FILE, *self.files))})"


class Family(ABC):
    """One family of models. NumPy alone, except in `load`, `skeleton` and `loss`, which import PyTorch themselves."""

    NAME: ClassVar[str]
    TASK: ClassVar[Task]
    AXIS: ClassVar[Axis]  # what the size of an input means
    CHECKPOINTS: Sequence[Checkpoint] = ()
    SUPPORTS: ClassVar[tuple[Support, ...]] = ()
    FILES: ClassVar[tuple[str, ...]] = (CONFIG_FILE,)  # what `describe` gives; the configuration is always among it
    BOUNDS: ClassVar[Mapping[str, tuple[int, int]]] = {}  # (lowest, highest) of each number in a configuration
    DYNAMIC_TYPES: ClassVar[tuple[str, ...]] = ("Linear",)  # types of torch.nn that dynamic modes quantize
    TORCH_MODULES: ClassVar[tuple[str, ...]] = ()  # what `skeleton` imports: it takes seconds, and is no load time
    COVERAGE_SIZE: ClassVar[float]  # the size at which *What is quantized* counts multiply-accumulates
    LONGEST_SIZE: ClassVar[float]  # of one pass over a real example: what is longer is cut
    CALIBRATION_SIZE: ClassVar[float] = float("inf")  # so much of an example do static modes look at
    SKELETON_CODE: ClassVar[str] = ""  # plain lines: `model` without its weights from an artefact's folder
    RUN_CODE: ClassVar[str] = ""  # plain lines that use `forward`, which SKELETON_CODE or the mode defines

    # --- checkpoints

    def open_folder(self, folder: Path, config: Config) -> Checkpoint:
        """A local folder as a checkpoint. Raises ModelError where something is missing."""
        raise ModelError(f"{folder} can't be opened: {self.NAME} models are not read from folders.")

    @abstractmethod
    def identity(self, checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
        """(what the weights are, for good: commit, digest or seed; where they lie). Downloads if need be."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, nn.Module]:
        """The float modules by network, in evaluation mode, ready to be quantized or saved."""

    @abstractmethod
    def describe(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, bytes]:
        """Contents of FILES: what an artefact carries beside weights."""

    @abstractmethod
    def skeleton(self, directory: Path) -> dict[str, nn.Module]:
        """The modules without weights (on torch's meta device) from an artefact's files."""

    def code(self, checkpoint: Checkpoint) -> str:
        """Plain lines that load the float model as `model`, for people to copy; "" where it takes more than that."""
        return ""

    def example_code(self, size: float, batch: int) -> str:
        """A plain line that makes `audio`, the inputs of such a pass, which `model` takes."""
        return ""

    # --- networks

    @abstractmethod
    def networks(self, config: Config) -> tuple[Network, ...]:
        """The networks, in the order in which they first run."""

    @abstractmethod
    def profile(self, config: Config, size: float) -> Profile:
        """What one pass of this size computes at batch 1."""

    # --- passes

    @abstractmethod
    def inputs(self, size: float, batch: int, seed: int, kind: InputKind, files: Files) -> Feed:
        """What a timed pass of this size runs on; the same arguments give the same numbers."""

    @abstractmethod
    def prepare(self, example: Any, files: Files) -> Feed:
        """What a pass over a real clip, picture or sentence runs on."""

    def size(self, feed: Feed) -> float:
        """How large prepared inputs are, on the family's axis."""
        return 0.0

    def crop(self, feed: Feed, size: float) -> Feed:
        """The beginning of prepared inputs, no larger than that."""
        return feed

    def steps(self, config: Config, size: float) -> Steps:
        """The fixed work of a timed pass of this size."""
        return Steps()

    @abstractmethod
    def run(self, networks: Mapping[str, Opened], feed: Feed, files: Files, stop: Stop, mark: Mark) -> Feed:
        """One pass: with `Steps`, the fixed work that is timed; with `UntilEnd`, a whole real example.

        `mark` is called with a phase's name when the phase ends, where a pass has several.
        """

    @abstractmethod
    def predict(self, outputs: Feed, files: Files) -> Any:
        """The task's prediction from what `run` gave for one example. Raises ModelError."""

    # --- tuning

    def encode(self, target: Any, files: Files) -> Any:
        """What should be predicted, as `loss` wants it."""
        return target

    def loss(self, models: Mapping[str, nn.Module], feed: Feed, target: Any) -> torch.Tensor | None:
        """The loss of one example; None where the family has none, so that it can't be tuned."""
        return None

    # --- for all families

    def check(self, config: Config, what: str) -> None:
        """Raises ModelError for numbers that no model has, before anything computes with them."""
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
        """What an artefact carries beside weights, by file name."""
        return self.parse_files({name: (directory / name).read_bytes() for name in self.FILES})

    def parse_files(self, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """The contents of FILES as `Files` holds them."""
        return {name: json.loads(data) if name.endswith(".json") else data for name, data in contents.items()}

    def read_networks(self, directory: Path) -> tuple[Network, ...]:
        """The networks of an artefact."""
        return self.networks(json.loads((directory / CONFIG_FILE).read_text()))


_MAX_NUMBERS = 64  # that a configuration may list under one name
