"""The real runner and store with made-up workers: what is visited when, what is kept, and what goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.core.records import Coverage, Device, Part
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.device import cpu
from bench.jobs import memory, work
from bench.jobs.benchmark import CPU_MAC_PER_S, Progress, RunFailed, Runner, order
from bench.results import report, sentences, tables
from bench.workers.client import Cancelled, WorkerError

BASE, LARGE = "wav2vec2-base-random", "wav2vec2-large-random"
FP32, BF16, INT8 = "torch-fp32", "torch-bf16", "torch-int8-dynamic"
ONE, TWO = Placement("cpu", 1), Placement("cpu", 2)
DEVICE = Device("d1", "board", "cpu", 4, (), 2**33, "os", "x86_64", {})
SECONDS = {FP32: 0.4, BF16: 0.2, INT8: 0.1}
PART = Part("head", 8, 8, 10, 100)


class FakePool:
    """Workers that answer at once. `trouble(do, mode, what)` is called with every request and may raise."""

    def __init__(self, trouble: Callable[..., None] = lambda *_: None, *, digest: str = "d") -> None:
        self.trouble, self.digest = trouble, digest
        self.seconds: Callable[[str, int], float] = lambda mode, nth: SECONDS[mode]
        self.phases: Callable[[float], list[list[Any]]] = lambda seconds: []  # as JSON brings them
        self.open: list[FakeWorker] = []
        self.started: list[tuple[str, Placement]] = []
        self.asked: list[tuple[str, str, float]] = []  # do, mode, time limit

    def start(self, name: str, placement: Placement) -> FakeWorker:
        self.started.append((name, placement))
        self.open.append(FakeWorker(self))
        return self.open[-1]

    def count(self, do: str, mode: str) -> int:
        return sum(a[:2] == (do, mode) for a in self.asked)

    def limits(self, mode: str) -> list[float]:
        return [a[2] for a in self.asked if a[:2] == ("visit", mode)]


class FakeWorker:
    def __init__(self, pool: FakePool) -> None:
        self.pool, self.pid, self.paused, self.mode = pool, os.getpid(), False, ""
        self.met: set[tuple[int, float]] = set()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.pool.open.remove(self)

    def ask(self, do: str, timeout_s: float, on_progress: Any = None, **what: Any) -> Any:
        if do == "start":  # beside others, in a thread of its own
            self.mode = what["digest"].split("|")[2]
            self.pool.asked.append((do, self.mode, timeout_s))
            self.pool.trouble(do, self.mode, what)
            return {"start_s": 1.5}
        assert not self.paused and all(w.paused for w in self.pool.open if w is not self), "two workers at once"
        if do == "build":
            self.mode = what["mode"]
        self.pool.asked.append((do, self.mode, timeout_s))
        self.pool.trouble(do, self.mode, what)
        if do == "build":
            on_progress("half way")
            artefact = {
                "digest": f"{self.pool.digest}|{what['model']}|{self.mode}",
                "checkpoint": f"seed of {self.pool.digest}",
                "size_bytes": int(1000 * SECONDS[self.mode]),
                "build_s": 1.0,
                "build_peak_rss_bytes": None,
                "from_cache": False,
                "details": {},
            }
            return {"artefact": artefact, "coverage": asdict(Coverage((PART,)))}
        if do == "open":
            return {"load_s": 0.0, "remark": "engine x"}
        s = self.pool.seconds(self.mode, self.pool.count("visit", self.mode) - 1)
        shape = (what["batch"], what["size"])
        kinds = ["discarded", *["kept"] * (1 if s > 2 else 3)]
        cold = [] if shape in self.met else [("cold", 2 * s, self.pool.phases(2 * s))]
        self.met.add(shape)
        return {"passes": [*cold, *((kind, s, self.pool.phases(s)) for kind in kinds)]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))  # an empty cache: everything is built
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 10**12)
    return Store(tmp_path / "earbench.db")


def spec(*modes: str, lengths: tuple[float, ...] = (1.0,), repeats: int = 2, **more: Any) -> RunSpec:
    more = {"models": [BASE], "placements": [TWO]} | more
    return RunSpec.grid(more.pop("models"), modes, lengths, repeats=repeats, **more)


def create(store: Store, wanted: RunSpec) -> str:
    return store.create_run(wanted, DEVICE)


def go(store: Store, run_id: str, pool: FakePool, observe: Any = lambda _: None) -> str | None:
    run = store.run(run_id)
    assert run
    try:
        return Runner(run, store, pool, observe).run()  # type: ignore[arg-type]
    finally:
        assert not pool.open, "every worker is closed, however it ends"


def failing(do: str, mode: str, nth: int = 0, error: Exception | None = None) -> Callable[..., None]:
    """Trouble at the nth request of a kind to a mode."""
    seen = 0

    def trouble(this: str, of: str, what: dict[str, Any]) -> None:
        nonlocal seen
        if (this, of) == (do, mode):
            seen += 1
            if seen == nth + 1:
                raise error or WorkerError("killed", f"{mode} was killed", "last words")

    return trouble


def both(*troubles: Callable[..., None]) -> Callable[..., None]:
    def trouble(*a: Any) -> None:
        for t in troubles:
            t(*a)

    return trouble


def rounds(store: Store, run_id: str) -> list[dict[int, int]]:
    """By group: how many rounds each variant has."""
    return [
        {p: sum(v.variant == p for v in g.visits) for p in {v.variant for v in g.visits}} for g in store.groups(run_id)
    ]


def failures(store: Store, run_id: str) -> list[tuple[int | None, str, str]]:
    return [(f.variant, f.stage, f.kind) for f in store.failures(run_id)]


# --- order


def test_order_runs_forwards_then_backwards_and_is_drawn_anew_for_each_pair() -> None:
    drawn = [tuple(order(range(6), 0, (BASE, TWO, 1, 1.0), n)) for n in range(12)]
    assert all(sorted(o) == list(range(6)) for o in drawn)
    assert all(drawn[n + 1] == drawn[n][::-1] for n in range(0, 12, 2))
    assert len(set(drawn[::2])) > 1  # not one order for all pairs: 1 in 720^5 that it is by chance
    assert drawn == [tuple(order(range(6), 0, (BASE, TWO, 1, 1.0), n)) for n in range(12)]
    assert drawn[::2] != [tuple(order(range(6), 1, (BASE, TWO, 1, 1.0), n)) for n in range(0, 12, 2)]


def test_visits_follow_the_order_and_are_stored_with_it(store: Store) -> None:
    run_id = create(store, spec(FP32, BF16, INT8, repeats=4))
    go(store, run_id, FakePool())
    (group,) = store.groups(run_id)
    by_round = [[v.variant for v in group.visits if v.round == n] for n in range(4)]
    assert by_round == [order([0, 1, 2], 0, (BASE, TWO, 1, 1.0), n) for n in range(4)]
    assert by_round[1] == by_round[0][::-1] and by_round[3] == by_round[2][::-1]
    assert [v.position for v in group.visits] == [0, 1, 2] * 4


# --- what is measured and stored


def test_shapes_shortest_first_for_every_model_and_thread_count(store: Store) -> None:
    wanted = spec(FP32, INT8, models=[BASE, LARGE], placements=[ONE, TWO], lengths=(2, 1), batches=[2, 1])
    run_id, pool = create(store, wanted), FakePool()
    assert go(store, run_id, pool) is None
    # batch x length: 1, then the two of 2 (the shorter input first), then 4
    shapes = [(1, 1.0), (2, 1.0), (1, 2.0), (2, 2.0)]
    comparisons = [(BASE, ONE), (BASE, TWO), (LARGE, ONE), (LARGE, TWO)]
    groups = store.groups(run_id)
    assert [(g.model, g.placement, g.batch, g.size) for g in groups] == [(*c, *s) for c in comparisons for s in shapes]
    assert [g.variants for g in groups[::4]] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    # One build a model and mode, whatever the threads; one opened worker a variant, with its threads.
    assert sum(a[0] == "build" for a in pool.asked) == 4
    assert [p.threads for name, p in pool.started if name.startswith("The worker")] == [1, 1, 2, 2, 1, 1, 2, 2]


def test_what_is_stored(store: Store) -> None:
    run_id, seen = create(store, spec(FP32, INT8)), []
    assert go(store, run_id, FakePool(), seen.append) is None
    run = store.run(run_id)
    assert run and run.state == "running"  # the end is the job's business
    (group,) = store.groups(run_id)
    assert (group.state, group.ended) == ("done", "target reached")
    base = [v for v in group.visits if v.variant == 0]
    assert [[(p.kind, p.seconds) for p in v.passes] for v in base] == [
        [("cold", 0.8), ("discarded", 0.4), *[("kept", 0.4)] * 3],
        [("discarded", 0.4), *[("kept", 0.4)] * 3],
    ]
    one = store.variants(run)[1]
    assert one.artefact and one.artefact.digest == f"d|{BASE}|{INT8}" and one.artefact.size_bytes == 100
    assert one.opening and (one.opening.start_s, one.opening.load_s, one.opening.remark) == (1.5, 0.0, "engine x")
    assert one.coverage == Coverage((PART,))
    found = report.report(store, run_id)
    assert found
    speedup = found.cells[1].speedup
    assert speedup and speedup.value == pytest.approx(4) and speedup.rounds == 2  # 0.4 / 0.1
    assert all(isinstance(p, Progress) and 0 <= p.done_ratio <= 1 for p in seen)
    assert seen[0].stage == f"preparing {FP32} of {BASE} (variant 1 of 2)"
    assert seen[1].stage.endswith(": half way (variant 1 of 2)")
    assert {p.cell for p in seen if p.round == 2} == {f"{FP32}, 1 s", f"{INT8}, 1 s"}


def test_phases_of_a_pass_are_stored_with_it(store: Store) -> None:
    run_id, pool = create(store, spec(FP32)), FakePool()
    pool.phases = lambda seconds: [["encode", seconds / 4], ["decode", seconds / 2]]
    assert go(store, run_id, pool) is None
    (group,) = store.groups(run_id)
    # the cold pass takes 0.8 s, all others 0.4 s
    assert [p.phases for p in group.visits[0].passes] == [
        (("encode", 0.2), ("decode", 0.4)),
        *[(("encode", 0.1), ("decode", 0.2))] * 4,
    ]
    figures = report.report(store, run_id)
    assert figures and figures.cells[0].phases == pytest.approx({"encode": 0.1, "decode": 0.2})


# --- the stop rule


def noisy(mode: str, nth: int) -> float:
    return SECONDS[mode] * (1 + (nth % 2) * (mode == INT8))  # every second visit takes twice as long


def test_a_steady_group_ends_after_ten_rounds(store: Store) -> None:
    run_id = create(store, spec(FP32, INT8, repeats=10))
    go(store, run_id, FakePool())
    assert rounds(store, run_id) == [{0: 10, 1: 10}]


def test_a_noisy_group_goes_on_to_the_limit(store: Store) -> None:
    run_id, pool = create(store, spec(FP32, INT8, repeats=10)), FakePool()
    pool.seconds = noisy
    go(store, run_id, pool)
    assert rounds(store, run_id) == [{0: 40, 1: 40}]
    assert store.groups(run_id)[0].ended == "target not reached in 40 rounds"


def test_few_repeats_mean_so_many_rounds(store: Store) -> None:
    run_id, pool = create(store, spec(FP32, INT8, repeats=3)), FakePool()
    pool.seconds = noisy
    go(store, run_id, pool)
    assert rounds(store, run_id) == [{0: 3, 1: 3}]
    assert store.groups(run_id)[0].ended == "target not reached in 3 rounds"


def test_long_passes_count_one_a_round(store: Store) -> None:
    run_id, pool = create(store, spec(FP32, INT8, repeats=12)), FakePool()
    pool.seconds = lambda mode, nth: 3.0
    go(store, run_id, pool)
    # 12 passes are 12 rounds; looks are at 10, 15, 20, ...
    assert rounds(store, run_id) == [{0: 15, 1: 15}]


def test_a_variant_alone_is_judged_by_its_own_interval(store: Store) -> None:
    run_id = create(store, spec(FP32, repeats=10))
    go(store, run_id, FakePool())
    assert rounds(store, run_id) == [{0: 10}]
    assert store.groups(run_id)[0].ended == "target reached"


# --- limits


def test_a_visit_may_take_twenty_times_the_slowest_pass_and_a_minute_at_least(store: Store) -> None:
    run_id, pool = create(store, spec(FP32, INT8, repeats=3)), FakePool()
    pool.seconds = lambda mode, nth: 5.0 if mode == FP32 else 0.1
    go(store, run_id, pool)
    first = 20 * work.work(BASE, 1, 1.0) / CPU_MAC_PER_S
    assert first < 60
    assert pool.limits(FP32) == [60, 200, 100]  # nothing known; the cold pass took 10 s; then 5 s
    assert pool.limits(INT8) == [60, 60, 60]


def test_before_the_first_pass_the_limit_comes_from_the_work(store: Store) -> None:
    run_id, pool = create(store, spec(FP32, lengths=(60,))), FakePool()
    go(store, run_id, pool)
    expected = 20 * work.work(BASE, 1, 60.0) / CPU_MAC_PER_S
    assert expected > 60
    assert pool.limits(FP32) == [pytest.approx(expected), 60]


# --- memory


def short_of_memory(monkeypatch: pytest.MonkeyPatch, pool: FakePool, total: int) -> None:
    """Every opened worker takes 100."""
    monkeypatch.setattr(memory, "open_bytes", lambda *_: 100)
    monkeypatch.setattr(memory, "pass_bytes", lambda *_: 0)
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: total - 100 * len(pool.open))


def test_blocks_where_memory_is_short_have_each_its_baseline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, pool = create(store, spec(FP32, BF16, INT8, lengths=(1, 2))), FakePool()
    short_of_memory(monkeypatch, pool, 250)
    seen: list[Progress] = []
    assert go(store, run_id, pool, seen.append) is None
    groups = store.groups(run_id)
    assert [(g.variants, g.size) for g in groups] == [((0, 1), 1), ((0, 1), 2), ((0, 2), 1), ((0, 2), 2)]
    assert rounds(store, run_id) == [{0: 2, 1: 2}] * 2 + [{0: 2, 2: 2}] * 2
    assert pool.count("open", FP32) == 2
    assert (seen[-1].groups, seen[-1].group) == (4, 3)  # two were planned, memory made them four
    found = report.report(store, run_id)
    assert found and sorted((c.position, c.size) for c in found.cells) == [(p, s) for p in range(3) for s in (1, 2)]
    assert [round(c.speedup.value, 9) for c in found.cells if c.speedup] == [2, 2, 4, 4]
    (told,) = sentences.apart(found)
    assert f"not all measured side by side (2 threads): first **{BF16}**, then **{INT8}**, each time beside" in told


def test_passes_of_those_already_open_are_reserved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, pool = create(store, spec(FP32, BF16, INT8)), FakePool()
    short_of_memory(monkeypatch, pool, 300)
    monkeypatch.setattr(memory, "pass_bytes", lambda *_: 30)  # 300 - 200 - 2 * 30 = 40 < 100
    go(store, run_id, pool)
    assert [g.variants for g in store.groups(run_id)] == [(0, 1), (0, 2)]


def test_what_does_not_fit_beside_the_baseline_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, pool = create(store, spec(FP32, INT8)), FakePool()
    short_of_memory(monkeypatch, pool, 150)
    assert "1 of 2 variants failed" in str(go(store, run_id, pool))
    assert failures(store, run_id) == [(1, "open", "out of memory")]
    assert rounds(store, run_id) == [{0: 2}]


# --- failures


@pytest.mark.parametrize("do", ["build", "start", "open"])
def test_what_fails_before_its_first_pass_is_left_out(store: Store, do: str) -> None:
    run_id = create(store, spec(FP32, BF16, INT8))
    message = go(store, run_id, FakePool(failing(do, BF16)))
    assert message == "1 of 3 variants failed; what could be measured is kept."
    (failure,) = store.failures(run_id)
    stage = "build" if do == "build" else "open"
    assert (failure.variant, failure.stage, failure.kind) == (1, stage, "killed")
    assert (failure.message, failure.log) == (f"{BF16} was killed", "last words")
    assert rounds(store, run_id) == [{0: 2, 2: 2}]


def test_what_dies_within_a_group_leaves_the_rest_going(store: Store) -> None:
    run_id = create(store, spec(FP32, BF16, INT8, lengths=(1, 2), repeats=4, batches=[2]))
    pool = FakePool(failing("visit", BF16, 2))
    go(store, run_id, pool)
    assert failures(store, run_id) == [(1, "1 s, batch 2", "killed")]
    assert rounds(store, run_id) == [{0: 4, 1: 2, 2: 4}, {0: 4, 2: 4}]  # not tried again at the next length
    assert store.groups(run_id)[1].variants == (0, 2)
    found = report.report(store, run_id)
    assert found and [(c.position, c.size) for c in found.cells] == [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2)]


@pytest.mark.parametrize("do", ["build", "start", "open", "visit"])
def test_without_its_baseline_the_others_are_measured(store: Store, do: str) -> None:
    run_id = create(store, spec(FP32, BF16, INT8))
    go(store, run_id, FakePool(failing(do, FP32)))
    assert [f[0] for f in failures(store, run_id)] == [0]
    assert rounds(store, run_id) == [{1: 2, 2: 2}]
    found = report.report(store, run_id)
    assert found and [(c.position, c.is_baseline, c.speedup) for c in found.cells] == [
        (1, False, None),
        (2, False, None),
    ]
    assert {row["speedup_ratio"] for row in tables.summary_rows(found)} == {None}


def test_the_other_model_is_measured_where_one_fails(store: Store) -> None:
    def trouble(do: str, mode: str, what: dict[str, Any]) -> None:
        if do == "build" and what["model"] == BASE:
            raise WorkerError("unavailable", "the hub can't be reached")

    run_id = create(store, spec(FP32, INT8, models=[BASE, LARGE]))
    assert "2 of 4 variants failed" in str(go(store, run_id, FakePool(trouble)))
    assert [g.model for g in store.groups(run_id)] == [LARGE]


@pytest.mark.parametrize("do", ["build", "start", "open", "visit"])
def test_a_run_of_which_nothing_works_fails(store: Store, do: str) -> None:
    run_id = create(store, spec(FP32, INT8))
    with pytest.raises(RunFailed, match="every variant failed"):
        go(store, run_id, FakePool(both(failing(do, FP32), failing(do, INT8))))
    assert [f[0] for f in failures(store, run_id)] in ([0, 1], [1, 0])


# --- cancel and resume


@pytest.mark.parametrize("do", ["build", "start", "open", "visit"])
def test_a_cancel_is_no_failure(store: Store, do: str) -> None:
    run_id = create(store, spec(FP32, INT8))
    with pytest.raises(Cancelled):
        go(store, run_id, FakePool(failing(do, INT8, 0, Cancelled())))
    assert failures(store, run_id) == []


def test_resume_keeps_finished_groups_and_begins_unfinished_ones_anew(store: Store) -> None:
    run_id = create(store, spec(FP32, INT8, lengths=(1, 2, 3), repeats=3))
    with pytest.raises(Cancelled):  # in the second round of the second group
        go(store, run_id, FakePool(failing("visit", INT8, 4, Cancelled())))
    first, second = store.groups(run_id)
    assert (first.state, second.state) == ("done", "running")
    pool, seen = FakePool(), []
    assert go(store, run_id, pool, seen.append) is None
    groups = store.groups(run_id)
    assert [(g.size, g.state) for g in groups] == [(1, "done"), (2, "done"), (3, "done")]
    assert groups[0] == first and groups[1].id != second.id
    assert rounds(store, run_id) == [{0: 3, 1: 3}] * 3 and len(pool.limits(INT8)) == 6
    assert [g.id for g in store.groups(run_id, superseded=True) if g.state == "superseded"] == [second.id]
    assert (seen[0].group, seen[0].groups) == (1, 3)


def test_resume_of_a_measured_run_opens_nothing(store: Store) -> None:
    run_id = create(store, spec(FP32, INT8))
    go(store, run_id, FakePool())
    pool = FakePool()
    assert go(store, run_id, pool) is None
    assert {a[0] for a in pool.asked} == {"build"} and len(store.groups(run_id)) == 1


def died_then_cancelled(store: Store, mode: str) -> str:
    """At 1 s a mode dies in its third round; the run is cancelled at 2 s."""

    def cancel(do: str, _: str, what: dict[str, Any]) -> None:
        if do == "visit" and what["size"] == 2:
            raise Cancelled

    run_id = create(store, spec(FP32, BF16, INT8, lengths=(1, 2), repeats=4))
    with pytest.raises(Cancelled):
        go(store, run_id, FakePool(both(failing("visit", mode, 2), cancel)))
    assert len(store.failures(run_id)) == 1
    return run_id


def test_what_died_is_measured_again_beside_its_baseline(store: Store) -> None:
    run_id = died_then_cancelled(store, INT8)
    assert go(store, run_id, FakePool()) is None
    assert failures(store, run_id) == []  # of before, and set aside
    assert [(g.size, g.variants) for g in store.groups(run_id)] == [(1, (0, 1, 2)), (1, (0, 2)), (2, (0, 1, 2))]
    assert rounds(store, run_id) == [{0: 4, 1: 4, 2: 2}, {0: 4, 2: 4}, {0: 4, 1: 4, 2: 4}]


@pytest.mark.parametrize(("mode", "position"), [(INT8, 2), (FP32, 0)])
def test_the_report_shows_the_whole_measurement_not_the_one_that_died(store: Store, mode: str, position: int) -> None:
    run_id = died_then_cancelled(store, mode)
    go(store, run_id, FakePool())
    found = report.report(store, run_id)
    assert found
    (cell,) = [c for c in found.cells if (c.position, c.size) == (position, 1)]
    assert cell.visits == 4  # not the 2 of before


@pytest.mark.parametrize("nth", [0, 2])
def test_a_group_in_which_all_died_is_measured_again(store: Store, nth: int) -> None:
    """The only variant of the first model dies; the run is cancelled in the second model."""

    def cancel(do: str, _: str, what: dict[str, Any]) -> None:
        if do == "open" and LARGE in what["digest"]:
            raise Cancelled

    run_id = create(store, spec(FP32, models=[BASE, LARGE], repeats=4))
    with pytest.raises(Cancelled):
        go(store, run_id, FakePool(both(failing("visit", FP32, nth), cancel)))
    assert go(store, run_id, FakePool()) is None
    counts = [(g.model, len(g.visits)) for g in store.groups(run_id)]
    assert (BASE, 4) in counts and (LARGE, 4) in counts


def test_a_model_that_changed_is_told_on_resume(store: Store) -> None:
    run_id = create(store, spec(FP32, INT8, lengths=(1, 2)))
    with pytest.raises(Cancelled):
        go(store, run_id, FakePool(failing("visit", INT8, 2, Cancelled())))
    go(store, run_id, FakePool(digest="e"))
    assert failures(store, run_id) == [(0, "build", "changed"), (1, "build", "changed")]
    message = store.failures(run_id)[0].message
    assert message == f"{BASE} is not what it was when this run began: seed of d."
    run = store.run(run_id)
    assert run and {v.artefact and v.artefact.checkpoint for v in store.variants(run)} == {"seed of d"}
    assert [g.size for g in store.groups(run_id)] == [1]
