"""The database: everything that goes in comes out again, and a file that is none is refused with a sentence."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core import store as store_module
from bench.core.lease import Lease
from bench.core.records import (
    Artefact,
    Coverage,
    Device,
    Failure,
    Group,
    Opening,
    Part,
    Pass,
    Reading,
    VariantRecord,
    Visit,
)
from bench.core.specs import Axis, EvaluationSpec, Placement, RunSpec, Variant
from bench.core.store import MIGRATIONS, Store, StoreError

SPEC = RunSpec(
    (
        Variant("m", "torch-fp32", Placement("cpu", 2)),
        Variant("m", "torch-int8-dynamic", Placement("cpu", 2), (("skip", "head"),)),
    ),
    (0.1 + 0.2, 5.0),
    (1, 4),
    12,
    0.05,
    7,
    "noise",
)
DEVICE = Device("id", "näme", "cpu", 4, ("avx2",), 2**40, "os", "aarch64", {"torch": "2.13"}, "powersave", False)
ARTEFACT = Artefact("digest", "seed 0", 2**33, 1.5, 10**9, True, {"quantized engine": "x86"})
OPENING = Opening(2.5, 0.25, None, 3 * 10**9)
COVERAGE = Coverage((Part("head", 8, 8, 24_576, 6_119_424), Part("attention products", None, 32, 0, 95_256_576)))
FULL = Visit(
    1,
    0,
    1,
    1_700_000_000.125,
    (Pass("cold", 0.1 + 0.2), Pass("discarded", 1 / 3), Pass("kept", 5e-324), Pass("kept", 1e300)),
    Reading(1, 2, 3, 0.25, 71.5, 2.4e9, True),
)
EMPTY = Visit(0, 0, 0, 0.0, (Pass("kept", 0.5),))
DECODED = (("encode", 0.1 + 0.2), ("decode", 1 / 3), ("decode", 5e-324))  # a phase may come several times in a pass
PHASED = Visit(0, 1, 0, 0.0, (Pass("discarded", 2.0, DECODED), Pass("kept", 1.0), Pass("kept", 0.75, DECODED[:1])))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


def group(store: Store, run_id: str, variants: tuple[int, ...] = (0, 1)) -> int:
    return store.start_group(run_id, "m", Placement("cpu", 2), 1, 5.0, variants)


def test_a_run_goes_in_and_out_through_another_connection(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    run = Store(store.path).run(run_id)
    assert run is not None
    assert (run.id, run.state, run.spec, run.device) == (run_id, "preparing", SPEC, DEVICE)
    assert (run.message, run.started_s, run.finished_s) == (None, None, None)
    assert store.run("no such run") is None


def test_variants_are_filled_bit_by_bit(store: Store) -> None:
    run = store.run(store.create_run(SPEC, DEVICE))
    assert run is not None
    assert store.variants(run) == [VariantRecord(v) for v in SPEC.variants]
    store.set_variant(run.id, 1, artefact=ARTEFACT)
    store.set_variant(run.id, 1, opening=OPENING, coverage=COVERAGE)
    store.set_variant(run.id, 1, opening=replace(OPENING, load_s=9.0))
    store.set_variant(run.id, 1, coverage=COVERAGE)
    store.set_variant(run.id, 1)
    assert Store(store.path).variants(run) == [
        VariantRecord(SPEC.variants[0]),
        VariantRecord(SPEC.variants[1], ARTEFACT, replace(OPENING, load_s=9.0), COVERAGE),
    ]


def test_groups_visits_and_passes_go_in_and_out(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    first, second = group(store, run_id), store.start_group(run_id, "m", Placement("cpu", 2), 4, 0.1 + 0.2, (0,))
    store.add_visit(first, FULL)
    store.add_visit(first, EMPTY)
    store.end_group(first, "target reached")
    assert Store(store.path).groups(run_id) == [
        Group(first, "m", Placement("cpu", 2), 1, 5.0, (0, 1), "done", "target reached", (FULL, EMPTY)),
        Group(second, "m", Placement("cpu", 2), 4, 0.1 + 0.2, (0,), "running", None, ()),
    ]


def test_phases_of_passes_go_in_and_out(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    store.add_visit(group(store, run_id), PHASED)
    (read,) = Store(store.path).groups(run_id)
    assert read.visits == (PHASED,)
    assert [p.phases for p in read.visits[0].passes] == [DECODED, (), DECODED[:1]]


def test_a_run_on_another_axis_and_device_goes_in_and_out(store: Store) -> None:
    side = Axis("side", "px", "Image side", 32, 1024, (224.0,), (224.0, 384.0))
    spec = RunSpec((Variant("m", "torch-fp32", Placement("cuda:0", 1)),), (224.0,), axis=side)
    run_id = store.create_run(spec, DEVICE)
    store.start_group(run_id, "m", Placement("cuda:0", 1), 1, 224.0, (0,))
    run = Store(store.path).run(run_id)
    assert run and run.spec == spec
    assert [(g.placement, g.size) for g in store.groups(run_id)] == [(Placement("cuda:0", 1), 224.0)]


def test_failures_go_in_and_out_in_order(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    found = [Failure(1, "open", "killed", "It was killed.", "a\nb"), Failure(None, "run", "error", "“quoted” 'text'")]
    for f in found:
        store.add_failure(run_id, f)
    assert Store(store.path).failures(run_id) == found


def test_states_and_their_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def after(state: Any, message: str | None = None) -> tuple[float | None, float | None, str | None]:
        now[0] += 1
        store.set_state(run_id, state, message)
        run = store.run(run_id)
        assert run is not None and run.state == state
        return run.started_s, run.finished_s, run.message

    run_id = store.create_run(SPEC, DEVICE)
    assert after("preparing") == (None, None, None)
    assert after("running") == (102, None, None)
    assert after("cancelling") == (102, None, None)
    assert after("cancelled", "Kept.") == (102, 104, "Kept.")
    assert after("running") == (102, None, None)  # resumed: the first start counts, the end is open again
    assert after("done") == (102, 106, None)


def test_a_late_cancel_and_a_late_start_change_nothing(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    store.set_state(run_id, "cancelling")
    store.set_state(run_id, "running")  # the runner's thread was about to say so
    assert [r.state for r in store.runs()] == ["cancelling"]
    store.set_state(run_id, "done", "Finished after all.")
    store.set_state(run_id, "cancelling")
    assert [(r.state, r.message) for r in store.runs()] == [("done", "Finished after all.")]


def test_every_write_raises_the_revision_and_no_read_does(store: Store) -> None:
    seen = [store.revision()]

    def grew() -> None:
        seen.append(Store(store.path).revision())
        assert seen[-1] > seen[-2]

    run_id = store.create_run(SPEC, DEVICE)
    grew()
    group_id = group(store, run_id)
    grew()
    writes: tuple[Callable[[], object], ...] = (
        lambda: store.add_visit(group_id, FULL),
        lambda: store.set_variant(run_id, 0, artefact=ARTEFACT),
        lambda: store.add_failure(run_id, Failure(None, "run", "error", "x")),
        lambda: store.end_group(group_id, "x"),
        lambda: store.supersede_unfinished(run_id),
        lambda: store.set_state(run_id, "done"),
        lambda: store.delete_run(run_id),
    )
    for write in writes:
        write()
        grew()
    store.runs(), store.run(run_id), store.groups(run_id), store.failures(run_id)
    assert store.revision() == seen[-1]


def test_a_visit_is_stored_whole_or_not_at_all(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    group_id = group(store, run_id)
    before = store.revision()
    broken = replace(EMPTY, passes=(Pass("kept", 1.0), Pass("kept", None)))  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.add_visit(group_id, broken)
    assert store.groups(run_id)[0].visits == () and store.revision() == before
    store.add_visit(group_id, EMPTY)
    with pytest.raises(sqlite3.IntegrityError):  # the same variant twice in a round
        store.add_visit(group_id, EMPTY)
    assert store.groups(run_id)[0].visits == (EMPTY,)


def test_runs_come_newest_first(store: Store) -> None:
    ids = [store.create_run(SPEC, DEVICE) for _ in range(3)]
    assert len(set(ids)) == 3
    assert [r.id for r in store.runs()] == ids[::-1]


def test_delete_removes_everything_of_a_run_and_nothing_else(store: Store) -> None:
    kept, gone = store.create_run(SPEC, DEVICE), store.create_run(SPEC, DEVICE)
    for run_id in (kept, gone):
        store.add_visit(group(store, run_id), FULL)
        store.add_failure(run_id, Failure(0, "open", "killed", "x"))
        store.set_state(run_id, "done")
    before = store.groups(kept)
    store.delete_run(gone)
    assert store.run(gone) is None and store.groups(gone) == [] and store.failures(gone) == []
    assert store.groups(kept) == before and len(store.failures(kept)) == 1
    db = sqlite3.connect(store.path)
    counts = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("measured_group", "visit", "variant")}
    assert counts == {"measured_group": 1, "visit": 1, "variant": 2}
    assert db.execute("SELECT count(*) FROM pass").fetchone()[0] == len(FULL.passes)


@pytest.mark.parametrize("state", ["preparing", "running", "cancelling"])
def test_a_live_run_is_not_deleted(store: Store, state: Any) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    store.set_state(run_id, state)
    with pytest.raises(StoreError, match=f"is {state}; cancel it"):
        store.delete_run(run_id)
    assert store.run(run_id)


def test_unfinished_groups_are_superseded_and_finished_ones_are_not(store: Store) -> None:
    run_id, other = store.create_run(SPEC, DEVICE), store.create_run(SPEC, DEVICE)
    done, unfinished, elsewhere = group(store, run_id), group(store, run_id), group(store, other)
    store.add_visit(unfinished, FULL)
    store.end_group(done, "target reached")
    store.supersede_unfinished(run_id)
    assert [g.id for g in store.groups(run_id)] == [done]
    kept = {g.id: (g.state, g.visits) for g in store.groups(run_id, superseded=True)}
    assert kept == {done: ("done", ()), unfinished: ("superseded", (FULL,))}  # raw passes stay
    assert [(g.id, g.state) for g in store.groups(other)] == [(elsewhere, "running")]


def test_live_runs_become_interrupted(store: Store) -> None:
    done, live, cancelling = (store.create_run(SPEC, DEVICE) for _ in range(3))
    store.set_state(done, "done")
    store.set_state(cancelling, "cancelling")
    assert set(store.interrupt_live("The program ended.")) == {live, cancelling}
    states = {r.id: (r.state, r.message) for r in store.runs()}
    interrupted = ("interrupted", "The program ended.")
    assert states == {done: ("done", None), live: interrupted, cancelling: interrupted}


def test_threads_write_side_by_side(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    groups = [group(store, run_id) for _ in range(4)]
    before = store.revision()

    def fill(group_id: int) -> None:
        for i in range(20):
            store.add_visit(group_id, replace(FULL, round=i))

    threads = [threading.Thread(target=fill, args=(g,)) for g in groups]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [len(g.visits) for g in store.groups(run_id)] == [20] * 4
    assert store.revision() == before + 80


def test_one_damaged_run_hides_no_other(store: Store) -> None:
    whole, cut, strange = (store.create_run(SPEC, DEVICE) for _ in range(3))
    evaluation = store.create_run(EvaluationSpec(SPEC.variants, "/clips"), DEVICE)
    broken = store.create_run(EvaluationSpec(SPEC.variants, "/clips"), DEVICE)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE run SET spec = substr(spec, 1, 20) WHERE id IN (?, ?)", (cut, broken))
        db.execute("UPDATE run SET spec = json_set(spec, '$.tomorrow', 1) WHERE id = ?", (strange,))
    assert [r.id for r in store.runs()] == [whole] and [e.id for e in store.evaluations()] == [evaluation]
    assert sorted(store.damaged()) == sorted([cut, strange, broken])
    for run_id in (cut, strange):
        with pytest.raises(StoreError, match=rf"{run_id} can't be read.*damaged"):
            store.run(run_id)
    with pytest.raises(StoreError, match=rf"{broken} can't be read"):
        store.evaluation(broken)
    assert sorted(store.interrupt_live("It ended.")) == sorted([whole, cut, strange, evaluation, broken])
    for run_id in (cut, strange, broken):
        store.delete_run(run_id)
    assert store.damaged() == []


def test_a_full_disk_is_a_sentence_and_changes_nothing(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    was, revision = store.run(run_id), store.revision()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(
        StoreError, match=r"earbench\.db can't be written \(database or disk is full\)\. Free some space"
    ):
        store.set_state(run_id, "done", "x" * 100_000)
    assert store.run(run_id) == was and store.revision() == revision
    store._db.execute("PRAGMA max_page_count = 100000")
    store.set_state(run_id, "done", "x" * 100_000)
    assert store.revision() == revision + 1


def test_a_database_that_others_hold_is_a_sentence(store: Store) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    store._db.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.set_state(run_id, "done")
        other.execute("ROLLBACK")
    store.set_state(run_id, "done")


def test_a_fresh_file_is_migrated_from_version_0(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch()  # an empty file is a database of version 0
    Store(path).create_run(SPEC, DEVICE)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert len(Store(path).runs()) == 1  # and opened again it is left alone


def test_a_migration_runs_on_old_rows_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    one_more = "ALTER TABLE run ADD COLUMN note TEXT; UPDATE run SET note = 'old'"
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, one_more, "INSERT INTO no_such_table VALUES (1)"))
    with pytest.raises(
        StoreError, match=r"can't be brought up to date \(no such table: no_such_table\); it is as it was"
    ):
        Store(store.path)
    db = sqlite3.connect(store.path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert "note" not in [row[1] for row in db.execute("PRAGMA table_info(run)")]
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, one_more))
    assert Store(store.path).run(run_id)
    assert db.execute("SELECT note FROM run").fetchall() == [("old",)]


def test_a_migration_waits_for_the_job_of_an_older_earbench(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = store.create_run(SPEC, DEVICE)
    one_more = "ALTER TABLE run ADD COLUMN note TEXT"
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, one_more))
    lease = store.path.parent / "earbench.lock"  # what an older Earbench locks while it measures
    with lease.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"pid": os.getpid(), "what": "a benchmark", "since_s": time.time()}))  # as it did
        file.flush()
        with pytest.raises(StoreError) as e:
            Store(store.path)
        file.truncate(0)
    assert f"still at work with it. This device is busy: process {os.getpid()} has held it since" in str(e.value)
    assert "for a benchmark. Wait for that, or cancel it there, then start this Earbench again" in str(e.value)
    db = sqlite3.connect(store.path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert "note" not in [row[1] for row in db.execute("PRAGMA table_info(run)")]
    assert not list(store.path.parent.glob("*.schema*")), "no copy was made"
    store.set_state(run_id, "done")  # the older Earbench goes on writing
    assert Store(store.path).run(run_id)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1
    assert not lease.read_text(), "nobody is named once it is done"


def test_only_a_migration_takes_the_lock(tmp_path: Path) -> None:
    with (tmp_path / "earbench.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Store(tmp_path / "earbench.db")  # a new database
        Store(tmp_path / "earbench.db")  # one that is up to date


def test_the_lock_is_held_while_the_database_is_migrated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []

    def step(db: sqlite3.Connection) -> None:
        taken.append(Lease(store.path.parent / "earbench.lock").sentence())

    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, step))
    Store(store.path)
    assert "for bringing the database up to date." in str(taken[0])


def test_a_newer_schema_is_refused_and_left_alone(store: Store) -> None:
    db = sqlite3.connect(store.path)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match=rf"newer Earbench \(schema {len(MIGRATIONS) + 1}; this one knows"):
        Store(store.path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "earbench.db"
    text = "These are my notes, and no database at all.\n" * 100
    path.write_text(text)
    with pytest.raises(StoreError, match=r"earbench\.db can't be opened as Earbench's database \(.*Move it away"):
        Store(path)
    assert path.read_text() == text


def test_a_folder_in_the_place_of_the_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be used now"):
        Store(tmp_path)


def test_a_commit_survives_a_copy_of_the_files(store: Store, tmp_path: Path) -> None:
    """What was committed lies in the files themselves: a pulled plug leaves exactly such a copy."""
    run_id = store.create_run(SPEC, DEVICE)
    store.add_visit(group(store, run_id), FULL)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob("earbench.db*"):
        if not file.name.endswith("-shm"):  # shared memory is not on the disk for sure
            (copy / file.name).write_bytes(file.read_bytes())
    assert Store(copy / "earbench.db").groups(run_id)[0].visits == (FULL,)
    db = store._db
    assert (db.execute("PRAGMA synchronous").fetchone()[0], db.execute("PRAGMA journal_mode").fetchone()[0]) == (
        2,
        "wal",
    )
