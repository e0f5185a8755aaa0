"""The job manager over real workers: one job at a time, cancel, resume, refusals, and runs in which all fails."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import LIGHT, PROMPT_S, alive, own_cache, wait_for

from bench.artefacts import cache
from bench.core import paths
from bench.core.lease import Refused
from bench.core.records import Artefact, Visit
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.device import cpu
from bench.jobs.manager import Jobs
from bench.workers.client import Pool

LIMIT_S = 120.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def manager(data_folder: Path) -> Iterator[Jobs]:
    found = Jobs(Store(paths.database()))
    yield found
    found.cancel()
    assert found.wait(30)


def spec(model: Path, sizes: tuple[float, ...] = (0.5, 1.0), modes: tuple[str, ...] = LIGHT[:1]) -> RunSpec:
    return RunSpec.grid([str(model)], modes, sizes, placements=[Placement("cpu", 1)], repeats=3, precision_target=1.0)


def workers() -> list[int]:
    """The worker processes of this process, running or stopped."""
    children = [p for p in psutil.Process().children(recursive=True) if alive(p.pid)]
    return [p.pid for p in children if "bench.workers.process" in p.cmdline()]


def state(manager: Jobs, run_id: str) -> tuple[str, str | None]:
    run = manager.store.run(run_id)
    assert run
    return run.state, run.message


def stage(manager: Jobs) -> str:
    return manager.live.progress.stage if manager.live else ""


def cancel_in_time(manager: Jobs, run_id: str) -> None:
    """Cancel, and see that the job has ended promptly, the run says so, and no worker is left."""
    assert workers()
    manager.cancel()
    assert manager.wait(PROMPT_S)
    assert state(manager, run_id) == ("cancelled", "Cancelled. What was measured is kept.")
    assert not workers()
    assert manager.holder() is None
    assert not list(paths.logs().iterdir())


def test_one_job_from_a_double_start_over_a_cancel_to_the_end(
    manager: Jobs, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, other = spec(tiny_model), Jobs(manager.store)
    looked, stored, add_visit = threading.Event(), itertools.count(), manager.store.add_visit

    def at_leisure(group_id: int, visit: Visit) -> None:
        """The run waits at its first visit for all looks at it, and at its fifth, of the second group, for a cancel."""
        number = next(stored)
        if number == 0:
            assert looked.wait(LIMIT_S)
        if number == 4:
            wait_for(lambda: manager.live and manager.live.cancelled, "the cancel", LIMIT_S)
        add_visit(group_id, visit)

    monkeypatch.setattr(manager.store, "add_visit", at_leisure)

    # Pages look at the lock all the time, and two people press Start at once.
    over = threading.Event()
    with ThreadPoolExecutor() as threads:
        for _ in range(2):
            threads.submit(lambda: [other.holder() for _ in iter(over.is_set, True)])
        together = threading.Barrier(2)
        started = [threads.submit(lambda: together.wait(10) is None or manager.start(wanted)) for _ in range(2)]
        run_id, twin = (s.result(30) for s in started)
        over.set()
    assert run_id == twin
    assert isinstance(run_id, str)
    assert [r.id for r in manager.store.runs()] == [run_id]
    with pytest.raises(Refused, match=r"A benchmark is under way.*nothing else was started"):
        manager.start(spec(tiny_model, (3.0,)))
    with pytest.raises(Refused, match="A benchmark is under way"):
        manager.resume("another run")
    assert manager.resume(run_id) == run_id
    assert [r.id for r in manager.store.runs()] == [run_id]

    # Another process is refused with a sentence, unless it works in another data folder.
    command = [sys.executable, "-m", "bench", "run", "--model", str(tiny_model)]
    second = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    said = " ".join(second.stderr.split())
    assert second.returncode == 2
    assert f"process {os.getpid()} has held it since" in said
    assert run_id in said
    assert "wait for it, or cancel it there" in said
    assert "Traceback" not in said
    assert run_id in (other.holder() or "")
    with pytest.raises(Refused, match=f"process {os.getpid()} .*{run_id}"):
        other.resume(run_id)
    third = Jobs(manager.store)  # its recovery at start-up finds the lease held, and touches nothing
    assert state(manager, run_id)[0] in ("preparing", "running")
    assert third.current(manager.store.run(run_id)).state in ("preparing", "running")  # type: ignore[type-var, union-attr]
    looked.set()

    # Cancelled between the visits of the second group: the first one is kept.
    wait_for(lambda: [len(g.visits) > 0 for g in manager.store.groups(run_id)] == [True, True], "a visit", LIMIT_S)
    cancel_in_time(manager, run_id)
    monkeypatch.setattr(manager.store, "add_visit", add_visit)
    first, second_group = manager.store.groups(run_id)
    assert (first.state, second_group.state) == ("done", "running")
    assert first.ended

    # Resumed: finished groups stay as they are, the other one begins anew and what it had is set aside.
    assert manager.resume(run_id) == run_id
    assert manager.wait(LIMIT_S)
    assert state(manager, run_id) == ("done", None)
    groups = manager.store.groups(run_id, superseded=True)
    assert [g.state for g in groups] == ["done", "superseded", "done"]
    assert groups[0] == first
    assert groups[1].visits == second_group.visits
    assert (groups[2].size, groups[2].variants) == (1.0, (0,))
    assert not workers()

    with pytest.raises(Refused, match=r"is done\. Only a run that was cancelled or interrupted can be resumed"):
        manager.resume(run_id)
    with pytest.raises(Refused, match="There is no run nonsense"):
        manager.resume("nonsense")


def test_cancel_while_an_artefact_is_built_and_while_it_is_opened(manager: Jobs, tiny_model: Path) -> None:
    run_id = manager.start(spec(tiny_model))
    wait_for(lambda: stage(manager).startswith("opening") and workers(), "the opening", LIMIT_S)
    cancel_in_time(manager, run_id)

    own_cache(paths.data_folder(), empty=True)  # now there is something to build
    run_id = manager.start(spec(tiny_model, modes=("torch-fp32",)))
    wait_for(lambda: stage(manager).endswith("float model"), "the build", LIMIT_S)
    cancel_in_time(manager, run_id)
    assert not list((paths.cache() / "artefacts").iterdir()), "half an artefact is swept"


def test_a_cancel_that_comes_as_the_run_ends_does_not_leave_it_cancelling(
    manager: Jobs, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = shutil.copytree(tiny_model, paths.data_folder() / "broken")
    (broken / "vocab.json").write_bytes(b"\xff not text")
    set_state = manager.store.set_state

    def cancelled_after(run_id: str, state: str, message: str | None = None) -> None:
        set_state(run_id, state, message)  # type: ignore[arg-type]
        if state == "failed":
            manager.cancel()

    monkeypatch.setattr(manager.store, "set_state", cancelled_after)
    run_id = manager.start(spec(broken, modes=LIGHT))
    assert manager.wait(LIMIT_S)

    # Every variant failed, each with its reason, and so the run did.
    failures = manager.store.failures(run_id)
    assert [(f.variant, f.stage, f.kind) for f in failures] == [(0, "build", "error"), (1, "build", "error")]
    for f in failures:
        assert "decode" in f.message
        assert "UnicodeDecodeError" in f.log
    found, message = state(manager, run_id)
    assert found == "failed"
    assert message == "Nothing could be measured: every variant failed."
    assert not workers()
    assert manager.holder() is None


def test_a_run_that_memory_cannot_hold_is_refused(
    manager: Jobs, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 300_000_000)
    with pytest.raises(Refused, match=r"needs about .* GB of memory at once, and 0\.3 GB are free\. Close other"):
        manager.start(spec(tiny_model))
    assert manager.store.runs() == []
    assert manager.holder() is None


def test_a_damaged_artefact_is_built_again(data_folder: Path, tiny_model: Path) -> None:
    own_cache(data_folder)

    def build() -> Artefact:
        worker = Pool().start("The builder", Placement("cpu", 2))
        try:
            what = {"model": str(tiny_model), "mode": "openvino-fp32", "settings": {}}  # built without torch
            return Artefact(**worker.ask("build", LIMIT_S, **what)["artefact"])
        finally:
            worker.close()

    first = build()
    weights = cache.folder(first.digest) / "model.bin"
    was = weights.read_bytes()
    assert build().from_cache
    damaged = was[:-1] + bytes([was[-1] ^ 1])
    weights.write_bytes(damaged)
    again = build()
    assert not again.from_cache
    assert again.digest == first.digest
    assert len(weights.read_bytes()) == len(was)
    assert weights.read_bytes() != damaged
    assert build().from_cache


def test_the_data_folder_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / name))
        assert Jobs(Store(paths.database())).store.runs() == []
        assert {p.name for p in (tmp_path / name).iterdir()} >= {"earbench.db", "earbench.lock"}
    monkeypatch.delenv("EARBENCH_DATA")
    assert paths.data_folder() == paths.SHIPPED
