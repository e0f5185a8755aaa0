"""The scheduler of memory blocks, with made-up workers: what starts together, what opens when, what failures become."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from bench.core.records import Artefact, Device, Failure
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.device import cpu
from bench.workers.blocks import Blocks
from bench.workers.client import Cancelled, WorkerError
from bench.workers.outcomes import Attempts, split
from bench.workers.start import Limits

MODES = ("torch-fp32", "torch-bf16", "torch-int8-dynamic")
DEVICE = Device("d1", "board", "cpu", 4, (), 2**33, "os", "x86_64", {})


class FakePool:
    """Workers that answer at once; `trouble(do, position)` is called with every request and may wait or raise."""

    def __init__(self, trouble: Callable[[str, int], None] = lambda do, position: None) -> None:
        self.trouble, self.lock = trouble, threading.Lock()
        self.open: list[FakeWorker] = []
        self.asked: list[tuple[str, int]] = []
        self.busy: list[tuple[str, int]] = []  # requests that are being answered now
        self.together: list[set[str]] = []  # kinds of requests that were answered at the same time as another one

    def start(self, name: str, placement: Placement) -> FakeWorker:
        with self.lock:
            self.open.append(FakeWorker(self))
            return self.open[-1]


class FakeWorker:
    def __init__(self, pool: FakePool) -> None:
        self.pool, self.pid, self.paused = pool, os.getpid(), False

    def ask(self, do: str, timeout_s: float, on_progress: Any = None, **what: Any) -> dict[str, Any]:
        position = int(what["digest"])
        with self.pool.lock:
            self.pool.asked.append((do, position))
            self.pool.busy.append((do, position))
            if len(self.pool.busy) > 1:
                self.pool.together.append({kind for kind, _ in self.pool.busy})
            others_run = any(not w.paused for w in self.pool.open if w is not self)
        try:
            assert do == "start" or not others_run, "another process runs while an artefact is loaded"
            self.pool.trouble(do, position)
        finally:
            with self.pool.lock:
                self.pool.busy.remove((do, position))
        return {"start_s": 2.0} if do == "start" else {"load_s": 0.5, "remark": ""}

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        with self.pool.lock:
            self.pool.open.remove(self)


class Scene:
    """A run of three variants with its store, pool and scheduler."""

    def __init__(self, folder: Path, pool: FakePool) -> None:
        self.store, self.pool = Store(folder / "earbench.db"), pool
        spec = RunSpec.grid(["wav2vec2-base-random"], MODES, (1.0,), placements=[Placement("cpu", 1)])
        self.run_id = self.store.create_run(spec, DEVICE)
        run = self.store.run(self.run_id)
        assert run
        self.run = run
        attempt = Attempts(self.run_id, self.store)
        self.blocks = Blocks(
            run,
            self.store,
            attempt,
            pool,
            Limits(),
            lambda text: None,
            lambda p: 100,
            lambda p: 0,  # type: ignore[arg-type]
        )
        self.artefacts = {p: Artefact(str(p), "seed", 1, 1.0, None, True, {}) for p in range(len(MODES))}

    def opened(self, shared: int | None = None) -> list[list[int]]:
        """The positions with an open worker, by block."""
        self.blocks.plan(range(len(MODES)), self.artefacts, shared)
        opened = []
        while self.blocks.waiting:
            with self.blocks.next() as block:
                opened.append(list(split(block.outcomes)[0]))
        return opened

    def failures(self) -> list[tuple[int | None, str, str]]:
        return [(f.variant, f.stage, f.kind) for f in self.store.failures(self.run_id)]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Makes a scene on a device with three cores and memory for `total / 100` workers."""

    def make(pool: FakePool, total: int = 10**9) -> Scene:
        monkeypatch.setattr(cpu, "default_threads", lambda: 3)
        monkeypatch.setattr(cpu, "available_memory_bytes", lambda: total - 100 * len(pool.open))
        return Scene(tmp_path, pool)

    return make


def test_a_block_starts_side_by_side_and_opens_one_at_a_time(scene: Callable[..., Scene]) -> None:
    all_there = threading.Barrier(3)  # breaks, and fails the test, unless three start at the same time

    def trouble(do: str, position: int) -> None:
        if do == "start":
            all_there.wait(30)

    pool = FakePool(trouble)
    made = scene(pool)
    assert made.opened() == [[0, 1, 2]]
    assert {kind for kinds in pool.together for kind in kinds} == {"start"}
    assert [request for request in pool.asked if request[0] == "open"] == [("open", p) for p in range(3)]
    openings = [v.opening for v in made.store.variants(made.run)]
    assert [(o.start_s, o.load_s) for o in openings if o] == [(2.0, 0.5)] * 3
    assert not pool.open


def test_no_more_start_at_once_than_there_are_cores(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool()
    made = scene(pool)
    monkeypatch.setattr(cpu, "default_threads", lambda: 1)
    assert made.opened() == [[0, 1, 2]] and pool.together == []


def test_what_does_not_fit_waits_for_a_later_block(scene: Callable[..., Scene]) -> None:
    pool = FakePool()
    assert scene(pool, total=250).opened() == [[0, 1], [2]]
    assert sorted(pool.asked) == [(do, p) for do in ("open", "start") for p in range(3)]  # each of them once


def test_the_shared_one_is_in_every_block_until_it_fails(scene: Callable[..., Scene]) -> None:
    assert scene(FakePool(), total=250).opened(shared=0) == [[0, 1], [0, 2]]


def test_a_shared_one_that_failed_is_not_opened_again(scene: Callable[..., Scene]) -> None:
    pool = FakePool()
    made = scene(pool, total=250)
    made.blocks.plan(range(3), made.artefacts, shared=0)
    with made.blocks.next() as block:
        assert block.is_open(0) and made.blocks.waiting == [2]
        block.fail(0, Failure(0, "1 s", "killed", "It was killed."))
        assert not block.is_open(0) and block.open_count == 1 and len(pool.open) == 1
    with made.blocks.next() as block:
        assert list(block.outcomes) == [2]
    assert not made.blocks.waiting and not pool.open


def test_what_memory_never_holds_is_a_stored_failure_with_a_sentence(scene: Callable[..., Scene]) -> None:
    made = scene(FakePool(), total=50)
    assert made.opened() == [[]]
    assert made.failures() == [(p, "open", "out of memory") for p in range(3)]
    assert "needs about 0.0 GB of memory, more than is free. Close other programs" in (
        made.store.failures(made.run_id)[0].message
    )


def test_memory_is_looked_at_again_before_each_opening(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes memory while the first one opens: the others wait, and start again when there is room."""
    taken = 0

    def trouble(do: str, position: int) -> None:
        nonlocal taken
        taken = 10**9 if (do, position) == ("open", 0) else 0 if (do, position) == ("start", 1) else taken

    pool = FakePool(trouble)
    made = scene(pool, total=1000)
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 1000 - 100 * len(pool.open) - taken * bool(pool.open))
    assert made.opened() == [[0], [1, 2]]
    assert pool.asked.count(("start", 1)) == 2 and pool.asked.count(("open", 1)) == 1 and made.failures() == []


@pytest.mark.parametrize("do", ["start", "open"])
def test_what_fails_leaves_the_others_in_their_block(do: str, scene: Callable[..., Scene]) -> None:
    def trouble(this: str, position: int) -> None:
        if (this, position) == (do, 1):
            raise WorkerError("killed", "It was killed.", "last words")

    pool = FakePool(trouble)
    made = scene(pool)
    assert made.opened() == [[0, 2]] and not pool.open
    assert made.failures() == [(1, "open", "killed")]
    assert made.store.failures(made.run_id)[0].log == "last words"


@pytest.mark.parametrize("do", ["start", "open"])
def test_a_cancel_closes_everything_and_is_no_failure(do: str, scene: Callable[..., Scene]) -> None:
    def trouble(this: str, position: int) -> None:
        if (this, position) == (do, 1):
            raise Cancelled

    pool = FakePool(trouble)
    made = scene(pool)
    with pytest.raises(Cancelled):
        made.opened()
    assert not pool.open and made.failures() == []


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_start_that_is_left_by_an_error_leaves_no_worker(
    error: BaseException, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of processes is reached, or Ctrl-C is pressed, after the first of three threads."""
    start_thread, raised = threading.Thread.start, threading.Event()

    def limited(thread: threading.Thread) -> None:
        if pool.asked:
            raised.set()
            raise error
        start_thread(thread)
        wait_for(lambda: pool.asked, "the first request")

    pool = FakePool(lambda do, position: None if raised.wait(30) else pytest.fail("all threads started"))
    made = scene(pool)
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(type(error)):
        made.opened()
    assert ("start", 0) in pool.asked and not pool.open and made.failures() == []


@pytest.mark.parametrize("short", [{0, 1, 2}, {1}])
def test_memory_that_runs_out_while_several_start_fails_none_of_them(
    short: set[int], scene: Callable[..., Scene]
) -> None:
    all_there = threading.Barrier(3)

    def trouble(do: str, position: int) -> None:
        if do == "start" and pool.asked.count((do, position)) == 1:
            all_there.wait(30)
            if position in short:
                raise WorkerError("out of memory", "It took the last memory.")

    pool = FakePool(trouble)
    made = scene(pool)
    assert made.opened() == [[0, 1, 2]] and made.failures() == [] and not pool.open
    assert pool.asked[3:] == [(do, p) for p in range(3) for do in ("start", "open")], "one by one"


def test_memory_that_runs_out_while_one_starts_alone_is_its_failure(scene: Callable[..., Scene]) -> None:
    def trouble(do: str, position: int) -> None:
        if (do, position) == ("start", 1):
            raise WorkerError("out of memory", "It took the last memory.")

    pool = FakePool(trouble)
    made = scene(pool)
    assert made.opened(shared=0) == [[0, 2]] and not pool.open
    assert made.failures() == [(1, "open", "out of memory")]
    assert pool.asked.count(("start", 1)) == 2, "beside others, then alone"


def test_a_block_that_is_left_by_an_error_is_closed(scene: Callable[..., Scene]) -> None:
    pool = FakePool()
    made = scene(pool)
    made.blocks.plan(range(3), made.artefacts)

    def leave() -> None:
        with made.blocks.next():
            assert len(pool.open) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert not pool.open


_OVERLOOKED = """
from bench.core.records import Artefact, Failure
from bench.workers.outcomes import Attempts, split

def size(attempt: Attempts, artefact: Artefact) -> int:
    outcome = attempt(0, "build", lambda: artefact)
    return outcome.size_bytes{handled}
"""


def test_a_failure_can_not_be_overlooked(tmp_path: Path) -> None:
    """mypy refuses to use an outcome as a result unless the failure is handled."""
    from mypy import api

    handled = " if not isinstance(outcome, Failure) else 0"
    for name, text in (("overlooked", ""), ("handled", handled)):
        (tmp_path / f"{name}.py").write_text(_OVERLOOKED.format(handled=text))
    cache = ["--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    report, _, status = api.run([*cache, str(tmp_path / "overlooked.py")])
    assert status == 1 and 'Item "Failure" of "Artefact | Failure" has no attribute "size_bytes"' in report, report
    report, _, status = api.run([*cache, str(tmp_path / "handled.py")])
    assert status == 0, report
