"""The kinds of devices that models run on, one file each. To add one, write a file with a `KIND` and a line below.

A placement names its kind, as in `cpu/2`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import ClassVar

from bench.core.specs import Placement, SpecError

# The kinds' modules in this package. Models run on the first by default.
ORDER = ("cpu",)


class Kind(ABC):
    """A kind of device. A reading is None if it can't be taken."""

    NAME: ClassVar[str]

    @abstractmethod
    def placement(self) -> Placement:
        """The placement on everything that this process may use."""

    @abstractmethod
    def environment(self, placement: Placement) -> dict[str, str]:
        """Environment variables that keep a worker's libraries within a placement."""

    @abstractmethod
    def available_memory_bytes(self) -> int:
        """Memory that a worker can take on this device."""

    def temperature_c(self) -> float | None:
        """The temperature of the hottest sensor."""
        return None

    def clock_hz(self) -> float | None:
        """The current clock."""
        return None

    def throttled(self) -> bool | None:
        """Whether the device throttles now."""
        return None


def find(name: str) -> Kind:
    """The kind with this name. Raises SpecError if there is none."""
    if name not in ORDER:
        raise SpecError(f"Device: got {name}; allowed: {', '.join(ORDER)}.")
    kind: Kind = importlib.import_module(f"bench.device.{name}").KIND
    return kind


def default() -> Placement:
    """The placement on which models run by default."""
    return find(ORDER[0]).placement()
