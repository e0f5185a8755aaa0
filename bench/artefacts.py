"""Variants on disk: built once, found again by digest, verified before use.

An artefact is a folder `cache/artefacts/DIGEST` with the files that opening needs and `artefact.json`, which names
them with their digests. It is built beside its place and moved there whole, so a half-written one is never seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from bench import device, models, modes, paths
from bench.models import Progress
from bench.readings import memory
from bench.records import Artefact, Setting

MANIFEST = "artefact.json"


def folder(digest: str) -> Path:
    """Where an artefact of this digest lies."""
    return paths.cache() / "artefacts" / digest


def prepare(model: str, mode_name: str, settings: dict[str, Setting], progress: Progress) -> Artefact:
    """The artefact of a variant, from the cache or built now. Call it in a process that may import engines.

    Raises ModelError, ModeError, and whatever an engine raises while building.
    """
    checkpoint, mode = models.find(model), modes.find(mode_name)
    try:
        mode.check()
    except Exception as e:
        raise modes.ModeError(f"{mode_name} can't run here: {e}") from e
    family = models.family(checkpoint)
    identity, weights = family.identity(checkpoint, progress)
    recipe: dict[str, Any] = {
        "checkpoint": identity,
        "mode": mode.NAME,
        "mode version": mode.VERSION,
        "settings": {**mode.SETTINGS, **settings},
        "versions": device.versions(mode.NEEDS.packages),
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
    progress("looking into the cache")
    if found := _verified(digest):
        return found
    begun = time.monotonic()
    place = folder(digest)
    beside = place.with_name(f".{digest}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        for name, text in family.describe(checkpoint, weights).items():
            (beside / name).write_text(text)
        progress("loading the float model")
        details = mode.build(family.load(checkpoint, weights), (), recipe["settings"], beside, progress)
        progress("taking digests")
        manifest: dict[str, Any] = {
            **recipe,
            "family": family.NAME,
            "details": details,
            "build_s": time.monotonic() - begun,
            "build_peak_rss_bytes": memory(os.getpid())[1],
            "files": {f.name: _digest(f) for f in sorted(beside.iterdir())},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return _artefact(digest, manifest, from_cache=False)


def manifest(digest: str) -> dict[str, Any]:
    """What is known of an artefact: recipe, family, files."""
    found: dict[str, Any] = json.loads((folder(digest) / MANIFEST).read_text())
    return found


def sweep() -> None:
    """Remove what dead processes left: half-built artefacts, and the logs of a killed server's workers."""
    for left, pid in (
        *((p, p.suffix[1:]) for p in (paths.cache() / "artefacts").glob(".*.*")),
        *((p, p.name.split("-")[0]) for p in paths.logs().glob("*-*.log")),
    ):
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _verified(digest: str) -> Artefact | None:
    """The artefact if it is there and every byte is as it was written; a broken one is removed."""
    place = folder(digest)
    try:
        known = manifest(digest)
        whole = all(_digest(place / name) == was for name, was in known["files"].items())
    except (OSError, ValueError, KeyError):
        whole = False
    if whole:
        return _artefact(digest, known, from_cache=True)
    shutil.rmtree(place, ignore_errors=True)
    return None


def _artefact(digest: str, known: dict[str, Any], *, from_cache: bool) -> Artefact:
    return Artefact(
        digest=digest,
        checkpoint=known["checkpoint"],
        size_bytes=sum(f["bytes"] for f in known["files"].values()),
        build_s=known["build_s"],
        build_peak_rss_bytes=known["build_peak_rss_bytes"],
        from_cache=from_cache,
        details=known["details"],
    )


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
