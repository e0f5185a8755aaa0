"""The cache of artefacts on this device: read, verify, list and remove them.

An artefact is a folder `cache/artefacts/DIGEST` with the files that opening needs and a manifest, `artefact.json`, that
lists them with their digests.
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
from bench.artefacts import stamps
from bench.artefacts.recipe import digest_of, digest_of_file, portable_recipe, remembered_identity, versions_of
from bench.core import paths
from bench.core.errors import EarbenchError
from bench.core.records import Artefact
from bench.core.specs import Setting, spelled
from bench.families import catalogue
from bench.families.family import ModelError, Progress
from bench.modes.mode import ModeError

MANIFEST = "artefact.json"
ELSEWHERE = "built elsewhere"  # a detail of artefacts that were imported


class ArtefactError(EarbenchError):
    """An artefact can't be exported, imported or removed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An artefact in the cache, as its manifest describes it. An unreadable one has no model and no mode."""

    digest: str
    model: str
    checkpoint: str
    mode: str  # with the settings that differ from the defaults
    size_bytes: int  # the whole folder
    built_s: float  # since the epoch
    build_s: float
    build_peak_rss_bytes: int | None
    imported: bool
    current: bool  # whether it can be used: same mode version, and same library versions unless imported

    @property
    def use(self) -> str:
        """Its usability, in a few words for people."""
        if not self.model:
            return "none: can't be read"
        if not self.current:
            return "none: of other versions"
        return "imported" if self.imported else "current"


def home() -> Path:
    """Return the folder of all artefacts."""
    return paths.cache() / "artefacts"


def folder(digest: str) -> Path:
    """Return the folder of the artefact with this digest."""
    return home() / digest


def manifest_of(digest: str) -> dict[str, Any]:
    """Read an artefact's manifest: recipe, family, files."""
    manifest: dict[str, Any] = json.loads((folder(digest) / MANIFEST).read_text())
    return manifest


def coverage_file(digest: str) -> Path:
    """Return the path of an artefact's cached coverage on this device."""
    return paths.cache() / "coverage" / f"{digest}.json"


# --- listing


def kept() -> list[Kept]:
    """List all artefacts in the cache, the newest first, unreadable ones last."""
    return sorted((_kept(path) for path in home().glob("[!.]*")), key=lambda k: (bool(k.model), k.built_s))[::-1]


def _kept(directory: Path) -> Kept:
    size_bytes = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
    try:
        manifest = _read(directory / MANIFEST, (directory / MANIFEST).stat().st_mtime_ns)
        imported = (directory / catalogue.IMPORTED).is_file()
        mode = modes.modes().get(manifest["mode"])
        defaults = {name: option.default for name, option in mode.SPEC.settings.items()} if mode else {}
        changed = {name: value for name, value in manifest["settings"].items() if defaults.get(name) != value}
        return Kept(
            digest=directory.name,
            model=manifest["model"],
            checkpoint=manifest["checkpoint"],
            mode=spelled(manifest["mode"], changed),
            size_bytes=size_bytes,
            built_s=manifest["built_s"],
            build_s=manifest["build_s"],
            build_peak_rss_bytes=manifest["build_peak_rss_bytes"],
            imported=imported,
            current=mode is not None
            and manifest["mode version"] == mode.SPEC.version
            and set(manifest["settings"]) == set(defaults)
            and (imported or manifest["versions"] == versions_of(mode)),
        )
    except (OSError, ValueError, KeyError, TypeError):  # partly removed, or from an older Earbench
        return Kept(directory.name, "", "unreadable", "", size_bytes, 0.0, 0.0, None, imported=False, current=False)


@lru_cache(maxsize=512)
def _read(path: Path, mtime_ns: int) -> dict[str, Any]:
    """Read a manifest, cached by modification time. Callers must not modify it."""
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def at_hand(model: str, mode_name: str, settings: Mapping[str, Setting]) -> str | None:
    """Return the digest of the artefact that a variant would be opened from, or None if it must be built.

    This is a quick estimate that reads neither weights nor clips, so `build.prepare` may decide otherwise.
    """
    try:
        checkpoint, mode = catalogue.find(model), modes.find(mode_name)
        full_settings = modes.complete(mode, settings)
    except (ModelError, ModeError):
        return None
    identity = remembered_identity(checkpoint)
    if identity is None:
        return None
    manifests, versions = _matching(portable_recipe(identity, mode, full_settings)), versions_of(mode)
    usable = [d for d, manifest in manifests.items() if manifest["versions"] == versions or is_imported(d)]
    return min(usable, key=is_imported, default=None)


def is_imported(digest: str) -> bool:
    """Return whether an artefact was built on another device, or by another copy of Earbench."""
    return (folder(digest) / catalogue.IMPORTED).is_file()


def _matching(portable: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return digest -> manifest of the artefacts of the same checkpoint, mode and settings, the newest first."""
    manifests = {}
    for path in home().glob(f"[!.]*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # damaged, or being removed
            manifest = _read(path, path.stat().st_mtime_ns)
            if all(manifest[key] == value for key, value in portable.items()):
                manifests[path.parent.name] = manifest
    return dict(sorted(manifests.items(), key=lambda item: item[1]["built_s"], reverse=True))


def imported(portable: Mapping[str, Any]) -> list[str]:
    """Return the imported artefacts of the portable recipe, whatever their versions and clips, the newest first."""
    return [digest for digest in _matching(portable) if is_imported(digest)]


def _elsewhere(digest: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the detail that describes an artefact's import; empty if it was built here."""
    if not is_imported(digest):
        return {}
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return {ELSEWHERE: f"on {manifest['device']} with {versions}"}


def remove(digests: Sequence[str]) -> int:
    """Remove artefacts from the cache and return the bytes freed."""
    freed = 0
    for digest in digests:
        directory, doomed = folder(digest), folder(f".{digest}.{os.getpid()}")
        with contextlib.suppress(OSError):  # renamed first, so that no process opens a partial artefact
            directory.rename(doomed)
            freed += sum(f.stat().st_size for f in doomed.rglob("*") if f.is_file())
        shutil.rmtree(doomed, ignore_errors=True)
        coverage_file(digest).unlink(missing_ok=True)
        stamps.forget(directory)
    return freed


def sweep() -> None:
    """Remove leftovers of dead processes: partly built artefacts, and the logs of a killed server's workers."""
    for leftover, pid in (
        *((p, p.suffix[1:]) for p in (paths.cache() / "artefacts").glob(".*.*")),
        *((p, p.name.split("-")[0]) for p in paths.logs().glob("*-*.log")),
    ):
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


# --- verification


def checked(digest: str) -> Artefact | None:
    """Return the artefact if its files are unchanged since they were verified, judged by their stamps; reads none."""
    try:
        manifest = manifest_of(digest)
        if stamps.unchanged(folder(digest), _files(manifest)):
            return artefact_of(digest, manifest, from_cache=True)
    except (OSError, ValueError, KeyError):
        pass
    return None


def verified(digest: str, progress: Progress = lambda _: None) -> Artefact | None:
    """Return the artefact if its files are unchanged, or match their digests, else None. A damaged one is removed."""
    if artefact := checked(digest):
        return artefact
    if damaged_files(digest, progress):
        shutil.rmtree(folder(digest), ignore_errors=True)
        stamps.forget(folder(digest))
        return None
    return checked(digest) or artefact_of(digest, manifest_of(digest), from_cache=True)


def damaged_files(digest: str, progress: Progress = lambda _: None) -> list[str]:
    """Read all files of an artefact and return the names of those that don't match the manifest.

    If there are none, their stamps are remembered. An unreadable manifest is damaged itself.
    """
    directory = folder(digest)
    try:
        before = stamps.of(directory, [MANIFEST])  # stamps are taken before the file is read
        manifest = manifest_of(digest)
        expected = dict(manifest["files"])
        if digest_of(manifest) != digest:
            return [MANIFEST]
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST]
    damaged = []
    for name in expected:
        progress(f"verifying {name}")
        try:
            before |= stamps.of(directory, [name])
            intact = digest_of_file(directory / name) == expected[name]
        except OSError:
            intact = False
        if not intact:
            damaged.append(name)
    if not damaged:
        stamps.write(directory, before)
    return damaged


def distrust(digest: str) -> None:
    """Let an artefact be verified in full before its next use."""
    stamps.forget(folder(digest))


def stamp_new(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Remember the stamps of an artefact's files that were just written, with their digests taken."""
    stamps.write(directory, stamps.of(directory, _files(manifest)))


def _files(manifest: Mapping[str, Any]) -> list[str]:
    return [MANIFEST, *manifest["files"]]


def artefact_of(digest: str, manifest: dict[str, Any], *, from_cache: bool) -> Artefact:
    """Make the `Artefact` record that a manifest describes."""
    return Artefact(
        digest=digest,
        checkpoint=manifest["checkpoint"],
        size_bytes=sum(f["bytes"] for f in manifest["files"].values()),
        build_s=manifest["build_s"],
        build_peak_rss_bytes=manifest["build_peak_rss_bytes"],
        from_cache=from_cache,
        details=manifest["details"] | _elsewhere(digest, manifest),
        build_disk_bytes=manifest["build_disk_bytes"],
    )
