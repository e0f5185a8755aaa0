"""A database of the version before schema 4 says the same after its migration: tables, charts and sentences."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.core.paths import ROOT
from bench.core.specs import LENGTH, Placement
from bench.core.store import Store, StoreError
from bench.results import evaluation, report, sentences, tables, transcripts
from bench.results.charts import accuracy
from bench.ui import results

REFERENCE = ROOT / "tests" / "reference"
RUNS = ("20261129-132658-a307", "20261129-132836-fe02", "20261129-132924-fae2", "20261129-132958-8a86")
EVALUATIONS = ("20261129-133157-d20f", "20261129-133235-d2aa")


def old_database(folder: Path) -> Path:
    path = folder / "earbench.db"
    path.write_bytes(gzip.decompress((REFERENCE / "earbench.db.gz").read_bytes()))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(old_database(tmp_path_factory.mktemp("reference")))


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def expected(name: str) -> str:
    with zipfile.ZipFile(REFERENCE / "expected.zip") as packed:
        return packed.read(name).decode()


def assert_same_table(actual: str, stored: str, *new: str) -> None:
    """Every column of before has its name, its place and its values; new ones follow."""
    (found_header, *found_rows), (header, *rows) = (list(csv.reader(io.StringIO(text))) for text in (actual, stored))
    assert found_header == [*header, *new]
    assert [row[: len(header)] for row in found_rows] == rows


# What was worded otherwise by that version.
REWORDED = (
    ("1 threads", "1 thread"),
    ("as supposed, but less faster than smaller:", "as expected, but the speed-up is less than the size ratio:"),
    ("as supposed", "as expected"),
    ("before it was learnt from", "before the update"),
    ("right of the line: hears worse", "right of the line: more errors"),
)


def reworded(text: str) -> str:
    for old, new in REWORDED:
        text = text.replace(old, new)
    return text


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("run_id", RUNS)
def test_a_run_has_the_same_tables_charts_and_sentences(store: Store, run_id: str) -> None:
    r = report.report(store, run_id)
    assert r and r.run.spec.axis == LENGTH
    assert_same_table(tables.to_csv(tables.summary_rows(r)), expected(f"{run_id}.summary.csv"), "placement")
    assert_same_table(tables.to_csv(tables.raw_rows(r)), expected(f"{run_id}.raw.csv"), "placement")
    assert plain(tables.coverage_rows(r)) == json.loads(expected(f"{run_id}.coverage.json"))
    words = json.loads(reworded(expected(f"{run_id}.sentences.json")))
    assert [report.label(r.run, i) for i in range(len(r.variants))] == words["labels"]
    assert report.title(r.run) == words["title"]
    assert sentences.headline(r) == words["headline"]
    for sentence_list in (sentences.false_claims, sentences.apart, sentences.size_against_latency):
        shown_sentences = [sentence.replace("\\", "") for sentence in sentence_list(r)]  # of escapes of Markdown
        assert shown_sentences == words[sentence_list.__name__]
    for shown, charts in json.loads(reworded(expected(f"{run_id}.charts.json"))).items():
        model, threads, batch = shown.split()
        drawn = results._specs(r, (model, Placement("cpu", int(threads)), int(batch)), False, live=False)
        assert plain(drawn) == charts, shown


@pytest.mark.parametrize("run_id", EVALUATIONS)
def test_an_evaluation_has_the_same_tables_charts_and_sentences(store: Store, run_id: str) -> None:
    r = evaluation.result(store, run_id)
    assert r and r.evaluation.spec.task == "transcription"
    assert_same_table(tables.to_csv(evaluation.summary_rows(r)), expected(f"{run_id}.summary.csv"), "placement")
    assert_same_table(tables.to_csv(evaluation.clip_rows(r)), expected(f"{run_id}.clips.csv"))
    words = json.loads(expected(f"{run_id}.sentences.json"))
    assert evaluation.title(r.evaluation) == words["title"]
    assert [evaluation.label(r.evaluation, v) for v in r.evaluation.spec.variants] == words["labels"]
    assert evaluation.headline(r) == words["headline"] and evaluation.doubts(r) == words["doubts"]
    front = evaluation.unbeaten(r.scores)
    rows: list[Any] = [
        {
            **row,
            "label": evaluation.label(r.evaluation, s.record.variant),
            "unbeaten": s in front,
            "is_baseline": s.is_baseline,
        }
        for row, s in zip(evaluation.summary_rows(r), r.scores, strict=True)
    ]
    baseline = next(s for s in r.scores if s.is_baseline).record.variant.spelled
    drawn = {
        "tradeoff": accuracy.tradeoff(rows, "mean_s"),
        "tradeoff rtf": accuracy.tradeoff(rows, "rtf"),
        "deltas": accuracy.deltas(rows, baseline),
    }
    assert plain(drawn) == json.loads(reworded(expected(f"{run_id}.charts.json")))


def test_transcripts_have_the_same_table(store: Store) -> None:
    csv_text = tables.to_csv(transcripts.rows(store.transcripts()))
    assert_same_table(csv_text, expected("transcripts.csv"), "placement")


def test_superseded_groups_are_kept(store: Store) -> None:
    groups = store.groups("20261129-132836-fe02", superseded=True)
    assert [g.state for g in groups] == ["done", "superseded", "done", "running"]
    assert [len(g.visits) for g in groups if g.state != "done"] == [5, 7]
    assert {g.placement for g in groups} == {Placement("cpu", 2)}


def test_the_file_is_kept_as_it_was_before_it_is_brought_up_to_date(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    Store(path)
    kept = tmp_path / "earbench.db.schema3"
    with closing(sqlite3.connect(kept)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("SELECT count(*) FROM heard").fetchone() > (0,)
        assert list(db.iterdump()) == before
    new = tmp_path / "new" / "earbench.db"
    new.parent.mkdir()
    Store(new), Store(new)
    assert {f.name.removesuffix("-wal").removesuffix("-shm") for f in new.parent.iterdir()} == {new.name}


def test_where_no_copy_can_be_made_nothing_changes(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    (tmp_path / "earbench.db.schema3").mkdir()
    with pytest.raises(StoreError, match=r"older Earbench and can't be copied to .*schema3"):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


def test_text_that_is_no_text_does_not_stop_the_migration(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE run SET spec = CAST(X'7BFFFE7D' AS TEXT) WHERE id = ?", (RUNS[0],))
        db.commit()
        Store(path)
        kept = db.execute("SELECT hex(spec) FROM run WHERE id = ?", (RUNS[0],)).fetchone()
        (moved,) = db.execute("SELECT spec FROM run WHERE id = ?", (RUNS[1],)).fetchone()
    assert kept == ("7BFFFE7D",) and "sizes" in json.loads(moved)


def test_a_damaged_row_is_no_hindrance_and_stays_damaged(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE run SET spec = '{' WHERE id = ?", (RUNS[0],))
        db.execute("UPDATE run SET spec = '{\"variants\": 3}' WHERE id = ?", (EVALUATIONS[0],))
        db.commit()
    store = Store(path)
    assert set(store.damaged()) == {RUNS[0], EVALUATIONS[0]}
    assert {run.id for run in store.runs()} == set(RUNS[1:])
