"""What identifies an artefact: the digest of everything that it depends on.

One that was built elsewhere (`bench.artefacts.transfer` brings it) stands in for the recipe's own, whatever library
versions and clips it was built with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import modes
from bench.core import paths
from bench.core.specs import Setting
from bench.device import host
from bench.families.family import Checkpoint
from bench.families.tasks.task import Example
from bench.modes.mode import Mode

PORTABLE_KEYS = (
    "checkpoint",
    "mode",
    "mode version",
    "settings",
)  # of a recipe: what an artefact is, wherever it was built
KEYS = (*PORTABLE_KEYS, "versions", "clips", "base")


def portable_recipe(identity: str, mode: Mode, chosen: Mapping[str, Setting]) -> dict[str, Any]:
    """The part of a recipe that says what an artefact is, wherever it was built."""
    return dict(zip(PORTABLE_KEYS, (identity, mode.name, mode.SPEC.version, dict(chosen)), strict=True))


def full_recipe(what: Mapping[str, Any], mode: Mode, examples: Sequence[Example]) -> dict[str, Any]:
    """Everything that an artefact depends on."""
    base = modes.find(mode.SPEC.base) if mode.SPEC.base else None
    of_base = (
        full_recipe(portable_recipe(what["checkpoint"], base, modes.complete(base, {})), base, ()) if base else None
    )
    return {
        **what,
        "versions": versions_of(mode),
        "clips": [example.digest for example in examples],
        "base": digest_of(of_base) if of_base else None,
    }


def versions_of(mode: Mode) -> dict[str, str]:
    """Versions of the libraries that build and open a mode's artefacts."""
    return host.versions((*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages))


def digest_of(recipe: Mapping[str, Any]) -> str:
    """The digest by which an artefact of this recipe is found; a whole manifest will do for the recipe."""
    text = json.dumps({key: recipe[key] for key in KEYS}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def remember_identity(checkpoint: Checkpoint, identity: str) -> None:
    """Note what a checkpoint's weights are, for glances: telling it may take a network, or reading all weights."""
    note = _note(checkpoint)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps([_stamp(checkpoint), identity]))


def remembered_identity(checkpoint: Checkpoint) -> str | None:
    """What `remember_identity` noted, if the files of the checkpoint look as they did then."""
    if checkpoint.source == "imported":
        return checkpoint.where
    with contextlib.suppress(OSError, ValueError):
        stamp, identity = json.loads(_note(checkpoint).read_text())
        return str(identity) if stamp == _stamp(checkpoint) else None
    return None


def _note(checkpoint: Checkpoint) -> Path:
    key = f"{checkpoint.source} {checkpoint.where}"
    return paths.cache() / "checkpoints" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _stamp(checkpoint: Checkpoint) -> list[list[Any]]:
    """Names, sizes and times of a folder's files: while they are the same, so are the weights, as far as one sees."""
    if checkpoint.source != "folder":
        return []
    files = sorted(f for f in Path(checkpoint.where).iterdir() if f.is_file())
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def digest_of_file(path: Path) -> dict[str, Any]:
    """The size and the digest of a file, as a manifest has them."""
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
