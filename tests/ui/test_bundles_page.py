"""Bundles in the browser by AppTest: uploads, what they say, what is selected, and the downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bundles as made
import pytest
from streamlit.testing.v1 import AppTest
from test_pages import FOUND, opened, texts

from bench.core.bundle import to_text
from bench.core.store import Store
from bench.device.host import device
from bench.jobs import manager
from bench.modes import probe
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


def test_nothing_is_imported_beside_a_measurement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made.finished_run(store)
    monkeypatch.setattr(manager.Jobs, "live", property(lambda _: LIVE))
    at = opened(RESULTS)
    assert at.get("file_uploader")[0].proto.disabled and "nothing is imported" in texts(at)


LIVE = SimpleNamespace(id="x", kind="benchmark", noun="A benchmark", progress=manager.Progress("measuring"))
