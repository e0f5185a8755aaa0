"""The device and a worker, read from outside between visits."""

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
    """CPU time so far, of the whole device and of one process, in seconds."""

    at_s: float
    all_s: float
    process_s: float


def usage(pid: int) -> Usage:
    """CPU time of the device (stolen time counts: a neighbour took it) and of a process, with its dead children."""
    t = psutil.cpu_times()
    # Linux counts guest time within user time, so it is not added again.
    busy = sum(getattr(t, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    try:
        own = psutil.Process(pid).cpu_times()
        process = own.user + own.system + own.children_user + own.children_system
    except psutil.Error:
        process = 0.0
    return Usage(time.monotonic(), busy, process)


def others_cpu_ratio(before: Usage, after: Usage) -> float | None:
    """The share of all cores' time that everybody else took between two usages; the clock ticks in 10 ms."""
    wall = (after.at_s - before.at_s) * (psutil.cpu_count() or 1)
    if wall <= 0:
        return None
    others = (after.all_s - before.all_s) - (after.process_s - before.process_s)
    return min(1.0, max(0.0, others / wall))


def reset_peak(pid: int) -> bool:
    """Start the high-water mark of a process's memory anew; False where the system does not allow it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return True
    return False


def memory(pid: int) -> tuple[int | None, int | None]:
    """(resident bytes now, high-water mark in bytes) of a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).memory_info().rss, None
        return None, None
    return _kib(status, "VmRSS"), _kib(status, "VmHWM")


def reading(pid: int, others_ratio: float | None, kind: Kind) -> Reading:
    """Everything that can be read now of the device and of a worker on it."""
    rss, peak = memory(pid)
    try:
        pss = _kib(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    except OSError:
        pss = None
    return Reading(
        rss_bytes=rss,
        peak_rss_bytes=peak,
        pss_bytes=pss,
        others_cpu_ratio=others_ratio,
        temperature_c=kind.temperature_c(),
        clock_hz=kind.clock_hz(),
        throttled=kind.throttled(),
    )


def _kib(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
