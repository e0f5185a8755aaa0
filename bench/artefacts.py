"""Variants on disk: built once, found again by digest, verified before use.

An artefact is a folder `cache/artefacts/DIGEST` with the files that opening needs and `artefact.json`, which names
them with their digests. It is built beside its place and moved there whole, so a half-written one is never seen.
DIGEST is that of the recipe: whatever an artefact depends on. One that was built elsewhere (`bench.parcels` brings it)
stands in for the recipe's own whatever library versions and clips it was built with.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import audio, datasets, device, models, modes, paths
from bench.datasets import Clip, DatasetError
from bench.models import Checkpoint, Family, ModelError, Progress
from bench.modes import Mode, ModeError
from bench.readings import memory
from bench.records import Artefact, Coverage, Setting, coverage_from, spelled

MANIFEST = "artefact.json"
WHAT = ("checkpoint", "mode", "mode version", "settings")  # of a recipe: what an artefact is, wherever it was built
RECIPE = (*WHAT, "versions", "clips", "base")
ELSEWHERE = "built elsewhere"  # a detail of artefacts that were imported


class ArtefactError(ValueError):
    """An artefact can't be had, brought or taken away; the text says what came and how to fix it."""


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
    chosen = modes.complete(mode, settings)
    bare = checkpoint.source == "imported"
    identity, weights = (checkpoint.where, None) if bare else family.identity(checkpoint, progress)
    _remember(checkpoint, identity)
    what = _what(identity, mode, chosen)
    progress("looking into the cache")
    try:
        _refuse_without_weights(checkpoint, spelled(mode.NAME, settings))
        clips = _clips(mode, chosen)
    except ModeError:
        if found := _from_elsewhere(what):
            return found
        raise
    recipe = _recipe(what, mode, clips)
    digest = digest_of(recipe)
    if found := _verified(digest) or _from_elsewhere(what):
        return found
    _refuse_what_cant_be_built(checkpoint, mode)
    base = _prepare(model, modes.find(mode.BASE), {}, progress) if mode.BASE else None
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
        if base and (elsewhere := base.details.get(ELSEWHERE)):
            details["built from"] = f"{mode.BASE}, {elsewhere}"
        progress("taking digests")
        made: dict[str, Any] = {
            **recipe,
            "family": family.NAME,
            "model": Path(checkpoint.name).name if checkpoint.source == "folder" else checkpoint.name,
            "details": details,
            "device": device.device().cpu,
            "built_s": time.time(),
            "build_s": time.monotonic() - begun,
            "build_peak_rss_bytes": memory(os.getpid())[1],
            "build_disk_bytes": disk.bytes,
            "files": {f.name: digest_of_file(f) for f in sorted(beside.iterdir())},
        }
        (beside / MANIFEST).write_text(json.dumps(made, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return _artefact(digest, made, from_cache=False)


def _what(identity: str, mode: Mode, chosen: Mapping[str, Setting]) -> dict[str, Any]:
    return dict(zip(WHAT, (identity, mode.NAME, mode.VERSION, dict(chosen)), strict=True))


def _recipe(what: Mapping[str, Any], mode: Mode, clips: Sequence[Clip]) -> dict[str, Any]:
    base = modes.find(mode.BASE) if mode.BASE else None
    of_base = _recipe(_what(what["checkpoint"], base, modes.complete(base, {})), base, ()) if base else None
    return {
        **what,
        "versions": _versions(mode),
        "clips": [digest_of_file(clip.path)["sha256"] for clip in clips],
        "base": digest_of(of_base) if of_base else None,
    }


def _versions(mode: Mode) -> dict[str, str]:
    return device.versions((*mode.NEEDS.packages, *mode.NEEDS.build_packages))


def digest_of(recipe: Mapping[str, Any]) -> str:
    """The digest by which an artefact of this recipe is found; a whole manifest will do for the recipe."""
    text = json.dumps({key: recipe[key] for key in RECIPE}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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


def _refuse_without_weights(checkpoint: Checkpoint, wanted: str) -> None:
    """Raises ModeError for a checkpoint of which artefacts were imported, and nothing else."""
    if checkpoint.source == "imported":
        raise ModeError(
            f"The weights of {checkpoint.name} are not on this device, only what was imported of it "
            f"({checkpoint.note}), so {wanted} can't be built here. Build it where the model is and bring it here: "
            "python -m bench artefacts export, then import."
        )


def _refuse_what_cant_be_built(checkpoint: Checkpoint, mode: Mode) -> None:
    """Raises ModeError where building takes packages that are missing, or more memory or disk than there is."""
    if missing := missing_to_build(mode):
        raise ModeError(
            f"Building {mode.NAME} takes {' and '.join(missing)}, not installed here. Fix: {sys.executable} -m pip "
            "install -r requirements.txt, or build it on another machine and bring it here: python -m bench artefacts "
            "export, then import."
        )
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


def missing_to_build(mode: Mode) -> list[str]:
    """The packages without which the mode's artefacts can be opened, but not built."""
    return [name for name in mode.NEEDS.build_packages if importlib.util.find_spec(name) is None]


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
    remembered = coverage_file(digest)
    here = [device.cpu_name(), device.versions(mode.NEEDS.packages)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(remembered.read_text())
        if found["where"] == here:
            return coverage_from(found["coverage"])
    progress("counting what is quantized")
    family = models.families()[known["family"]]
    opened = mode.open(place, device.default_threads(), family)
    try:
        counted = mode.coverage(opened, family, json.loads((place / "config.json").read_text()))
    except ImportError:  # counting may take what building takes: then what was counted elsewhere has to do
        return coverage_from(known.get("coverage") or {"parts": ()})
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps({"where": here, "coverage": asdict(counted)}))
    return counted


def manifest(digest: str) -> dict[str, Any]:
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
        imported = (place / models.IMPORTED).is_file()
        mode = modes.modes().get(known["mode"])
        usual = {name: option.default for name, option in mode.SETTINGS.items()} if mode else {}
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
            and known["mode version"] == mode.VERSION
            and set(known["settings"]) == set(usual)
            and (imported or known["versions"] == _versions(mode)),
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
        checkpoint, mode = models.find(model), modes.find(mode_name)
        chosen = modes.complete(mode, settings)
    except (ModelError, ModeError):
        return None
    identity = _remembered(checkpoint)
    if identity is None:
        return None
    alike, here = _alike(_what(identity, mode, chosen)), _versions(mode)
    fit = [d for d, known in alike.items() if known["versions"] == here or is_imported(d)]
    return min(fit, key=is_imported, default=None)


def is_imported(digest: str) -> bool:
    """Whether an artefact was built on another device, or by another copy of Earbench."""
    return (folder(digest) / models.IMPORTED).is_file()


def _alike(what: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests of artefacts of the same checkpoint, mode and settings, by digest, the newest first."""
    found = {}
    for path in home().glob(f"[!.]*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # broken, or being removed
            known = _read(path, path.stat().st_mtime_ns)
            if all(known[key] == value for key, value in what.items()):
                found[path.parent.name] = known
    return dict(sorted(found.items(), key=lambda item: item[1]["built_s"], reverse=True))


def _from_elsewhere(what: Mapping[str, Any]) -> Artefact | None:
    """An imported artefact that is what is wanted, whatever versions and clips it was built with."""
    return next((found for d in _alike(what) if is_imported(d) and (found := _verified(d))), None)


def _elsewhere(digest: str, known: Mapping[str, Any]) -> dict[str, str]:
    """The detail that tells of an artefact's import."""
    if not is_imported(digest):
        return {}
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    return {ELSEWHERE: f"on {known['device']} with {versions}"}


def _remember(checkpoint: Checkpoint, identity: str) -> None:
    """Note what a checkpoint's weights are, for glances: telling it may take a network, or reading all weights."""
    note = _note(checkpoint)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps([_stamp(checkpoint), identity]))


def _remembered(checkpoint: Checkpoint) -> str | None:
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


def _verified(digest: str) -> Artefact | None:
    """The artefact if it is there and every byte is as it was written; a broken one is removed."""
    place = folder(digest)
    try:
        known = manifest(digest)
        whole = all(digest_of_file(place / name) == was for name, was in known["files"].items())
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
        details=known["details"] | _elsewhere(digest, known),
        build_disk_bytes=known["build_disk_bytes"],
    )


def digest_of_file(path: Path) -> dict[str, Any]:
    """The size and the digest of a file, as a manifest has them."""
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
