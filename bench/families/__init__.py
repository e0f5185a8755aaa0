"""Model families: one file each. To add one, write a file with a `FAMILY` (see `family.Family`) and list it below.

A family's file does not import torch at module level: the dashboard's process imports it to read names, sizes and
compute costs.
"""

from __future__ import annotations

import importlib
from functools import lru_cache

from bench.core import extras
from bench.families.family import Family

# The files of the families in this package, in the menu's order.
ORDER = ("wav2vec2",)


def families() -> dict[str, Family]:
    """Return all families by name."""
    return extras.with_own(_listed(), "FAMILY", lambda family: family.NAME)


@lru_cache(maxsize=1)
def _listed() -> tuple[Family, ...]:
    return tuple(importlib.import_module(f"{__name__}.{file}").FAMILY for file in ORDER)
