"""The device in front of you: processor, memory, system, versions. Nothing here measures a model."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import psutil

from bench.records import Device

CGROUPS = Path("/sys/fs/cgroup")
PACKAGES = ("torch", "torchao", "transformers", "numpy", "streamlit")
# The flags that decide which kernels a speech model gets; the hundred others would bury them.
NOTABLE_ISA = frozenset({
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
})  # fmt: skip


@lru_cache(maxsize=1)
def device() -> Device:
    """This device, read once."""
    return Device(
        id=_device_id(),
        name=platform.node() or "device",
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        isa=tuple(sorted(isa() & NOTABLE_ISA)),
        ram_bytes=psutil.virtual_memory().total,
        os=_os_name(),
        machine=platform.machine(),
        versions=versions(PACKAGES),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        virtual=_virtual(),
    )


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by name, Python included, without importing anything; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def isa() -> frozenset[str]:
    """The processor's feature flags in Linux' spelling."""
    if platform.system() == "Darwin":
        names = {"FEAT_DotProd": "asimddp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm", "FEAT_SME": "sme"}
        lines = (_run("sysctl", "hw.optional.arm") or "").splitlines()
        on = {line.split(":")[0].rsplit(".", 1)[-1] for line in lines if line.endswith(": 1")}
        return frozenset({flag for feature, flag in names.items() if feature in on} | {"asimd"})
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """What the processor, or else the board, calls itself."""
    info = _read("/proc/cpuinfo") or ""
    for pattern in (r"^model name\s*:\s*(.+)$", r"^Model\s*:\s*(.+)$"):
        if found := re.search(pattern, info, re.MULTILINE):
            return " ".join(found.group(1).split())
    board = _read("/proc/device-tree/model")
    return board or _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def default_threads() -> int:
    """Cores this process may use: the affinity mask, cut by the cgroup's CPU quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _cgroups():
        quota = _read(f"{group}/cpu.max")
        if quota and not quota.startswith("max"):
            limit, period = (int(x) for x in quota.split())
            allowed = min(allowed, max(1, round(limit / period)))
    return allowed


def memory_bytes() -> int:
    """Memory that this process and its children may have at all: the device's, or a cgroup's limit below it."""
    limits = [int(limit) for g in _cgroups() if (limit := _read(f"{g}/memory.max")) and limit != "max"]
    return min([psutil.virtual_memory().total, *limits])


def available_memory_bytes() -> int:
    """Memory that new processes can take without swapping, the limits of this cgroup and those above it respected."""
    free = psutil.virtual_memory().available
    for group in _cgroups():
        limit, used = _read(f"{group}/memory.max"), _read(f"{group}/memory.current")
        if limit and used and limit != "max":
            cached = re.search(r"^inactive_file (\d+)$", _read(f"{group}/memory.stat") or "", re.MULTILINE)
            reclaimable = int(cached.group(1)) if cached else 0
            free = min(free, max(0, int(limit) - int(used) + reclaimable))
    return free


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it booted; None where it doesn't say."""
    found = re.search(r"^oom_kill (\d+)$", _read("/proc/vmstat") or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def _cgroups() -> list[Path]:
    """The folders of this process's control group (version 2) and of those above it."""
    found = re.search(r"^0::/(.*)$", _read("/proc/self/cgroup") or "", re.MULTILINE)
    if not found:
        return []
    own = CGROUPS / found.group(1)
    return [own, *(p for p in own.parents if p.is_relative_to(CGROUPS))]


def _device_id() -> str:
    """Stable for a machine, and tells nobody which: a digest of its own id."""
    own = _read("/etc/machine-id") or f"{platform.node()}-{cpu_name()}"
    return hashlib.sha256(f"earbench:{own}".encode()).hexdigest()[:12]


def _os_name() -> str:
    if platform.system() == "Linux":
        try:
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
        except (OSError, KeyError):
            pass
    return f"{platform.system()} {platform.release()}"


def _virtual() -> bool | None:
    info = _read("/proc/cpuinfo")
    return None if info is None or platform.machine() != "x86_64" else " hypervisor" in info


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
