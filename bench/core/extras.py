"""Families and modes from outside Earbench: EARBENCH_EXTRA=package.module,package.module names their modules.

A family's module defines `FAMILY` and a mode's module defines `MODE`, exactly as Earbench's own do. Child processes
inherit the variable, and no page can set it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import ModuleType
from typing import TypeVar

from bench.core.errors import EarbenchError

VARIABLE = "EARBENCH_EXTRA"
T = TypeVar("T")


class ExtraError(EarbenchError):
    """A module that EARBENCH_EXTRA names can't be used."""


def check() -> None:
    """Import all modules of EARBENCH_EXTRA. Raises ExtraError."""
    _modules(os.environ.get(VARIABLE, ""))


def with_own(shipped: Iterable[T], attribute: str, name_of: Callable[[T], str]) -> dict[str, T]:
    """Earbench's own families or modes and those of the extra modules, by name. Raises ExtraError for a name in use."""
    by_name = {name_of(value): value for value in shipped}
    own_names = list(by_name)
    for module in _modules(os.environ.get(VARIABLE, "")):
        if not hasattr(module, attribute):
            continue
        value = getattr(module, attribute)
        try:
            name = name_of(value)
        except AttributeError as e:
            raise ExtraError(
                f"{VARIABLE} names {module.__name__}, whose {attribute} has no name ({e}). Allowed: an object like "
                "those in Earbench's own files."
            ) from e
        if name in by_name:
            owner = "Earbench itself" if name in own_names else "another of these modules"
            raise ExtraError(
                f"{VARIABLE} names {module.__name__}, whose {attribute} is called “{name}”: {owner} has one of that "
                f"name. Allowed: any name but {', '.join(by_name)}. Give it another name in that file."
            )
        by_name[name] = value
    return by_name


@lru_cache(maxsize=8)
def _modules(names: str) -> list[ModuleType]:
    modules = []
    for name in filter(None, map(str.strip, names.split(","))):
        try:
            module = importlib.import_module(name)
        except Exception as e:  # whatever the code of others raises
            raise ExtraError(
                f"{VARIABLE} names {name}, which can't be imported ({type(e).__name__}: {e}). Allowed: "
                "modules that Python finds from Earbench's folder, separated by commas."
            ) from e
        if not hasattr(module, "FAMILY") and not hasattr(module, "MODE"):
            raise ExtraError(f"{VARIABLE} names {name}, which defines neither FAMILY nor MODE.")
        modules.append(module)
    return modules
