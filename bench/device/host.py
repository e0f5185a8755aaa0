"""This device's identity: id, name, operating system and library versions."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from importlib import metadata

import psutil

from bench.core.records import Device
from bench.device import system
from bench.device.cpu import NOTABLE_ISA, cpu_name, isa

PACKAGES = ("torch", "torchao", "transformers", "numpy", "streamlit")


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
        governor=system.read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        virtual=_virtual(),
    )


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of the installed ones among `packages`, by name, without importing any of them."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _device_id() -> str:
    """A digest of the machine's own id: stable, and does not reveal that id."""
    machine_id = system.read_text("/etc/machine-id") or f"{platform.node()}-{cpu_name()}"
    return hashlib.sha256(f"earbench:{machine_id}".encode()).hexdigest()[:12]


def _os_name() -> str:
    if platform.system() == "Linux":
        try:
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
        except (OSError, KeyError):
            pass
    return f"{platform.system()} {platform.release()}"


def _virtual() -> bool | None:
    info = system.read_text("/proc/cpuinfo")
    return None if info is None or platform.machine() != "x86_64" else " hypervisor" in info
