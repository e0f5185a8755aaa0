"""Build an artefact or take it from the cache, and count what it quantizes.

It runs in a builder's process. Where nothing must be built or verified, none is started: see `lookup`.

An artefact is built in a temporary folder beside its final one and renamed when it is complete, so a partial artefact
is never visible.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import modes
from bench.artefacts import cache, lookup
from bench.artefacts.cache import ELSEWHERE, MANIFEST, artefact_of, folder, manifest_of
from bench.artefacts.recipe import (
    current_identity,
    digest_of,
    digest_of_file,
    full_recipe,
    identify,
    portable_recipe,
)
from bench.core import paths
from bench.core.records import Artefact, Coverage, coverage_from
from bench.core.specs import Setting
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
    """Return a variant's artefact, cached or newly built, and its coverage on this device.

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
    full_settings = modes.complete(mode, settings)

    def verified(digest: str) -> Artefact | None:
        return cache.verified(digest, progress)

    progress("looking into the cache")
    remembered = current_identity(checkpoint)
    if remembered and (artefact := lookup.existing(checkpoint, remembered, mode, full_settings, verified)):
        return artefact
    identity, weights = identify(checkpoint, progress)  # weights that are built from are read in full
    if identity != remembered and (artefact := lookup.existing(checkpoint, identity, mode, full_settings, verified)):
        return artefact
    examples = lookup.examples(mode, family, full_settings)
    recipe = full_recipe(portable_recipe(identity, mode, full_settings), mode, examples)
    digest = digest_of(recipe)
    _refuse_what_cant_be_built(checkpoint, mode)
    base = _prepare(model, modes.find(mode.SPEC.base), {}, progress) if mode.SPEC.base else None
    start_s = time.monotonic()
    directory = folder(digest)
    partial = directory.with_name(f".{digest}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        contents = family.describe(checkpoint, weights)
        family.check(json.loads(contents[CONFIG_FILE]), checkpoint.name)  # a repository's configuration came just now
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        if not base:
            progress("loading the float model")
        source = folder(base.digest) if base else family.load(checkpoint, weights)
        data = _data(mode, family, family.parse_files(contents), examples, source, partial, progress)
        with DiskPeak(partial) as disk:
            details = mode.build(source, family, data, full_settings, partial, progress)
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
            "build_s": time.monotonic() - start_s,
            "build_peak_rss_bytes": memory(os.getpid())[1],
            "build_disk_bytes": disk.bytes,
            "files": {f.name: digest_of_file(f) for f in sorted(partial.iterdir())},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        cache.stamp_new(directory, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return artefact_of(digest, manifest, from_cache=False)


def _data(
    mode: Mode,
    family: Family,
    files: Mapping[str, Any],
    examples: Sequence[Example],
    source: Any,
    partial: Path,
    progress: Progress,
) -> Data:
    """Return the examples as `Mode.build` takes them: prepared, and as each network's feeds. Raises AudioError."""
    prepared = []
    for number, example in enumerate(examples, 1):
        progress(f"reading clip {number} of {len(examples)}")
        target = family.encode(example.target, files) if mode.SPEC.data == "targets" else None
        prepared.append((family.prepare(example.read(), files), target))
    if not prepared:
        return Data()
    networks = family.read_networks(partial)
    cropped = [family.crop(feed, family.CALIBRATION_SIZE) for feed, _ in prepared]
    if len(networks) == 1 and not networks[0].state:  # the network is fed what was prepared
        return Data(prepared, {networks[0].name: cropped})
    return Data(prepared, _captured(mode, family, files, networks, cropped, source, progress))


def _captured(
    mode: Mode,
    family: Family,
    files: Mapping[str, Any],
    networks: Sequence[Network],
    examples: Sequence[Feed],
    source: Any,
    progress: Progress,
) -> dict[str, list[Feed]]:
    """Return each network's feeds, state included, recorded while the float model runs the examples."""
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


def _refuse_what_cant_be_built(checkpoint: Checkpoint, mode: Mode) -> None:
    """Raise ModeError if the build needs packages that are missing, or more memory or disk than is free."""
    if missing := lookup.missing_to_build(mode):
        raise ModeError(
            f"Building {mode.name} takes {' and '.join(missing)}, not installed here. Fix: {sys.executable} -m pip "
            "install -r requirements.txt, or build it on another machine and bring it here: python -m bench artefacts "
            "export, then import."
        )
    family = catalogue.family(checkpoint)
    weights_bytes = 4 * family.profile(checkpoint.config, family.COVERAGE_SIZE).parameters
    for resource, need, free in (
        ("memory", build_bytes(mode, weights_bytes), cpu.available_memory_bytes()),
        ("disk", round(mode.SPEC.cost.disk_copies * weights_bytes), shutil.disk_usage(paths.data_folder()).free),
    ):
        if need > free:
            raise ModeError(
                f"Building {mode.name} of {checkpoint.name} takes about {need / 1e9:.1f} GB of {resource}, and "
                f"{free / 1e9:.1f} GB are free. Make room, choose a smaller model, or build it on a larger machine and "
                "bring it here: python -m bench artefacts export, then import."
            )


def build_bytes(mode: Mode, weights_bytes: int) -> int:
    """Return the build's peak resident memory in bytes, from the mode's measured cost."""
    return mode.SPEC.cost.memory_bytes + round(mode.SPEC.cost.memory_copies * weights_bytes)


class DiskPeak:
    """Context manager that records a folder's peak size in bytes, sampled every 0.2 s and at the end."""

    def __init__(self, directory: Path) -> None:
        """Sampling starts when the context is entered."""
        self.bytes, self._directory, self._stop = 0, directory, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DiskPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._sample()

    def _sample(self) -> None:
        total_bytes = 0
        for file in self._directory.rglob("*"):
            with contextlib.suppress(OSError):
                total_bytes += file.stat().st_size
        self.bytes = max(self.bytes, total_bytes)


def _coverage(digest: str, progress: Progress) -> Coverage:
    """Return an artefact's coverage, counted by opening it and cached for this processor and these versions."""
    if coverage := lookup.counted(digest):
        return coverage
    manifest, directory = manifest_of(digest), folder(digest)
    mode = modes.find(manifest["mode"])
    progress("counting what is quantized")
    family = families()[manifest["family"]]
    files = family.read_files(directory)
    config = files[CONFIG_FILE]

    def exercise(networks: Mapping[str, Opened]) -> None:
        size = min(family.AXIS.defaults)
        feed = family.inputs(size, 1, 0, "noise", files)
        family.run(networks, feed, files, family.steps(config, size), lambda phase: None)

    opened = mode.open(directory, kinds.default(), family, family.networks(config))
    try:
        coverage = mode.coverage(opened, family.profile(config, family.COVERAGE_SIZE), exercise)
    except ImportError:  # counting may need the build packages: use the coverage counted on the other device
        coverage = coverage_from(manifest.get("coverage") or {"parts": ()})
    lookup.remember_count(digest, coverage)
    return coverage
