"""Families and modes from outside Earbench: EARBENCH_EXTRA=package.module,package.module names their modules.

A family's module defines `FAMILY` and a mode's module defines `MODE`, exactly as Earbench's own do. Child processes
inherit the variable, and no page can set it.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from typing import Any

from bench.core.errors import EarbenchError

VARIABLE = "EARBENCH_EXTRA"


class ExtraError(EarbenchError):
    """A module that EARBENCH_EXTRA names can't be used."""


def check() -> None:
    """Import all modules of EARBENCH_EXTRA. Raises ExtraError."""
    _modules(os.environ.get(VARIABLE, ""))


def named(attribute: str) -> list[Any]:
    """The values of an attribute in all modules of EARBENCH_EXTRA that define it, in their order. Raises ExtraError."""
    return [
        getattr(module, attribute) for module in _modules(os.environ.get(VARIABLE, "")) if hasattr(module, attribute)
    ]


@lru_cache(maxsize=8)
def _modules(names: str) -> list[Any]:
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
