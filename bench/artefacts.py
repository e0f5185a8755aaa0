"""Variants on disk: built once, found again by digest, verified before use.

An artefact is a folder `cache/artefacts/DIGEST` with the files that opening needs and `artefact.json`, which names
them with their digests. It is built beside its place and moved there whole, so a half-written one is never seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import audio, datasets, device, models, modes, paths
from bench.datasets import Clip, DatasetError
from bench.models import Checkpoint, Family, Progress
from bench.modes import Mode, ModeError
from bench.readings import memory
from bench.records import Artefact, Coverage, Setting, coverage_from

MANIFEST = "artefact.json"


def folder(digest: str) -> Path:
    """Where an artefact of this digest lies."""
    return paths.cache() / "artefacts" / digest


def prepare(
    model: str, mode_name: str, settings: Mapping[str, Setting], progress: Progress
) -> tuple[Artefact, Coverage]:
    """The artefact of a variant, from the cache or built now, and what it quantizes on this device.

    Call it in a process that may import engines. Raises ModelError, ModeError, and whatever an engine raises.
    """
    artefact = _prepare(model, modes.find(mode_name), settings, progress)
    return artefact, _coverage(artefact.digest, progress)


def _prepare(model: str, mode: Mode, settings: Mapping[str, Setting], progress: Progress) -> Artefact:
    checkpoint = models.find(model)
    try:
        mode.check()
    except Exception as e:
        raise ModeError(f"{mode.NAME} can't run here: {e}") from e
    family = models.family(checkpoint)
    identity, weights = family.identity(checkpoint, progress)
    chosen = modes.complete(mode, settings)
    clips = _clips(mode, chosen)
    base = _prepare(model, modes.find(mode.BASE), {}, progress) if mode.BASE else None
    recipe: dict[str, Any] = {
        "checkpoint": identity,
        "mode": mode.NAME,
        "mode version": mode.VERSION,
        "settings": chosen,
        "versions": device.versions((*mode.NEEDS.packages, *mode.NEEDS.build_packages)),
        "clips": [_digest(clip.path)["sha256"] for clip in clips],
        "base": base.digest if base else None,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
    progress("looking into the cache")
    if found := _verified(digest):
        return found
    _refuse_what_cant_fit(checkpoint, mode)
    begun = time.monotonic()
    place = folder(digest)
    beside = place.with_name(f".{digest}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        texts = family.describe(checkpoint, weights)
        for name, text in texts.items():
            (beside / name).write_text(text)
        if not base:
            progress("loading the float model")
        start = folder(base.digest) if base else family.load(checkpoint, weights)
        with DiskPeak(beside) as disk:
            details = mode.build(start, _prepared(clips, family, texts, progress), chosen, beside, progress)
        progress("taking digests")
        manifest: dict[str, Any] = {
            **recipe,
            "family": family.NAME,
            "details": details,
            "build_s": time.monotonic() - begun,
            "build_peak_rss_bytes": memory(os.getpid())[1],
            "build_disk_bytes": disk.bytes,
            "files": {f.name: _digest(f) for f in sorted(beside.iterdir())},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return _artefact(digest, manifest, from_cache=False)


def _clips(mode: Mode, settings: Mapping[str, Setting]) -> Sequence[Clip]:
    """The clips that a mode is to look at. Raises ModeError."""
    if not mode.CALIBRATES:
        return ()
    try:
        found = datasets.find(str(settings["data"] or datasets.bundled()), "calibrate")
        limit = int(settings["clips"])
        return datasets.choose(found, limit, seed=0).clips if limit else found.clips
    except DatasetError as e:
        raise ModeError(f"{mode.NAME} needs clips to look at. {e}") from e


def _prepared(clips: Sequence[Clip], family: Family, texts: Mapping[str, str], progress: Progress) -> modes.Clips:
    """Sound and labels as modes want them. Raises AudioError."""
    preparation, vocabulary = json.loads(texts["preprocessor_config.json"]), json.loads(texts["vocab.json"])
    out = []
    for number, clip in enumerate(clips, 1):
        progress(f"reading clip {number} of {len(clips)}")
        sound = audio.decode(clip.path).samples
        out.append((family.prepare(sound, preparation), family.encode(clip.text, vocabulary)))
    return out


def _refuse_what_cant_fit(checkpoint: Checkpoint, mode: Mode) -> None:
    """Raises ModeError where building takes more memory or disk than there is."""
    weights_bytes = 4 * sum(models.family(checkpoint).parameters(checkpoint.config).values())
    for what, need, free in (
        ("memory", build_bytes(mode, weights_bytes), device.available_memory_bytes()),
        ("disk", round(mode.COST.disk_copies * weights_bytes), shutil.disk_usage(paths.data_folder()).free),
    ):
        if need > free:
            raise ModeError(
                f"Building {mode.NAME} of {checkpoint.name} takes about {need / 1e9:.1f} GB of {what}, and "
                f"{free / 1e9:.1f} GB are free. Make room, choose a smaller model, or build it on a larger machine and "
                "bring it here: python -m bench artefacts export, then import."
            )


def build_bytes(mode: Mode, weights_bytes: int) -> int:
    """Resident memory that building takes at its peak, by what was measured for the mode."""
    return mode.COST.memory_bytes + round(mode.COST.memory_copies * weights_bytes)


class DiskPeak:
    """The most bytes that a folder holds while this context is open, looked at every 0.2 s and at the end."""

    def __init__(self, directory: Path) -> None:
        """Nothing is watched yet."""
        self.bytes, self._directory, self._over = 0, directory, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DiskPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self._look()

    def _look(self) -> None:
        held = 0
        for file in self._directory.rglob("*"):
            with contextlib.suppress(OSError):
                held += file.stat().st_size
        self.bytes = max(self.bytes, held)


def _coverage(digest: str, progress: Progress) -> Coverage:
    """What an artefact quantizes, counted once for this processor and these versions by opening it."""
    known, place = manifest(digest), folder(digest)
    mode = modes.find(known["mode"])
    remembered = paths.cache() / "coverage" / f"{digest}.json"
    here = [device.cpu_name(), device.versions(mode.NEEDS.packages)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(remembered.read_text())
        if found["where"] == here:
            return coverage_from(found["coverage"])
    progress("counting what is quantized")
    family = models.families()[known["family"]]
    opened = mode.open(place, device.default_threads(), family)
    counted = mode.coverage(opened, family, json.loads((place / "config.json").read_text()))
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps({"where": here, "coverage": asdict(counted)}))
    return counted


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
        build_disk_bytes=known["build_disk_bytes"],
    )


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
