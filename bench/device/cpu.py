"""The CPU: its features, usable cores, free memory, and what can be read of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from functools import lru_cache
from pathlib import Path

import psutil

from bench.core.specs import Placement
from bench.device import system
from bench.device.cgroups import groups
from bench.device.kinds import Kind

_CPU_SENSORS = (
    "coretemp",
    "k10temp",
    "zenpower",
    "cpu_thermal",
    "cpu-thermal",
    "soc_thermal",
    "acpitz",
    "x86_pkg_temp",
)
# The flags that decide which kernels a speech model gets; the hundred others would bury them.
NOTABLE_ISA = frozenset({
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
})  # fmt: skip


@lru_cache(maxsize=1)
def isa() -> frozenset[str]:
    """The processor's feature flags in Linux' spelling."""
    if platform.system() == "Darwin":
        names = {"FEAT_DotProd": "asimddp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm", "FEAT_SME": "sme"}
        lines = (system.output("sysctl", "hw.optional.arm") or "").splitlines()
        on = {line.split(":")[0].rsplit(".", 1)[-1] for line in lines if line.endswith(": 1")}
        return frozenset({flag for feature, flag in names.items() if feature in on} | {"asimd"})
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", system.read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """What the processor, or else the board, calls itself."""
    info = system.read_text("/proc/cpuinfo") or ""
    for pattern in (r"^model name\s*:\s*(.+)$", r"^Model\s*:\s*(.+)$"):
        if found := re.search(pattern, info, re.MULTILINE):
            return " ".join(found.group(1).split())
    board = system.read_text("/proc/device-tree/model")
    return (
        board or system.output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    )


def default_threads() -> int:
    """Cores this process may use: the affinity mask, cut by the cgroup's CPU quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in groups():
        quota = system.read_text(f"{group}/cpu.max")
        if quota and not quota.startswith("max"):
            limit, period = (int(x) for x in quota.split())
            allowed = min(allowed, max(1, round(limit / period)))
    return allowed


def memory_bytes() -> int:
    """Memory that this process and its children may have at all: the device's, or a cgroup's limit below it."""
    limits = [int(limit) for g in groups() if (limit := system.read_text(f"{g}/memory.max")) and limit != "max"]
    return min([psutil.virtual_memory().total, *limits])


def available_memory_bytes() -> int:
    """Memory that new processes can take without swapping, the limits of this cgroup and those above it respected."""
    free = psutil.virtual_memory().available
    for group in groups():
        limit, used = system.read_text(f"{group}/memory.max"), system.read_text(f"{group}/memory.current")
        if limit and used and limit != "max":
            cached = re.search(r"^inactive_file (\d+)$", system.read_text(f"{group}/memory.stat") or "", re.MULTILINE)
            reclaimable = int(cached.group(1)) if cached else 0
            free = min(free, max(0, int(limit) - int(used) + reclaimable))
    return free


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it booted; None where it doesn't say."""
    found = re.search(r"^oom_kill (\d+)$", system.read_text("/proc/vmstat") or "", re.MULTILINE)
    return int(found.group(1)) if found else None


class Cpu(Kind):
    """The processor of this device."""

    NAME = "cpu"

    def placement(self) -> Placement:
        """All cores that this process may use."""
        return Placement(self.NAME, default_threads())

    def environment(self, placement: Placement) -> dict[str, str]:
        """See Kind."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return dict.fromkeys(names, str(placement.threads))

    def available_memory_bytes(self) -> int:
        """See Kind."""
        return available_memory_bytes()

    def temperature_c(self) -> float | None:
        """The hottest sensor of the processor."""
        sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        celsius = [s.current for name in _CPU_SENSORS for s in sensors.get(name, ())]
        return max(celsius, default=None)

    def clock_hz(self) -> float | None:
        """The fastest core's clock at this moment."""
        clocks = []
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
            with contextlib.suppress(OSError, ValueError):
                clocks.append(int(path.read_text()) * 1000.0)
        return max(clocks, default=None)

    def throttled(self) -> bool | None:
        """Whether a Raspberry Pi's firmware holds it down now (bits 0 to 3: voltage, cap, throttle, soft limit)."""
        try:
            bits = int(Path("/sys/devices/platform/soc/soc:firmware/get_throttled").read_text(), 16)
        except (OSError, ValueError):
            return None
        return bool(bits & 0xF)


KIND = Cpu()
