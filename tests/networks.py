"""Opening an artefact's one network and running it, as workers do: for tests of modes on Wav2Vec2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import modes
from bench.core.specs import Placement
from bench.families import wav2vec2
from bench.families.family import Array
from bench.modes.mode import Data, Exercise

FAMILY = wav2vec2.FAMILY


def inputs(length_s: float, batch: int = 1, seed: int = 0, kind: Any = "speech") -> Array:
    """(batch, samples): what a timed pass runs on."""
    return FAMILY.inputs(length_s, batch, seed, kind, {})["x"]


def opened(mode: str, directory: Path, threads: int = 2) -> Any:
    """The network of an artefact, opened."""
    networks = modes.find(mode).open(directory, Placement("cpu", threads), FAMILY, FAMILY.read_networks(directory))
    return networks["model"]


def forward(mode: str, directory: Path, threads: int = 2) -> Callable[[Array], Array]:
    """The network of an artefact as a function: (batch, samples) -> (batch, frames, vocab)."""
    session = opened(mode, directory, threads).start()
    return lambda x: session({"x": x})["logits"]


def exercise(length_s: float = 1.0) -> Exercise:
    """One short pass, as counting what is quantized makes it."""
    return lambda networks: networks["model"].start()({"x": inputs(length_s, kind="noise")})


def calibration(*clips: Array) -> Data:
    """Clips as modes get them that look at some, without labels."""
    feeds = [{"x": clip} for clip in clips]
    return Data([(feed, None) for feed in feeds], {"model": feeds})
