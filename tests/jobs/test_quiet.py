"""When passes are timed, and that what waits for them waits no longer than it may."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.specs import Placement, RunSpec
from bench.jobs import benchmark
from bench.jobs.benchmark import Runner
from bench.jobs.quiet import Quiet
from bench.workers.client import Pool


def test_nothing_waits_between_visits() -> None:
    quiet = Quiet()
    assert not quiet.timing and quiet.wait(0)
    with quiet.visit(0):
        assert quiet.timing
    assert not quiet.timing and quiet.wait(0)


def test_a_visit_is_timed_once_its_discarded_pass_is_over() -> None:
    quiet = Quiet()
    with quiet.visit(1000):
        assert not quiet.timing and quiet.wait(0)
    with quiet.visit(0.1):
        time.sleep(0.06)
        assert quiet.timing


def test_waiting_is_bounded() -> None:
    quiet = Quiet()
    with quiet.visit(0):
        began_s = time.monotonic()
        assert not quiet.wait(0.2)
        assert time.monotonic() - began_s >= 0.2


def test_waiting_ends_with_the_visit_even_if_it_fails() -> None:
    quiet, answers, began = Quiet(), [], threading.Event()

    def wait() -> None:
        began.set()
        answers.append(quiet.wait(60))

    def fail() -> None:
        with quiet.visit(0):
            thread.start()
            began.wait(10)
            raise ZeroDivisionError

    thread = threading.Thread(target=wait)
    with pytest.raises(ZeroDivisionError):
        fail()
    thread.join(10)
    assert answers == [True] and not quiet.timing


def test_a_benchmark_announces_its_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet()
    monkeypatch.setattr(benchmark, "QUIET", quiet)
    timing: list[bool] = []

    def ask(do: str, *_: Any, **__: Any) -> dict[str, Any]:
        timing.append(quiet.timing)
        return {"passes": [("kept", 0.5, [])]}

    worker: Any = SimpleNamespace(pid=os.getpid(), ask=ask, resume=lambda: None, pause=lambda: None)
    spec = RunSpec.grid(["demo"], ["torch-fp32"], [1.0], placements=[Placement("cpu", 1)])
    runner = Runner(SimpleNamespace(id="a", spec=spec), SimpleNamespace(runs=list, imported=dict), Pool())  # type: ignore[arg-type]
    visit = runner._visit(worker, 0, 0, 0, (1, 1.0), slowest_s=0.0)
    assert timing == [True] and not quiet.timing and visit.kept_s == [0.5]


def test_workers_keep_the_class_of_the_job_while_polls_wait() -> None:
    quiet, pool, over = Quiet(), Pool(), threading.Event()
    with quiet.visit(0):
        polls = [threading.Thread(target=lambda: (quiet.wait(60), over.wait(60))) for _ in range(25)]
        for poll in polls:
            poll.start()
        worker = pool.start("a worker", Placement("cpu", 1))
        try:
            assert os.sched_getscheduler(worker.pid) == os.sched_getscheduler(0)
            assert os.getpriority(os.PRIO_PROCESS, worker.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        finally:
            worker.close()
            over.set()
    for poll in polls:
        poll.join(10)
