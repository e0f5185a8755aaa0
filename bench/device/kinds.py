"""Kinds of devices that models run on: one file each. To add one, write a file with a `KIND` and a line below.

A placement names its kind: `cpu/2`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import ClassVar

from bench.core.specs import Placement, SpecError

# The files of the kinds in this package; the first one is where models run by default.
ORDER = ("cpu",)


class Kind(ABC):
    """What a kind of device offers. What can't be read is None."""

    NAME: ClassVar[str]

    @abstractmethod
    def placement(self) -> Placement:
        """All of it, as this process may use it."""

    @abstractmethod
    def environment(self, placement: Placement) -> dict[str, str]:
        """What a worker's libraries must find in their environment to stay within a placement."""

    @abstractmethod
    def available_memory_bytes(self) -> int:
        """Memory that a worker can take there."""

    def temperature_c(self) -> float | None:
        """The hottest sensor."""
        return None

    def clock_hz(self) -> float | None:
        """The clock at this moment."""
        return None

    def throttled(self) -> bool | None:
        """Whether the device holds its clock down now."""
        return None


def find(name: str) -> Kind:
    """The kind of a name. Raises SpecError."""
    if name not in ORDER:
        raise SpecError(f"Device: got {name}; allowed: {', '.join(ORDER)}.")
    kind: Kind = importlib.import_module(f"bench.device.{name}").KIND
    return kind


def default() -> Placement:
    """Where models run if nothing else is said."""
    return find(ORDER[0]).placement()
