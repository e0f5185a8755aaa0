"""Building an artefact, or finding it in the cache; and counting what it quantizes.

It is built beside its place and moved there whole, so a half-written one is never seen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import modes
from bench.artefacts.cache import (
    ELSEWHERE,
    MANIFEST,
    artefact_of,
    coverage_file,
    folder,
    from_elsewhere,
    manifest_of,
    verified,
)
from bench.artefacts.recipe import digest_of, digest_of_file, full_recipe, portable_recipe, remember_identity
from bench.core import paths
from bench.core.errors import EarbenchError
from bench.core.records import Artefact, Coverage, coverage_from
from bench.core.specs import Setting, spelled
from bench.device import cpu, host, kinds
from bench.device.readings import memory
from bench.families import catalogue, families
from bench.families.family import CONFIG_FILE, Checkpoint, Family, Progress
from bench.families.network import Feed, Network, UntilEnd
from bench.families.session import Opened, Watched
from bench.families.tasks.task import Example
from bench.modes.mode import Data, Mode, ModeError
from bench.modes.torch import engine as torch_engine


def prepare(
    model: str, mode_name: str, settings: Mapping[str, Setting], progress: Progress
) -> tuple[Artefact, Coverage]:
    """The artefact of a variant, from the cache or built now, and what it quantizes on this device.

    Call it in a process that may import engines. Raises EarbenchError, and whatever an engine raises.
    """
    artefact = _prepare(model, modes.find(mode_name), settings, progress)
    return artefact, _coverage(artefact.digest, progress)


def _prepare(model: str, mode: Mode, settings: Mapping[str, Setting], progress: Progress) -> Artefact:
    checkpoint = catalogue.find(model)
    try:
        mode.check()
    except Exception as e:
        raise ModeError(f"{mode.name} can't run here: {e}") from e
    family = catalogue.family(checkpoint)
    modes.refuse_unsupported(mode, family, checkpoint.config, checkpoint.name)
    chosen = modes.complete(mode, settings)
    bare = checkpoint.source == "imported"
    identity, weights = (checkpoint.where, None) if bare else family.identity(checkpoint, progress)
    remember_identity(checkpoint, identity)
    what = portable_recipe(identity, mode, chosen)
    progress("looking into the cache")
    try:
        _refuse_without_weights(checkpoint, spelled(mode.name, settings))
        examples = _examples(mode, family, chosen)
    except ModeError:
        if imported := from_elsewhere(what):
            return imported
        raise
    recipe = full_recipe(what, mode, examples)
    digest = digest_of(recipe)
    if kept := verified(digest) or from_elsewhere(what):
        return kept
    _refuse_what_cant_be_built(checkpoint, mode)
    base = _prepare(model, modes.find(mode.SPEC.base), {}, progress) if mode.SPEC.base else None
    begun = time.monotonic()
    place = folder(digest)
    beside = place.with_name(f".{digest}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        contents = family.describe(checkpoint, weights)
        for name, content in contents.items():
            (beside / name).write_bytes(content)
        if not base:
            progress("loading the float model")
        source = folder(base.digest) if base else family.load(checkpoint, weights)
        data = _data(mode, family, family.parse_files(contents), examples, source, beside, progress)
        with DiskPeak(beside) as disk:
            details = mode.build(source, family, data, chosen, beside, progress)
        if base and (elsewhere := base.details.get(ELSEWHERE)):
            details["built from"] = f"{mode.SPEC.base}, {elsewhere}"
        progress("taking digests")
        manifest: dict[str, Any] = {
            **recipe,
            "family": family.NAME,
            "model": Path(checkpoint.name).name if checkpoint.source == "folder" else checkpoint.name,
            "details": details,
            "device": host.device().cpu,
            "built_s": time.time(),
            "build_s": time.monotonic() - begun,
            "build_peak_rss_bytes": memory(os.getpid())[1],
            "build_disk_bytes": disk.bytes,
            "files": {f.name: digest_of_file(f) for f in sorted(beside.iterdir())},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return artefact_of(digest, manifest, from_cache=False)


def _examples(mode: Mode, family: Family, settings: Mapping[str, Setting]) -> Sequence[Example]:
    """The examples that a mode is to look at. Raises ModeError."""
    if not mode.SPEC.data:
        return ()
    try:
        return family.TASK.examples(str(settings["data"]), int(settings["clips"]))
    except EarbenchError as e:
        raise ModeError(f"{mode.name} needs clips to look at. {e}") from e


def _data(
    mode: Mode,
    family: Family,
    files: Mapping[str, Any],
    examples: Sequence[Example],
    source: Any,
    beside: Path,
    progress: Progress,
) -> Data:
    """Examples as modes want them: prepared, and as they reach each network. Raises AudioError."""
    prepared = []
    for number, example in enumerate(examples, 1):
        progress(f"reading clip {number} of {len(examples)}")
        target = family.encode(example.target, files) if mode.SPEC.data == "targets" else None
        prepared.append((family.prepare(example.read(), files), target))
    if not prepared:
        return Data()
    networks = family.read_networks(beside)
    if len(networks) == 1 and not networks[0].state:  # what it is fed is what was prepared
        return Data(prepared, {networks[0].name: [feed for feed, _ in prepared]})
    return Data(prepared, _captured(mode, family, files, networks, [feed for feed, _ in prepared], source, progress))


def _captured(
    mode: Mode,
    family: Family,
    files: Mapping[str, Any],
    networks: Sequence[Network],
    examples: Sequence[Feed],
    source: Any,
    progress: Progress,
) -> dict[str, list[Feed]]:
    """What each network was fed while the float model ran the examples, its state included."""
    placement, stateless = kinds.default(), [n.stateless() for n in networks]
    opened: Mapping[str, Opened]
    if mode.SPEC.base:
        opened = modes.find(mode.SPEC.base).open(source, placement, family, stateless)
    else:
        opened = {n.name: torch_engine.TorchOpened(source[n.name], n, placement) for n in stateless}
    feeds: dict[str, list[Feed]] = {n.name: [] for n in networks}
    watched = {n.name: Watched(n, opened[n.name], feeds[n.name].append) for n in networks}
    for number, feed in enumerate(examples, 1):
        progress(f"running the float model, clip {number} of {len(examples)}")
        family.run(watched, feed, files, UntilEnd(), lambda phase: None)
    return feeds


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
            f"Building {mode.name} takes {' and '.join(missing)}, not installed here. Fix: {sys.executable} -m pip "
            "install -r requirements.txt, or build it on another machine and bring it here: python -m bench artefacts "
            "export, then import."
        )
    family = catalogue.family(checkpoint)
    weights_bytes = 4 * family.profile(checkpoint.config, family.COVERAGE_SIZE).parameters
    for what, need, free in (
        ("memory", build_bytes(mode, weights_bytes), cpu.available_memory_bytes()),
        ("disk", round(mode.SPEC.cost.disk_copies * weights_bytes), shutil.disk_usage(paths.data_folder()).free),
    ):
        if need > free:
            raise ModeError(
                f"Building {mode.name} of {checkpoint.name} takes about {need / 1e9:.1f} GB of {what}, and "
                f"{free / 1e9:.1f} GB are free. Make room, choose a smaller model, or build it on a larger machine and "
                "bring it here: python -m bench artefacts export, then import."
            )


def missing_to_build(mode: Mode) -> list[str]:
    """The packages without which the mode's artefacts can be opened, but not built."""
    return [name for name in mode.SPEC.needs.build_packages if importlib.util.find_spec(name) is None]


def build_bytes(mode: Mode, weights_bytes: int) -> int:
    """Resident memory that building takes at its peak, by what was measured for the mode."""
    return mode.SPEC.cost.memory_bytes + round(mode.SPEC.cost.memory_copies * weights_bytes)


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
    known, place = manifest_of(digest), folder(digest)
    mode = modes.find(known["mode"])
    remembered = coverage_file(digest)
    here = [cpu.cpu_name(), host.versions(mode.SPEC.needs.packages)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(remembered.read_text())
        if kept["where"] == here:
            return coverage_from(kept["coverage"])
    progress("counting what is quantized")
    family = families()[known["family"]]
    files = family.read_files(place)
    config = files[CONFIG_FILE]

    def exercise(networks: Mapping[str, Opened]) -> None:
        size = min(family.AXIS.defaults)
        feed = family.inputs(size, 1, 0, "noise", files)
        family.run(networks, feed, files, family.steps(config, size), lambda phase: None)

    opened = mode.open(place, kinds.default(), family, family.networks(config))
    try:
        counted = mode.coverage(opened, family.profile(config, family.COVERAGE_SIZE), exercise)
    except ImportError:  # counting may take what building takes: then what was counted elsewhere has to do
        return coverage_from(known.get("coverage") or {"parts": ()})
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps({"where": here, "coverage": asdict(counted)}))
    return counted
