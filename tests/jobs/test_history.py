"""What is remembered of earlier runs, from a store that is filled by hand."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.records import Artefact, Pass, Visit
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.device.host import device
from bench.jobs import history

SPEC = RunSpec.grid(["demo"], ["torch-fp32", "torch-int8-dynamic"], [1.0], placements=[Placement("cpu", 2)])
FP32, INT8 = SPEC.variants


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


def add(store: Store, *, state: str = "done", pass_s: float = 1.0, built: bool = False, here: bool = True) -> str:
    """Two rounds: fp32 takes `pass_s` and twice that, int8 half of fp32's first."""
    run_id = store.create_run(SPEC, device() if here else replace(device(), id="another"))
    for position in (0, 1):
        store.set_variant(run_id, position, artefact=Artefact("d", "c", 1, 1.0, None, not built))
    store.set_state(run_id, "running")
    group = store.start_group(run_id, "demo", Placement("cpu", 2), 1, 1.0, [0, 1])
    with sqlite3.connect(store.path) as db:  # created at 100 s, running at 104 s, the first visit at 110 s
        db.execute("UPDATE run SET created_s = 100, started_s = 104 WHERE id = ?", (run_id,))
    db.close()
    for number, (fp32_s, int8_s) in enumerate([(pass_s, pass_s / 2), (2 * pass_s, pass_s / 2)]):
        for position, seconds in ((0, fp32_s), (1, int8_s)):
            passes = (Pass("discarded", 9.0), *(Pass("kept", seconds) for _ in range(3)))
            store.add_visit(group, Visit(position, number, position, 110.0 + number, passes))
    store.end_group(group, "target reached")
    store.set_state(run_id, state)  # type: ignore[arg-type]
    return run_id


def test_an_empty_store_says_nothing(store: Store) -> None:
    assert history.of(store) == history.History()


def test_speed_noise_and_start_by_hand(store: Store) -> None:
    add(store)
    earlier = history.of(store)
    # fp32: 1 s and 2 s. The logarithms of the speed-ups 2 and 4 differ by ln 2: their deviation is ln 2 / sqrt 2.
    fp32, int8 = earlier.measured
    assert (fp32.variant, fp32.pass_s, fp32.spread) == (FP32, 1.5, None)
    assert (int8.variant, int8.pass_s, int8.spread) == (INT8, 0.5, pytest.approx(math.log(2) / math.sqrt(2)))
    assert (earlier.prepare_s, earlier.open_s) == (2.0, 3.0)  # each of the two variants


def test_only_finished_runs_of_this_device_count_and_the_newest_first(store: Store) -> None:
    for number in range(history.RUNS + 2):
        add(store, pass_s=1.0 + number)
    add(store, state="cancelled", pass_s=100.0)
    add(store, here=False, pass_s=100.0)
    passes = [m.pass_s for m in history.of(store).measured if m.variant == FP32]
    assert passes == [1.5 * (1.0 + n) for n in range(history.RUNS + 1, 1, -1)]
    assert history.of(store, before_s=0.0) == history.History()


def test_what_was_built_does_not_count_as_the_time_of_preparing(store: Store) -> None:
    add(store, built=True)
    earlier = history.of(store)
    assert earlier.prepare_s is None and earlier.open_s == 3.0


def test_a_run_that_was_resumed_says_nothing_of_starting(store: Store) -> None:
    run_id = add(store)
    (group,) = store.groups(run_id)
    store.start_group(run_id, group.model, group.placement, group.batch, group.size, group.variants)
    store.supersede_unfinished(run_id)
    earlier = history.of(store)
    assert earlier.measured and earlier.prepare_s is None and earlier.open_s is None


def test_a_clock_that_was_set_in_between_says_nothing_of_starting(store: Store) -> None:
    run_id = add(store)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE run SET started_s = started_s - 1e9 WHERE id = ?", (run_id,))
    earlier = history.of(store)
    assert earlier.measured and earlier.prepare_s is None and earlier.open_s is None


def test_a_damaged_run_hides_no_other(store: Store) -> None:
    add(store, pass_s=2.0)
    damaged_id = add(store, pass_s=1.0)
    with sqlite3.connect(store.path) as db:
        db.execute(
            'UPDATE visit SET reading = \'{"rss_bytes": "many"}\' WHERE group_id IN '
            "(SELECT id FROM measured_group WHERE run_id = ?)",
            (damaged_id,),
        )
    assert [m.pass_s for m in history.of(store).measured] == [3.0, 1.0]  # those of the other run
