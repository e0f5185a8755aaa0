"""Models: one file a family, and the names by which people ask for their checkpoints.

To add a family, write a module that satisfies `Family` and add it to `FAMILIES`. Nothing here or at the top of a
family's file imports torch: the dashboard reads names, sizes and work from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from bench import paths
from bench.records import InputKind, Transcription

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]
Config = Mapping[str, Any]
Array = npt.NDArray[np.float32]
IMPORTED = "imported.json"  # lies in the folder of an artefact that came from elsewhere


class ModelError(ValueError):
    """A model can't be had; the text says what came, what is allowed and how to fix it."""


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


class Family(Protocol):
    """What a model family's module offers. `model` is always the float module in evaluation mode."""

    NAME: str
    CHECKPOINTS: tuple[Checkpoint, ...]
    TORCH_MODULES: tuple[str, ...]  # what `skeleton` imports: it takes seconds and is no part of a load time
    SKELETON_CODE: str  # plain lines: `model` without its weights from an artefact's folder, `forward` that calls it
    LISTEN_CODE: str  # plain lines: speech.wav -> `forward` -> the text printed

    def folder_checkpoint(self, folder: Path, config: Config) -> Checkpoint:
        """A local folder in Hugging Face format as a checkpoint. Raises ModelError for another architecture."""

    def identity(self, checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
        """(what the weights are, for good: commit, digest or seed; where they lie). Downloads if need be."""

    def load(self, checkpoint: Checkpoint, folder: Path | None) -> nn.Module:
        """The float module, ready to be quantized or saved."""

    def describe(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, str]:
        """File name -> text of what an artefact carries beside weights: configuration, vocabulary, preparation."""

    def skeleton(self, directory: Path) -> nn.Module:
        """The module without weights (on torch's meta device) from an artefact's configuration."""

    def macs(self, config: Config, samples: int) -> dict[str, int]:
        """Multiply-accumulates of one pass over so many samples at batch 1, by module name."""

    def parameters(self, config: Config) -> dict[str, int]:
        """Parameters by part of the network."""

    def activation_bytes(self, config: Config, samples: int) -> int:
        """About how much memory one float32 pass at batch 1 takes beside the weights."""

    def part(self, name: str) -> str:
        """The part of the network that a module with weights belongs to, by the module's name."""

    def inputs(self, length_s: float, batch: int, seed: int, kind: InputKind) -> Array:
        """A prepared batch, (batch, samples) float32; the same arguments give the same numbers."""

    def prepare(self, audio: Array, preparation: Config) -> Array:
        """(samples,) float32 at 16 kHz -> (1, samples) float32, as an artefact's preparation asks."""

    def frontend(self, config: Config) -> tuple[Sequence[int], Sequence[int]]:
        """(kernels, strides) of the convolutions that turn samples into frames: where long audio can be cut."""

    def decode(self, logits: Array, vocabulary: Mapping[str, int], config: Config) -> Transcription:
        """(frames, vocab) of one clip -> its text, and its words with times in seconds. Raises ModelError."""

    def encode(self, text: str, vocabulary: Mapping[str, int]) -> npt.NDArray[np.int64]:
        """What was said -> (tokens,), the labels of CTC. Characters that the vocabulary lacks are left out."""

    def code(self, checkpoint: Checkpoint) -> str:
        """Plain lines that load the float model as `model`, for people to copy."""


def families() -> dict[str, Family]:
    """All families by name."""
    from bench.models import wav2vec2

    return {module.NAME: cast(Family, module) for module in (wav2vec2,)}


def catalogue() -> list[Checkpoint]:
    """The checkpoints that have a name of their own, in the menu's order; imported ones last."""
    return [*_published(), *_imported()]


def _published() -> list[Checkpoint]:
    return [c for family in families().values() for c in family.CHECKPOINTS]


def _imported() -> list[Checkpoint]:
    """Checkpoints whose weights are not here, but artefacts of them that were imported."""
    found: dict[str, Checkpoint] = {}
    for mark in sorted((paths.cache() / "artefacts").glob(f"[!.]*/{IMPORTED}")):
        try:
            told, config = json.loads(mark.read_text()), json.loads((mark.parent / "config.json").read_text())
        except (OSError, ValueError):  # it is being removed
            continue
        if name := told["name"]:
            had = (
                f"{found[name].note}, {told['mode']}" if name in found else f"imported, without weights: {told['mode']}"
            )
            found[name] = Checkpoint(name, name, told["family"], "imported", told["checkpoint"], had, config)
    return list(found.values())


def default() -> str:
    """The model to begin with: the first of the catalogue, which is the trained one that is shipped."""
    return _published()[0].name


def find(name: str) -> Checkpoint:
    """The checkpoint of a name, or of a local folder. Raises ModelError."""
    for checkpoint in (c for known in (_published, _imported) for c in known()):
        if checkpoint.name == name:
            return checkpoint
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(folder.resolve())
    known = ", ".join(c.name for c in catalogue())
    raise ModelError(
        f"There is no model or folder “{name}”. Allowed: {known}, or the path of a folder on this device that holds "
        "a Wav2Vec2ForCTC in Hugging Face format (config.json, model.safetensors, vocab.json)."
    )


def exists(name: str) -> bool:
    """Whether `find` knows the name; a folder may have gone since it was measured."""
    try:
        find(name)
    except ModelError:
        return False
    return True


def family(checkpoint: Checkpoint) -> Family:
    """The module that knows a checkpoint's kind of model."""
    return families()[checkpoint.family]


def _folder(folder: Path) -> Checkpoint:
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError as e:
        raise ModelError(
            f"{folder} has no readable config.json, so it is no model folder in Hugging Face format. "
            "Save one with model.save_pretrained(folder) and processor.save_pretrained(folder)."
        ) from e
    except ValueError as e:
        raise ModelError(f"{folder / 'config.json'} is not JSON ({e}). Save the model again.") from e
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in families():
        named = ", ".join(config.get("architectures") or []) if isinstance(config, dict) else ""
        raise ModelError(
            f"{folder} holds {named or 'a model'} (model_type {kind!r}). "
            "Allowed: Wav2Vec2ForCTC (model_type 'wav2vec2')."
        )
    return families()[kind].folder_checkpoint(folder, config)
