"""Bundles in the browser by AppTest: uploads, what they say, what is selected, and the downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bundles as made
import pytest
from streamlit.testing.v1 import AppTest
from test_pages import FOUND, opened, texts

from bench.core.bundle import to_text
from bench.core.bundle_reader import read
from bench.core.lease import NAME, Lease
from bench.core.markdown import plain
from bench.core.records import Failure
from bench.core.store import Store
from bench.device.host import device
from bench.jobs import manager
from bench.jobs.job import NOUNS, Kind
from bench.modes import probe
from bench.results import bundles
from bench.ui import bundles as ui_bundles

RESULTS, ACCURACY = "pages/2_Results.py", "pages/4_Accuracy.py"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(probe, "at_hand", lambda **_: FOUND)
    manager._jobs.cache_clear()
    yield manager.jobs().store
    manager._jobs.cache_clear()


@pytest.fixture
def board(tmp_path: Path) -> Store:
    """What another device measured."""
    return made.store_at(tmp_path / "board")


def uploaded(at: AppTest, *files: tuple[str, str]) -> AppTest:
    at.get("file_uploader")[0].set_value([(name, text.encode(), "application/json") for name, text in files]).run()
    assert not at.exception, at.exception
    return at


def test_an_empty_page_imports_and_shows_what_was_imported(store: Store, board: Store) -> None:
    run_id = made.finished_run(board)
    at = opened(RESULTS)
    assert "No runs yet" in texts(at) and "Or import what was measured on another device" in texts(at)
    uploaded(at, ("run.json", to_text(board.bundle(run_id))))
    assert at.selectbox[0].value == run_id and [r.id for r in store.runs()] == [run_id]
    assert any(f"Run {run_id} of bøard (0123456789ab) is here now." in s.value for s in at.success)
    assert "Measured on bøard (0123456789ab), imported here on " in texts(at)
    assert "bøard (0123456789ab), imported" in list(at.dataframe[-1].value["Device"])


def test_several_at_once_and_the_newest_imported_is_selected(store: Store, board: Store) -> None:
    here = made.finished_run(store)
    old, new, evaluation = made.finished_run(board), made.interrupted_run(board), made.evaluation(board)
    damaged = to_text(board.bundle(new)).replace('"done"', '"perfect"')
    at = uploaded(
        opened(RESULTS, run=here),
        *((f"{i}.json", to_text(board.bundle(i))) for i in (new, evaluation, old)),
        ("damaged.json", damaged),
        ("notes.json", "my notes"),
    )
    assert at.selectbox[0].value == new and {r.id for r in store.runs()} == {here, old, new}
    assert at.success[0].value.count("is here now.") == 3
    refused = [e.value for e in at.error if ".json" in e.value]
    assert (
        len(refused) == 2
        and "damaged.json is damaged" in refused[0]
        and "notes.json is not JSON, or only" in refused[1]
    )
    (link,) = [x.proto for x in at.get("page_link") if "Look at evaluation" in x.proto.label]
    assert link.query_string == f"evaluation={evaluation}"
    revision = store.revision()
    uploaded(at, (f"{old}.json", to_text(board.bundle(old))))
    assert at.selectbox[0].value == old and "was here already; nothing changed." in at.success[0].value
    assert store.revision() == revision
    assert not at.run().success, "told once"


def test_an_imported_evaluation_says_where_it_was_made_and_plays_no_file(store: Store, board: Store) -> None:
    run_id = made.evaluation(board)
    store.add_bundle(board.bundle(run_id))
    at = opened(ACCURACY, evaluation=run_id)
    assert "Measured on bøard (0123456789ab), imported here on " in texts(at)
    assert "bøard (0123456789ab), imported" in list(at.dataframe[-1].value["Device"])
    assert at.subheader[-1].value == "All evaluations" and not any("Measure" in b.label for b in at.button)
    assert "Listen" not in [t.label for t in at.toggle]
    assert "Bundle" in [b.proto.label for b in at.get("download_button")]


def test_only_what_this_device_measured_is_offered_to_be_resumed(store: Store, board: Store) -> None:
    foreign, ours = made.interrupted_run(board), made.interrupted_run(board, device())
    for run_id in (foreign, ours):
        store.add_bundle(board.bundle(run_id))
    assert "Resume" not in [b.label for b in opened(RESULTS, run=foreign).button]
    assert "Resume" in [b.label for b in opened(RESULTS, run=ours).button]


def test_the_best_mode_is_that_of_the_device_that_measured_it(store: Store, board: Store) -> None:
    run_id = made.evaluation(board)
    board.set_state(run_id, "done")
    store.add_bundle(board.bundle(run_id))
    at = opened(ACCURACY, evaluation=run_id)
    assert "The best mode on bøard" in [h.value for h in at.subheader]
    assert "were not measured together in a run of bøard that is stored here yet" in texts(at)
    assert not any("Measure" in b.label for b in at.button)
    store.add_bundle(board.bundle(made.finished_run(board)))
    assert "times as fast as the original" in texts(opened(ACCURACY, evaluation=run_id))


def test_an_evaluation_of_an_unknown_task_is_a_sentence(store: Store, board: Store) -> None:
    run_id = made.evaluation(board, task="of-tomorrow")
    store.add_bundle(board.bundle(run_id))
    at = opened(ACCURACY, evaluation=run_id)
    assert any("There is no task “of-tomorrow”" in e.value and "can't be shown here" in e.value for e in at.error)


def test_a_bundle_is_among_the_downloads_of_what_has_ended(store: Store) -> None:
    run_id = made.finished_run(store)
    labels = [b.proto.label for b in opened(RESULTS, run=run_id).get("download_button")]
    assert labels == ["Summary CSV", "Raw passes CSV", "Whole run JSON", "Bundle"]
    run = store.run(run_id)
    assert run
    ((_, name, make),) = ui_bundles.download(store, run)
    assert name == f"earbench-{run_id}.bundle.json" and make() == to_text(store.bundle(run_id))
    empty = store.create_run(made.SPEC, made.BOARD)
    store.set_state(empty, "failed", "Nothing could be measured.")
    labels = [b.proto.label for b in opened(RESULTS, run=empty).get("download_button")]
    assert labels == ["Bundle"], "a failed run without figures travels too"
    store.set_state(empty, "running")
    live = store.run(empty)
    assert live and ui_bundles.download(store, live) == ()


@pytest.mark.parametrize("kind", ["benchmark", "evaluation", "transcription"])
def test_nothing_is_imported_beside_a_job(store: Store, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    made.finished_run(store)
    monkeypatch.setattr(manager.Jobs, "live", property(lambda _: live(kind)))
    at = opened(RESULTS)
    assert at.get("file_uploader")[0].proto.disabled
    assert f"{NOUNS[kind]} is under way. Nothing is imported beside it" in texts(at)


def test_a_job_that_began_after_the_page_was_drawn_bars_the_import(
    store: Store, board: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.finished_run(store)
    text = to_text(board.bundle(made.finished_run(board)))
    at = opened(RESULTS)
    monkeypatch.setattr(manager.Jobs, "live", property(lambda _: live("transcription")))
    uploaded(at, ("run.json", text))
    assert "A transcription is under way. Nothing was imported: it would disturb the times." in texts(at)
    monkeypatch.undo()


def test_another_process_that_holds_the_device_bars_the_import(store: Store, board: Store, tmp_path: Path) -> None:
    text = to_text(board.bundle(made.finished_run(board)))
    at = opened(RESULTS)
    with Lease(tmp_path / NAME).take("run 7"):
        uploaded(at, ("run.json", text))
        assert store.runs() == [] and at.get("file_uploader")[0].proto.disabled
        assert "has held it since" in at.error[0].value and "for run 7. Nothing was imported" in at.error[0].value
    at = uploaded(opened(RESULTS), ("run.json", text))
    assert len(store.runs()) == 1 and not at.get("file_uploader")[0].proto.disabled


def live(kind: Kind) -> SimpleNamespace:
    return SimpleNamespace(id="x", kind=kind, noun=NOUNS[kind], progress=manager.Progress("measuring"))


# --- names that are Markdown

EVIL = "[click](https://evil) **x** ![](https://evil/x.png)"
HOSTILE = replace(made.BOARD, name=EVIL, cpu=EVIL, os=EVIL)


def drawn_markdown(at: AppTest) -> list[str]:
    """Every text of a page in which Markdown has a meaning."""
    kinds = ("markdown", "caption", "info", "error", "warning", "success", "title", "subheader")
    texts_drawn = [str(x.value) for kind in kinds for x in at.get(kind) if hasattr(x, "value")]
    labels = [x.proto.label for x in at.get("page_link")] + [x.label for x in at.get("expander")]
    tables = [str(cell) for table in at.table for cell in (*table.value.index, *table.value.to_numpy().ravel())]
    return [*texts_drawn, *labels, *tables, *(x.proto.help for x in at.button)]


def assert_shown_as_text(at: AppTest, *beginnings: str) -> None:
    """Nothing that is drawn links anywhere; these texts, by what they begin with, hold the name."""
    drawn = [re.sub(r"`[^`]+`", "", text) for text in drawn_markdown(at)]  # code is no Markdown
    assert not [text for text in drawn if "[click]" in text or "![" in text or "** x" in text]
    escaped = [text for text in drawn if plain(EVIL) in text]
    assert not [beginning for beginning in beginnings if not any(text.startswith(beginning) for text in escaped)], (
        escaped
    )


def test_names_of_a_run_are_drawn_as_text(store: Store, board: Store) -> None:
    variants = tuple(replace(v, model=EVIL, mode=f"m{EVIL}{i}") for i, v in enumerate(made.SPEC.variants))
    run_id = made.finished_run(board, HOSTILE, replace(made.SPEC, variants=variants))
    with board._write() as db:
        db.execute("UPDATE measured_group SET model = ?", (EVIL,))
    board.set_state(run_id, "done", f"Done by {EVIL}")
    board.add_failure(run_id, Failure(1, f"clip {EVIL}", EVIL, f"It was {EVIL}."))
    at = uploaded(opened(RESULTS), (f"{EVIL}.json", bundles.text(board, run_id)))
    assert_shown_as_text(
        at, f"Run {run_id} of ", ":material/input: Measured on ", "Done by ", "##### On ", "**m", plain(EVIL)
    )
    assert_shown_as_text(uploaded(at, (f"{EVIL}.json", "no bundle")), "\\[click")
    assert_shown_as_text(opened("app.py"), "**On ", "20")
    assert_shown_as_text(opened(RESULTS, run=EVIL), "There is no run ")
    assert_shown_as_text(opened(ACCURACY), *())


def test_names_of_an_evaluation_are_drawn_as_text(store: Store, board: Store) -> None:
    variants = (made.FP32, replace(made.INT8, mode=f"m{EVIL}"))
    run_id = made.evaluation(board, HOSTILE, dataset=f"/{EVIL}", variants=variants)
    with board._write() as db:
        db.execute("UPDATE clip SET id = ?", (EVIL,))
    board.set_state(run_id, "done", f"Done by {EVIL}")
    store.add_bundle(read(bundles.text(board, run_id).encode(), "x.json"))
    at = opened(ACCURACY, evaluation=run_id)
    assert_shown_as_text(
        at,
        ":material/input: Measured on ",
        "##### m",
        "2 clips of /",
        "Done by ",
        "The best mode on ",
        "These variants were not measured together in a run of ",
        f"m{plain(EVIL)}",
    )
