"""The identity of an artefact: the digest of its recipe, which is everything that it depends on.

An imported artefact (see `bench.artefacts.transfer`) is used in place of the recipe's own, whatever library versions
and clips it was built with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import modes
from bench.artefacts import stamps
from bench.core import paths
from bench.core.specs import Setting
from bench.device import host
from bench.families import families
from bench.families.family import Checkpoint, Progress
from bench.families.tasks.task import Example
from bench.modes.mode import Mode

PORTABLE_KEYS = (
    "checkpoint",
    "mode",
    "mode version",
    "settings",
)  # of a recipe: the part that does not depend on the device that builds
KEYS = (*PORTABLE_KEYS, "versions", "clips", "base")
HUB_FRESH_S = 3600.0  # how long the newest commit that the hub named counts as the newest


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


def identify(checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
    """Return `Family.identity`, and remember it: finding it may need the network, or reading all weights."""
    if checkpoint.source == "imported":
        return checkpoint.where, None
    files = _stamps(checkpoint)  # before the files are read: what changes meanwhile is read again
    identity, weights = families()[checkpoint.family].identity(checkpoint, progress)
    note = _note(checkpoint)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps([files, identity]))
    return identity, weights


def remembered_identity(checkpoint: Checkpoint) -> str | None:
    """Return the identity that `identify` remembered, or None if the checkpoint's files have changed since.

    A repository on the hub may have a newer commit by now: see `current_identity`.
    """
    if checkpoint.source == "imported":
        return checkpoint.where
    with contextlib.suppress(OSError, ValueError):
        files, identity = json.loads(_note(checkpoint).read_text())
        return str(identity) if files == _stamps(checkpoint) else None
    return None


def current_identity(checkpoint: Checkpoint) -> str | None:
    """Return the remembered identity; None if the hub has to be asked, since it was not asked within HUB_FRESH_S."""
    if checkpoint.source == "hub":
        try:
            if time.time() - _note(checkpoint).stat().st_mtime > HUB_FRESH_S:
                return None
        except OSError:
            return None
    return remembered_identity(checkpoint)


def _note(checkpoint: Checkpoint) -> Path:
    key = f"{checkpoint.source} {checkpoint.where}"
    return paths.cache() / "checkpoints" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _stamps(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """Return the stamps of a folder's files; unchanged, they imply unchanged weights."""
    if checkpoint.source != "folder":
        return {}
    folder = Path(checkpoint.where)
    return stamps.of(folder, sorted(f.name for f in folder.iterdir() if f.is_file()))


def digest_of_file(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and SHA-256, as a manifest stores them."""
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
