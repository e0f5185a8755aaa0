"""The CPU: its features, usable cores, free memory and sensors."""

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
# The flags that decide which kernels a speech model runs on. A CPU has about a hundred others, which would hide them.
NOTABLE_ISA = frozenset({
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
})  # fmt: skip


@lru_cache(maxsize=1)
def isa() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty if unknown."""
    if platform.system() == "Darwin":
        flags = {"FEAT_DotProd": "asimddp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm", "FEAT_SME": "sme"}
        lines = (system.output("sysctl", "hw.optional.arm") or "").splitlines()
        enabled = {line.split(":")[0].rsplit(".", 1)[-1] for line in lines if line.endswith(": 1")}
        return frozenset({flag for feature, flag in flags.items() if feature in enabled} | {"asimd"})
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", system.read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The name of the processor, or else of the board."""
    info = system.read_text("/proc/cpuinfo") or ""
    for pattern in (r"^model name\s*:\s*(.+)$", r"^Model\s*:\s*(.+)$"):
        if match := re.search(pattern, info, re.MULTILINE):
            return " ".join(match.group(1).split())
    board = system.read_text("/proc/device-tree/model")
    return (
        board or system.output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    )


def default_threads() -> int:
    """Cores that this process may use: its affinity mask, limited by the cgroups' CPU quotas."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in groups():
        quota = system.read_text(f"{group}/cpu.max")
        if quota and not quota.startswith("max"):
            limit, period = (int(x) for x in quota.split())
            cores = min(cores, max(1, round(limit / period)))
    return cores


def memory_bytes() -> int:
    """Total memory for this process and its children: the device's, or a lower limit of a cgroup."""
    limits = [int(limit) for g in groups() if (limit := system.read_text(f"{g}/memory.max")) and limit != "max"]
    return min([psutil.virtual_memory().total, *limits])


def available_memory_bytes() -> int:
    """Memory that new processes can take without swapping, within the limits of this cgroup and its ancestors."""
    free = psutil.virtual_memory().available
    for group in groups():
        limit, used = system.read_text(f"{group}/memory.max"), system.read_text(f"{group}/memory.current")
        if limit and used and limit != "max":
            match = re.search(r"^inactive_file (\d+)$", system.read_text(f"{group}/memory.stat") or "", re.MULTILINE)
            reclaimable = int(match.group(1)) if match else 0
            free = min(free, max(0, int(limit) - int(used) + reclaimable))
    return free


def oom_kills() -> int | None:
    """Number of processes that the kernel has killed for lack of memory since boot; None if not reported."""
    match = re.search(r"^oom_kill (\d+)$", system.read_text("/proc/vmstat") or "", re.MULTILINE)
    return int(match.group(1)) if match else None


class Cpu(Kind):
    """This device's processor."""

    NAME = "cpu"

    def placement(self) -> Placement:
        """See Kind: all cores that this process may use."""
        return Placement(self.NAME, default_threads())

    def environment(self, placement: Placement) -> dict[str, str]:
        """See Kind."""
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return dict.fromkeys(variables, str(placement.threads))

    def available_memory_bytes(self) -> int:
        """See Kind."""
        return available_memory_bytes()

    def temperature_c(self) -> float | None:
        """The highest temperature of the processor's sensors."""
        sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        celsius = [s.current for name in _CPU_SENSORS for s in sensors.get(name, ())]
        return max(celsius, default=None)

    def clock_hz(self) -> float | None:
        """The current clock of the fastest core."""
        clocks = []
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
            with contextlib.suppress(OSError, ValueError):
                clocks.append(int(path.read_text()) * 1000.0)
        return max(clocks, default=None)

    def throttled(self) -> bool | None:
        """Whether a Raspberry Pi's firmware throttles now (bits 0 to 3: under-voltage, cap, throttling, soft limit)."""
        try:
            bits = int(Path("/sys/devices/platform/soc/soc:firmware/get_throttled").read_text(), 16)
        except (OSError, ValueError):
            return None
        return bool(bits & 0xF)


KIND = Cpu()
