"""The control groups (cgroups) of this process, which may limit its memory and CPU time."""

from __future__ import annotations

import re
from pathlib import Path

from bench.device import system

CGROUPS = Path("/sys/fs/cgroup")


def groups() -> list[Path]:
    """The folders of this process's control group (version 2) and of its ancestors; empty if it has none."""
    match = re.search(r"^0::/(.*)$", system.read_text("/proc/self/cgroup") or "", re.MULTILINE)
    if not match:
        return []
    group = CGROUPS / match.group(1)
    return [group, *(p for p in group.parents if p.is_relative_to(CGROUPS))]
