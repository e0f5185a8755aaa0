"""The identity of an artefact: the digest of its recipe, which is everything that it depends on.

An imported artefact (see `bench.artefacts.transfer`) is used in place of the recipe's own, whatever library versions
and clips it was built with.
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
)  # of a recipe: the part that does not depend on the device that builds
KEYS = (*PORTABLE_KEYS, "versions", "clips", "base")


def portable_recipe(identity: str, mode: Mode, chosen: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the part of a recipe that does not depend on the device that builds."""
    return dict(zip(PORTABLE_KEYS, (identity, mode.name, mode.SPEC.version, dict(chosen)), strict=True))


def full_recipe(portable: Mapping[str, Any], mode: Mode, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the complete recipe: everything that an artefact depends on."""
    base = modes.find(mode.SPEC.base) if mode.SPEC.base else None
    base_recipe = (
        full_recipe(portable_recipe(portable["checkpoint"], base, modes.complete(base, {})), base, ()) if base else None
    )
    return {
        **portable,
        "versions": versions_of(mode),
        "clips": [example.digest for example in examples],
        "base": digest_of(base_recipe) if base_recipe else None,
    }


def versions_of(mode: Mode) -> dict[str, str]:
    """Return the versions of the libraries that build and open a mode's artefacts."""
    return host.versions((*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages))


def digest_of(recipe: Mapping[str, Any]) -> str:
    """Return the digest that identifies the artefact of a recipe. A whole manifest is accepted as a recipe."""
    text = json.dumps({key: recipe[key] for key in KEYS}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def remember_identity(checkpoint: Checkpoint, identity: str) -> None:
    """Cache a checkpoint's identity for quick lookups: finding it may need the network, or reading all weights."""
    note = _note(checkpoint)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps([_stamp(checkpoint), identity]))


def remembered_identity(checkpoint: Checkpoint) -> str | None:
    """Return the identity that `remember_identity` cached, or None if the checkpoint's files have changed since."""
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
    """Return names, sizes and modification times of a folder's files; unchanged, they imply unchanged weights."""
    if checkpoint.source != "folder":
        return []
    files = sorted(f for f in Path(checkpoint.where).iterdir() if f.is_file())
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def digest_of_file(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and SHA-256, as a manifest stores them."""
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
