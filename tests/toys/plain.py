"""A mode that needs no engine, for tests of the cache, and a registry in which it is the only one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import modes
from bench.core.records import Coverage, Part
from bench.device import host
from bench.families import wav2vec2
from bench.families.network import Profile
from bench.jobs import manager
from bench.modes.mode import Cost, Mode, ModeSpec, Needs, Option, Precision


class Plain(Mode):
    """A mode that writes a few bytes; it can be opened by what every Python has."""

    SPEC = ModeSpec(
        name="torch-plain",
        label="plain",
        engine="torch",
        weights=Precision(8, "all"),
        activations=Precision(32, "float"),
        needs=Needs(packages=("numpy",)),
        cost=Cost(0, 0.0, 0.0),
        stores={"": 8},
        settings={"bits": Option(8, "how many", 2, 8)},
        open_code="forward = None",
    )

    def __init__(self) -> None:
        self.built = 0

    def build(self, source: Any, family: Any, data: Any, settings: Any, out: Path, progress: Any) -> dict[str, str]:
        self.built += 1
        (out / "weights.bin").write_bytes(bytes(1000))
        return {name: str(value) for name, value in settings.items()}

    def open(self, directory: Path, placement: Any, family: Any, networks: Any) -> Any:
        return {}

    def coverage(self, opened: Any, profile: Profile, exercise: Any) -> Coverage:
        return Coverage((Part("all", 8, 32, 1, profile.macs),))


@contextmanager
def the_only_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plain]:
    """Within the block it is the only mode, and building it loads no weights."""
    mode = Plain()
    monkeypatch.setattr(modes, "modes", lambda: {mode.name: mode})
    monkeypatch.setattr(wav2vec2.FAMILY, "load", lambda checkpoint, folder: {})
    monkeypatch.setattr(host, "versions", lambda packages: dict.fromkeys(packages, "1.0"))
    manager._jobs.cache_clear()
    yield mode
    manager._jobs.cache_clear()
