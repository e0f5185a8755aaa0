"""The artefacts on this device: found by digest, verified before use, listed and removed.

An artefact is a folder `cache/artefacts/DIGEST` with the files that opening needs and `artefact.json`, which names
them with their digests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import modes
from bench.artefacts.recipe import digest_of_file, portable_recipe, remembered_identity, versions_of
from bench.core import paths
from bench.core.errors import EarbenchError
from bench.core.records import Artefact
from bench.core.specs import Setting, spelled
from bench.families import catalogue
from bench.families.family import ModelError
from bench.modes.mode import ModeError

MANIFEST = "artefact.json"
ELSEWHERE = "built elsewhere"  # a detail of artefacts that were imported


class ArtefactError(EarbenchError):
    """An artefact can't be had, brought or taken away."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An artefact in the cache, as its manifest tells. An unreadable one has no model and no mode."""

    digest: str
    model: str
    checkpoint: str
    mode: str  # as people spell it
    size_bytes: int  # the whole folder
    built_s: float  # since the epoch
    build_s: float
    build_peak_rss_bytes: int | None
    imported: bool
    current: bool  # whether it would be opened: the mode is what it was, and so are the libraries, or it was imported

    @property
    def use(self) -> str:
        """What it is good for, in a word or two."""
        if not self.model:
            return "none: can't be read"
        if not self.current:
            return "none: of other versions"
        return "imported" if self.imported else "current"


def home() -> Path:
    """The folder of all artefacts."""
    return paths.cache() / "artefacts"


def folder(digest: str) -> Path:
    """Where an artefact of this digest lies."""
    return home() / digest


def manifest_of(digest: str) -> dict[str, Any]:
    """What is known of an artefact: recipe, family, files."""
    found: dict[str, Any] = json.loads((folder(digest) / MANIFEST).read_text())
    return found


def coverage_file(digest: str) -> Path:
    """Where it is remembered what an artefact quantizes here."""
    return paths.cache() / "coverage" / f"{digest}.json"


# --- what is kept


def kept() -> list[Kept]:
    """All artefacts in the cache, the newest first; those that can't be read last."""
    return sorted((_kept(place) for place in home().glob("[!.]*")), key=lambda k: (bool(k.model), k.built_s))[::-1]


def _kept(place: Path) -> Kept:
    size_bytes = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
    try:
        known = _read(place / MANIFEST, (place / MANIFEST).stat().st_mtime_ns)
        imported = (place / catalogue.IMPORTED).is_file()
        mode = modes.modes().get(known["mode"])
        usual = {name: option.default for name, option in mode.SPEC.settings.items()} if mode else {}
        set_by = {name: value for name, value in known["settings"].items() if usual.get(name) != value}
        return Kept(
            digest=place.name,
            model=known["model"],
            checkpoint=known["checkpoint"],
            mode=spelled(known["mode"], set_by),
            size_bytes=size_bytes,
            built_s=known["built_s"],
            build_s=known["build_s"],
            build_peak_rss_bytes=known["build_peak_rss_bytes"],
            imported=imported,
            current=mode is not None
            and known["mode version"] == mode.SPEC.version
            and set(known["settings"]) == set(usual)
            and (imported or known["versions"] == versions_of(mode)),
        )
    except (OSError, ValueError, KeyError, TypeError):  # half removed, or of an Earbench that kept less
        return Kept(place.name, "", "unreadable", "", size_bytes, 0.0, 0.0, None, imported=False, current=False)


@lru_cache(maxsize=512)
def _read(path: Path, mtime_ns: int) -> dict[str, Any]:
    """A manifest, read once; not to be changed."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def at_hand(model: str, mode_name: str, settings: Mapping[str, Setting]) -> str | None:
    """The digest of the artefact that a variant would be opened from; None if it would have to be built.

    As far as can be told at a glance: neither weights nor clips are read, so `prepare` may find otherwise.
    """
    try:
        checkpoint, mode = catalogue.find(model), modes.find(mode_name)
        chosen = modes.complete(mode, settings)
    except (ModelError, ModeError):
        return None
    identity = remembered_identity(checkpoint)
    if identity is None:
        return None
    alike, here = _alike(portable_recipe(identity, mode, chosen)), versions_of(mode)
    fit = [d for d, known in alike.items() if known["versions"] == here or is_imported(d)]
    return min(fit, key=is_imported, default=None)


def is_imported(digest: str) -> bool:
    """Whether an artefact was built on another device, or by another copy of Earbench."""
    return (folder(digest) / catalogue.IMPORTED).is_file()


def _alike(what: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests of artefacts of the same checkpoint, mode and settings, by digest, the newest first."""
    found = {}
    for path in home().glob(f"[!.]*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # broken, or being removed
            known = _read(path, path.stat().st_mtime_ns)
            if all(known[key] == value for key, value in what.items()):
                found[path.parent.name] = known
    return dict(sorted(found.items(), key=lambda item: item[1]["built_s"], reverse=True))


def from_elsewhere(what: Mapping[str, Any]) -> Artefact | None:
    """An imported artefact that is what is wanted, whatever versions and clips it was built with."""
    return next((found for d in _alike(what) if is_imported(d) and (found := verified(d))), None)


def _elsewhere(digest: str, known: Mapping[str, Any]) -> dict[str, str]:
    """The detail that tells of an artefact's import."""
    if not is_imported(digest):
        return {}
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    return {ELSEWHERE: f"on {known['device']} with {versions}"}


def remove(digests: Sequence[str]) -> int:
    """Remove artefacts from the cache; returns how many bytes that freed."""
    freed = 0
    for digest in digests:
        place, beside = folder(digest), folder(f".{digest}.{os.getpid()}")
        with contextlib.suppress(OSError):  # moved away first, so that nobody opens half of it
            place.rename(beside)
            freed += sum(f.stat().st_size for f in beside.rglob("*") if f.is_file())
        shutil.rmtree(beside, ignore_errors=True)
        coverage_file(digest).unlink(missing_ok=True)
    return freed


def sweep() -> None:
    """Remove what dead processes left: half-built artefacts, and the logs of a killed server's workers."""
    for left, pid in (
        *((p, p.suffix[1:]) for p in (paths.cache() / "artefacts").glob(".*.*")),
        *((p, p.name.split("-")[0]) for p in paths.logs().glob("*-*.log")),
    ):
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def verified(digest: str) -> Artefact | None:
    """The artefact if it is there and every byte is as it was written; a broken one is removed."""
    place = folder(digest)
    try:
        known = manifest_of(digest)
        whole = all(digest_of_file(place / name) == was for name, was in known["files"].items())
    except (OSError, ValueError, KeyError):
        whole = False
    if whole:
        return artefact_of(digest, known, from_cache=True)
    shutil.rmtree(place, ignore_errors=True)
    return None


def artefact_of(digest: str, known: dict[str, Any], *, from_cache: bool) -> Artefact:
    """An artefact as its manifest tells it."""
    return Artefact(
        digest=digest,
        checkpoint=known["checkpoint"],
        size_bytes=sum(f["bytes"] for f in known["files"].values()),
        build_s=known["build_s"],
        build_peak_rss_bytes=known["build_peak_rss_bytes"],
        from_cache=from_cache,
        details=known["details"] | _elsewhere(digest, known),
        build_disk_bytes=known["build_disk_bytes"],
    )
