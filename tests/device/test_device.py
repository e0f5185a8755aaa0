"""Limits of control groups from a tree of files made here, and readings that may be missing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.core.records import Reading
from bench.core.specs import Placement, SpecError
from bench.device import cgroups, cpu, host, kinds, readings, system
from bench.device.readings import Usage

NO_PROCESS = 2**22 + 1  # above the highest id that Linux gives
Tree = Callable[..., None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A device of 8 cores and 1000 bytes, 900 of them free; this process in the group /a/b."""
    root, read = tmp_path / "cgroup", system.read_text
    (root / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(cgroups, "CGROUPS", root)
    monkeypatch.setattr(system, "read_text", lambda p: "1:cpu:/x\n0::/a/b" if p == "/proc/self/cgroup" else read(p))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=900))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(group: str, **files: str) -> None:
        for name, text in files.items():
            (root / group / name.replace("_", ".", 1)).write_text(text + "\n")

    return write


def test_without_limits_the_device_counts(tree: Tree) -> None:
    tree("a/b", memory_max="max", memory_current="700", cpu_max="max 100000")
    assert (cpu.memory_bytes(), cpu.available_memory_bytes(), cpu.default_threads()) == (1000, 900, 8)


def test_the_limit_of_a_group_above_counts(tree: Tree) -> None:
    tree("a", memory_max="500", memory_current="350")
    tree("a/b", memory_max="800", memory_current="100")
    assert cpu.memory_bytes() == 500
    assert cpu.available_memory_bytes() == 150  # 500 - 350, under 800 - 100


def test_cached_files_are_given_back(tree: Tree) -> None:
    tree("a/b", memory_max="500", memory_current="450", memory_stat="anon 1\ninactive_file 120\nactive_file 80")
    assert cpu.available_memory_bytes() == 170  # 500 - 450 + 120


def test_no_less_than_nothing_is_free_and_no_more_than_the_device_has(tree: Tree) -> None:
    tree("a/b", memory_max="400", memory_current="450")
    assert cpu.available_memory_bytes() == 0
    tree("a/b", memory_max="5000", memory_current="450")
    assert (cpu.available_memory_bytes(), cpu.memory_bytes()) == (900, 1000)


@pytest.mark.parametrize(
    ("own_quota", "parent_quota", "threads"),
    [
        ("max 100000", "300000 100000", 3),
        ("200000 100000", "300000 100000", 2),
        ("10000 100000", "max 100000", 1),  # a tenth of a core is one thread
        ("1600000 100000", "max 100000", 8),  # more than there are
    ],
)
def test_the_cpu_quota_cuts_threads(tree: Tree, own_quota: str, parent_quota: str, threads: int) -> None:
    tree("a/b", cpu_max=own_quota)
    tree("a", cpu_max=parent_quota)
    assert cpu.default_threads() == threads


@pytest.mark.parametrize("text", [None, "4:memory:/x\n3:cpu:/x"], ids=["no file", "version 1"])
def test_no_groups_of_version_2(tree: Tree, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    tree("a/b", memory_max="1", memory_current="1", cpu_max="100000 100000")
    monkeypatch.setattr(system, "read_text", lambda _: text)
    assert cgroups.groups() == []
    assert (cpu.memory_bytes(), cpu.available_memory_bytes(), cpu.default_threads()) == (1000, 900, 8)


def test_oom_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "read_text", lambda _: "nr_free_pages 5\noom_kill 12\noom_kill_x 3")
    assert cpu.oom_kills() == 12
    monkeypatch.setattr(system, "read_text", lambda _: None)
    assert cpu.oom_kills() is None


def test_the_device_is_told_without_secrets() -> None:
    device = host.device()
    assert len(device.id) == 12 and device.id != system.read_text("/etc/machine-id")
    assert device.cores >= 1 and device.ram_bytes > 0 and "python" in device.versions


# --- readings


def test_others_cpu_ratio_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    before = Usage(10, 100, 20)
    # 2 s on 4 cores are 8 s of CPU; 6 s were used, 3 of them by the worker
    assert readings.others_cpu_ratio(before, Usage(12, 106, 23)) == pytest.approx(3 / 8)
    assert readings.others_cpu_ratio(before, Usage(12, 106, 30)) == 0.0  # ticks of 10 ms may say less than nothing
    assert readings.others_cpu_ratio(before, Usage(12, 200, 20)) == 1.0
    assert readings.others_cpu_ratio(before, Usage(10, 106, 23)) is None


def test_stolen_time_counts_and_guests_not_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(user=1.0, nice=2.0, system=4.0, irq=8.0, softirq=16.0, steal=32.0, guest=64.0, idle=128.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    usage = readings.usage(NO_PROCESS)
    assert (usage.all_s, usage.process_s) == (63.0, 0.0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """What readings find under / lies here instead."""
    for module in (readings, cpu):
        monkeypatch.setattr(module, "Path", lambda p: tmp_path / p.lstrip("/"))
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def test_what_is_missing_is_none(files: Callable[[str, str], None]) -> None:
    assert readings.reading(NO_PROCESS, None, cpu.KIND) == Reading()
    assert not readings.reset_peak(NO_PROCESS)


def test_what_is_there_is_read_in_si_units(files: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    files("proc/7/status", "VmPeak:\t9 kB\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\n")
    full_info = SimpleNamespace(memory_full_info=lambda: SimpleNamespace(rss=204_800, pss=153_600))
    monkeypatch.setattr(psutil, "Process", lambda pid: full_info if pid == 7 else None)
    for core, khz in ((0, "1200000"), (1, "2400000"), (2, "none")):
        files(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", khz)
    files("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    heat = {"nvme": [SimpleNamespace(current=99.0)], "coretemp": [SimpleNamespace(current=x) for x in (51.0, 62.5)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: heat, raising=False)
    assert readings.reading(7, 0.25, cpu.KIND) == Reading(204_800, 307_200, 153_600, 0.25, 62.5, 2.4e9, True)
    files("sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")  # it was throttled, and is not now
    assert cpu.KIND.throttled() is False


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell a PSS")
def test_a_page_that_processes_share_counts_in_part() -> None:
    private = bytearray(os.urandom(50_000_000))
    before = readings.pss(os.getpid())
    assert before is not None and before > len(private)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        shared = readings.pss(os.getpid())
        assert shared is not None and shared < before - len(private) / 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_system_without_pss(monkeypatch: pytest.MonkeyPatch) -> None:
    info: object = SimpleNamespace(rss=1)
    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda _: info)
    assert readings.pss(os.getpid()) is None
    info = SimpleNamespace(rss=1, pss=0)
    assert readings.pss(os.getpid()) is None


# --- kinds of devices


def test_the_cpu_is_the_kind_that_models_run_on() -> None:
    assert kinds.default() == Placement("cpu", cpu.default_threads()) and kinds.find("cpu") is cpu.KIND
    assert cpu.KIND.environment(Placement("cpu", 3)) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
    }
    with pytest.raises(SpecError, match="Device: got gpu; allowed: cpu"):
        kinds.find("gpu")


def test_another_kind_is_one_more_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kind does not read is None."""

    class Npu(kinds.Kind):
        NAME = "npu"

        def placement(self) -> Placement:
            return Placement("npu", 1)

        def environment(self, placement: Placement) -> dict[str, str]:
            return {}

        def available_memory_bytes(self) -> int:
            return 7

    monkeypatch.setattr(kinds, "ORDER", ("cpu", "npu"))
    monkeypatch.setitem(sys.modules, "bench.device.npu", SimpleNamespace(KIND=Npu()))
    reading = readings.reading(NO_PROCESS, 0.5, kinds.find("npu"))
    assert reading == Reading(others_cpu_ratio=0.5) and str(kinds.find("npu").placement()) == "npu/1"
