"""Find what a variant would be opened from, without building and without reading weights.

The dashboard's process uses `ready`, so that no builder starts where nothing must be built; the builder uses `existing`
once it knows the checkpoint's identity.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from bench import modes
from bench.artefacts import cache
from bench.artefacts.recipe import current_identity, digest_of, full_recipe, portable_recipe
from bench.core.errors import EarbenchError
from bench.core.records import Artefact, Coverage, coverage_from
from bench.core.specs import Setting, spelled
from bench.device import cpu, host
from bench.families import catalogue
from bench.families.family import Checkpoint, Family
from bench.families.tasks.task import Example
from bench.modes.mode import Mode, ModeError

MOST_CLIPS = 256  # of a calibration: reading more for their digests takes longer than a builder's start

Check = Callable[[str], Artefact | None]  # the artefact of a digest if it can be used: `cache.checked` or `.verified`


def ready(model: str, mode_name: str, settings: Mapping[str, Setting]) -> tuple[Artefact, Coverage] | None:
    """Return a variant's artefact and coverage if both are at hand; None if a builder must make or verify something.

    Everything that `build.prepare` looks at is compared: weights, clips, versions, files, this processor. Files are
    judged by their stamps.
    """
    with suppress(EarbenchError, OSError, ValueError, KeyError):  # the builder says what is wrong
        checkpoint, mode = catalogue.find(model), modes.find(mode_name)
        full_settings = modes.complete(mode, settings)
        if mode.SPEC.data and not 0 < int(full_settings["clips"]) <= MOST_CLIPS:
            return None
        modes.refuse_unsupported(mode, catalogue.family(checkpoint), checkpoint.config, checkpoint.name)
        identity = current_identity(checkpoint)
        artefact = identity and existing(checkpoint, identity, mode, full_settings, cache.checked)
        if artefact and (coverage := counted(artefact.digest)):
            return artefact, coverage
    return None


def existing(
    checkpoint: Checkpoint, identity: str, mode: Mode, settings: Mapping[str, Setting], check: Check
) -> Artefact | None:
    """Return the artefact that a variant is opened from: its own, else an imported one; None if it must be built.

    Raises ModeError if it can't be built here, for want of weights or examples.
    """
    portable = portable_recipe(identity, mode, settings)
    imported = cache.imported(portable)
    try:
        refuse_without_weights(checkpoint, mode, settings)
        digest = digest_of(full_recipe(portable, mode, examples(mode, catalogue.family(checkpoint), settings)))
    except ModeError:
        if artefact := _first(imported, check):
            return artefact
        raise
    return _first([digest, *imported], check)


def _first(digests: Sequence[str], check: Check) -> Artefact | None:
    return next(filter(None, map(check, digests)), None)


def refuse_without_weights(checkpoint: Checkpoint, mode: Mode, settings: Mapping[str, Setting]) -> None:
    """Raise ModeError for a checkpoint of which only imported artefacts are on this device."""
    if checkpoint.source == "imported":
        defaults = modes.complete(mode, {})
        changed = {name: value for name, value in settings.items() if value != defaults[name]}
        raise ModeError(
            f"The weights of {checkpoint.name} are not on this device, only what was imported of it "
            f"({checkpoint.note}), so {spelled(mode.name, changed)} can't be built here. Build it where the model is "
            "and bring it here: python -m bench artefacts export, then import."
        )


def examples(mode: Mode, family: Family, settings: Mapping[str, Setting]) -> Sequence[Example]:
    """Return the calibration or tuning examples that a mode needs. Raises ModeError."""
    if not mode.SPEC.data:
        return ()
    try:
        return family.TASK.examples(str(settings["data"]), int(settings["clips"]))
    except EarbenchError as e:
        raise ModeError(f"{mode.name} needs clips to look at. {e}") from e


# --- coverage


def counted(digest: str) -> Coverage | None:
    """Return the coverage of an artefact if it was counted on this processor and with these versions, else None."""
    try:
        record = json.loads(cache.coverage_file(digest).read_text())
        return coverage_from(record["coverage"]) if record["where"] == _where(digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_count(digest: str, coverage: Coverage) -> None:
    """Remember a coverage that was counted here."""
    file = cache.coverage_file(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"where": _where(digest), "coverage": asdict(coverage)}))


def _where(digest: str) -> list[Any]:
    """Return what a count depends on: the processor, the versions, and what is missing to count with."""
    mode = modes.find(cache.manifest_of(digest)["mode"])
    missing = missing_to_build(mode)
    return [cpu.cpu_name(), host.versions(mode.SPEC.needs.packages), *([missing] if missing else [])]


def missing_to_build(mode: Mode) -> list[str]:
    """Return the missing packages that building needs and opening does not."""
    return [name for name in mode.SPEC.needs.build_packages if importlib.util.find_spec(name) is None]
