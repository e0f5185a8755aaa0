"""Readings of the device and of a worker, taken from outside between visits."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.core.records import Reading
from bench.device.kinds import Kind


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far by the whole device and by one process, at a monotonic time."""

    at_s: float
    all_s: float
    process_s: float


def usage(pid: int) -> Usage:
    """CPU time of the device, including time stolen by other guests, and of a process with its ended children."""
    device_times = psutil.cpu_times()
    # Linux includes guest time in user time, so it is not added.
    all_s = sum(getattr(device_times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    try:
        times = psutil.Process(pid).cpu_times()
        process_s = times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        process_s = 0.0
    return Usage(time.monotonic(), all_s, process_s)


def others_cpu_ratio(before: Usage, after: Usage) -> float | None:
    """Share of all cores' time used by other processes between two usages. CPU time has a resolution of 10 ms."""
    available_s = (after.at_s - before.at_s) * (psutil.cpu_count() or 1)
    if available_s <= 0:
        return None
    others_s = (after.all_s - before.all_s) - (after.process_s - before.process_s)
    return min(1.0, max(0.0, others_s / available_s))


def reset_peak(pid: int) -> bool:
    """Reset the peak resident memory of a process; False if the system does not allow it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return True
    return False


def memory(pid: int) -> tuple[int | None, int | None]:
    """(resident bytes now, peak resident bytes) of a process; None where unknown."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).memory_info().rss, None
        return None, None
    return _kib(status, "VmRSS"), _kib(status, "VmHWM")


def pss(pid: int) -> int | None:
    """Proportional set size of a process in bytes: a page that n processes share counts as 1/n. None where unknown."""
    try:  # psutil reads smaps_rollup, the kernel's own sum, which takes as long as reading it here
        return getattr(psutil.Process(pid).memory_full_info(), "pss", None) or None  # 0: the kernel says nothing
    except psutil.Error:
        return None


def reading(pid: int, others_ratio: float | None, kind: Kind) -> Reading:
    """The current reading of the device and of a worker on it."""
    rss, peak = memory(pid)
    return Reading(
        rss_bytes=rss,
        peak_rss_bytes=peak,
        pss_bytes=pss(pid),
        others_cpu_ratio=others_ratio,
        temperature_c=kind.temperature_c(),
        clock_hz=kind.clock_hz(),
        throttled=kind.throttled(),
    )


def _kib(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None
