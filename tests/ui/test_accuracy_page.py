"""The Accuracy page by AppTest: empty, choosing, live, finished, failed, and what people may do wrong."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_evaluation import BASE, FP32, INT8, filled
from test_pages import FOUND, finished_run, opened, texts

from bench.core.records import Failure
from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant
from bench.core.store import Store
from bench.datasets import dataset
from bench.datasets import folder as datasets_folder
from bench.device.host import device
from bench.jobs import manager
from bench.jobs.benchmark import Progress
from bench.jobs.job import Measurement
from bench.modes import probe
from bench.sound import audio
from bench.ui import evaluation_form

PAGE = "pages/4_Accuracy.py"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    manager._jobs.cache_clear()
    monkeypatch.setattr(probe, "at_hand", lambda **_: FOUND)
    yield manager.jobs().store
    manager._jobs.cache_clear()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(2):
        audio.write_wav(folder / f"{i}.wav", audio.np.zeros(16000, dtype="float32"))
    (folder / "manifest.csv").write_text("path,text\n0.wav,one two\n1.wav,three\n2.wav,gone\n")
    return folder


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a job live that does nothing."""
    end = threading.Event()

    def begin(run_id: str, kind: Any, progress: Progress) -> Measurement:
        job = Measurement(run_id, kind, RunSpec((Variant("m", "torch-fp32", Placement()),), (1.0,)))
        job.progress = progress
        job.start(lambda: end.wait() and None)
        monkeypatch.setattr(manager.jobs(), "_job", job)
        return job

    yield begin
    end.set()


def frame(at: AppTest) -> Any:
    """The table of variants."""
    return next(d.value for d in at.dataframe if "RTF" in d.value)


def test_an_empty_page_says_what_to_do_and_can_start(store: Store) -> None:
    at = opened(PAGE)
    shown = texts(at)
    assert "Press Start above" in shown and "clips** with" in shown and "about **" in shown
    assert not at.button(key="evaluate").disabled
    assert "punctuation but apostrophes" in shown  # what the normaliser does


@pytest.mark.parametrize("where", ["/no/such/folder", ""])
def test_a_bad_folder_gets_a_sentence_and_no_start(store: Store, where: str) -> None:
    at = opened(PAGE)
    at.session_state["source"] = evaluation_form.FOLDER
    at.run()
    at.text_input(key="folder").set_value(where).run()
    shown = texts(at)
    assert ("There is no folder or file “/no/such/folder”" if where else "Type the path of a folder") in shown
    assert at.button(key="evaluate").disabled and not at.exception


def test_a_folder_is_counted_with_what_it_lacks(store: Store, clips: Path) -> None:
    at = opened(PAGE)
    at.session_state["source"] = evaluation_form.FOLDER
    at.session_state["folder"] = str(clips)
    at.run()
    assert "**2 clips** with 3 words" in texts(at) and "1 of 3 clips is missing (2.wav)." in texts(at)
    at.number_input(key="limit").set_value(1).run()
    assert "**1 clip** with" in texts(at)


@pytest.mark.parametrize("key", ["accuracy_models", "accuracy_modes"])
def test_nothing_chosen_gets_a_sentence_and_no_start(store: Store, key: str) -> None:
    at = opened(PAGE)
    at.multiselect(key=key).set_value([]).run()
    assert any("No variants given" in e.value for e in at.error)
    assert at.button(key="evaluate").disabled


def test_what_does_not_fit_is_refused_before_the_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.device.cpu.available_memory_bytes", lambda: 100_000_000)
    at = opened(PAGE)
    assert any("of memory, and 0.1 GB are free" in e.value and "smaller model" in e.value for e in at.error)
    assert at.button(key="evaluate").disabled


def test_start_hands_over_what_was_chosen(store: Store, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[EvaluationSpec] = []
    monkeypatch.setattr(manager.Jobs, "start", lambda _, spec, data_set: started.append(spec) or filled(store))
    at = opened(PAGE)
    at.session_state["source"] = evaluation_form.FOLDER
    at.session_state["folder"] = str(clips)
    at.session_state["accuracy_models"] = [BASE]
    at.session_state["accuracy_threads"] = 1
    at.session_state["normaliser"] = "none"
    at.run()
    at.button(key="evaluate").click().run()
    variants = (Variant(BASE, FP32, Placement("cpu", 1)), Variant(BASE, INT8, Placement("cpu", 1)))
    assert started == [EvaluationSpec(variants, str(clips), "evaluate", 0, 0, "none")]
    assert not at.exception and "WER 27.3 %" in texts(at)


def test_the_first_start_beside_an_earlier_evaluation(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page puts the one that it shows into its address, behind the button."""
    filled(store)
    started: list[EvaluationSpec] = []
    monkeypatch.setattr(manager.Jobs, "start", lambda _, spec, data_set: started.append(spec) or filled(store))
    at = opened(PAGE)
    at.button(key="evaluate").click().run()
    assert len(started) == 1


def test_a_finished_evaluation_in_figures_files_and_clips(store: Store) -> None:
    run_id = filled(store)
    at = opened(PAGE, evaluation=run_id)
    shown = frame(at)
    assert list(shown["Mode"]) == ["torch-fp32", "torch-bf16", "torch-int8-dynamic"]
    assert list(shown["WER, %"]) == pytest.approx([100 / 11, 100 / 11, 300 / 11])
    assert list(shown["Difference, points"]) == pytest.approx([0, 0, 200 / 11])
    assert [list(shown[k]) for k in "SDI"] == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert len(at.get("download_button")) == 3 and len(at.get("vega_lite_chart")) == 2
    shown = texts(at)
    assert "torch-int8-dynamic: WER 27.3 % against 9.1 % of the original" in shown
    assert "No variant is better than **torch-fp32** and **torch-int8-dynamic**" in shown
    assert "`0.wav` · 2.0 s · 2 errors in 4 words, the original 0" in shown
    assert not at.toggle(key=f"rtf-{run_id}").value
    at.toggle(key=f"rtf-{run_id}").set_value(True).run()
    assert not at.exception


def test_another_normaliser_scores_at_once(store: Store) -> None:
    run_id = filled(store)
    at = opened(PAGE, evaluation=run_id)
    at.selectbox(key=f"normaliser-{run_id}").set_value("none").run()
    assert not at.exception and len(frame(at)) == 3


def test_a_clip_that_is_there_can_be_heard(store: Store, clips: Path) -> None:
    spec = EvaluationSpec((Variant(BASE, FP32, Placement("cpu", 1)),), str(clips))
    run_id = store.create_run(spec, device())
    from bench.core.records import ClipRecord, Prediction, Transcription

    store.set_clips(run_id, [ClipRecord(0, "0.wav", str(clips / "0.wav"), "one two")])
    store.add_predictions(run_id, 1.0, [Prediction(0, 0, 0.1, Transcription("one", ()))])
    store.set_state(run_id, "done")
    at = opened(PAGE, evaluation=run_id)
    at.toggle(key=f"listen-{run_id}-0-0").set_value(True).run()
    assert not at.exception and len(at.get("audio")) == 1


def test_failures_are_sentences_in_groups(store: Store) -> None:
    run_id = filled(store, skip=(INT8, 2))
    for i in (7, 8):
        store.add_failure(run_id, Failure(None, f"clip {i}.wav", "unreadable", f"{i}.wav: the file is empty."))
    store.add_failure(run_id, Failure(2, "clip 2.wav", "killed", "It was killed from outside.", "last words"))
    at = opened(PAGE, evaluation=run_id)
    assert any("torch-int8-dynamic" in e.value and "killed from outside" in e.value for e in at.error)
    assert any("2 of 4 clips can't be read" in w.value for w in at.warning)
    assert any("8.wav: the file is empty." in list(d.value["Why"]) for d in at.dataframe if "Why" in d.value)


def test_a_failed_evaluation_says_why(store: Store) -> None:
    run_id = store.create_run(EvaluationSpec((Variant(BASE, FP32, Placement("cpu", 2)),), "/clips"), device())
    store.add_failure(run_id, Failure(0, "open", "killed", "It was killed."))
    store.set_state(run_id, "failed", "Nothing could be transcribed: every variant failed.")
    at = opened(PAGE, evaluation=run_id)
    assert any("every variant failed" in e.value for e in at.error)
    assert any("while it was opened (killed). It was killed." in e.value for e in at.error)


def test_an_original_that_failed_leaves_the_others_their_figures(store: Store) -> None:
    at = opened(PAGE, evaluation=filled(store, skip=(FP32, 0)))
    assert "The original failed, so there is nothing to compare" in texts(at) and len(frame(at)) == 2


def test_delete_asks_first_and_a_link_to_nothing_is_told(store: Store) -> None:
    run_id = filled(store)
    at = opened(PAGE, evaluation=run_id)
    assert store.evaluation(run_id)
    at.button(key="delete").click().run()
    assert store.evaluation(run_id) is None and "Press Start above" in texts(at)
    filled(store)
    assert any(f"no evaluation {run_id}" in e.value for e in opened(PAGE, evaluation=run_id).error)


def test_only_a_stopped_evaluation_can_be_resumed(store: Store) -> None:
    done, stopped = filled(store), filled(store)
    store.set_state(stopped, "cancelled", "Cancelled. What was measured is kept.")
    assert "Resume" not in [b.label for b in opened(PAGE, evaluation=done).button]
    at = opened(PAGE, evaluation=stopped)
    assert "Resume" in [b.label for b in at.button] and any("Cancelled" in w.value for w in at.warning)


def test_live_shows_progress_cancel_and_a_provisional_table(store: Store, under_way: Any) -> None:
    run_id = filled(store)
    store.set_state(run_id, "running")
    job = under_way(run_id, "evaluation", Progress("transcribing 2.wav", clip=3, clips=4, eta_s=130, done_ratio=0.5))
    at = opened(PAGE)
    assert "Evaluating" in texts(at) and "WER, 95 % interval" not in frame(at)
    at.button(key="cancel").click().run()
    assert job.cancelled


def test_each_job_bars_the_other_with_a_reason(store: Store, under_way: Any) -> None:
    run_id = filled(store)
    under_way(run_id, "evaluation", Progress("transcribing 2.wav", clip=3, clips=4, eta_s=130))
    at = opened("pages/1_Benchmark.py")
    assert "Evaluating clip 3 of 4 · about 2 min left" in texts(at)
    assert "An evaluation is under way" in texts(at) and at.button(key="start").disabled
    under_way(finished_run(store), "benchmark", Progress("measuring", round=1, rounds=10, groups=1, cell="1 s"))
    at = opened(PAGE)
    assert "A benchmark is under way" in texts(at) and "evaluate" not in [b.key for b in at.button]


def test_no_clip_is_looked_at_while_something_is_measured(
    store: Store, under_way: Any, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    find = dataset.find
    monkeypatch.setattr(dataset, "find", lambda *where: looked.append(where[0]) or find(*where))
    at = opened(PAGE)
    at.session_state["source"] = evaluation_form.FOLDER
    at.session_state["folder"] = str(clips)
    at.run()
    assert looked and "evaluate" in [b.key for b in at.button]
    evaluation_form._find.clear()
    looked.clear()
    under_way(finished_run(store), "benchmark", Progress("measuring", round=1, rounds=10, groups=1, cell="1 s"))
    assert not at.run().exception and not looked
    # Nor by what was pressed on a page that was drawn before.
    for act in (evaluation_form._unpack, evaluation_form._fetch):
        state = {"zip": object(), "hub_name": "a/b"}
        with monkeypatch.context() as patched:
            patched.setattr(evaluation_form.st, "session_state", state)
            act(manager.jobs())
        assert "A benchmark is under way" in str(state["source_error"])


def test_nor_while_another_program_measures(store: Store) -> None:
    other = manager.Jobs(store)
    with other._take("a run"):
        at = opened(PAGE)
        assert "evaluate" not in [b.key for b in at.button]
    assert "evaluate" in [b.key for b in at.run().button]


def test_a_zip_is_unpacked_once(store: Store, clips: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for path in clips.iterdir():
            packed.write(path, f"mine/{path.name}")
    data = (tmp_path / "x.zip").read_bytes()
    where = evaluation_form.unpacked(data, "x.zip")
    assert len(dataset.find(str(where)).clips) == 2 and where.is_relative_to(tmp_path / "datasets")
    assert evaluation_form.unpacked(data, "x.zip") == where
    with pytest.raises(datasets_folder.DatasetError, match="can't be read"):
        evaluation_form.unpacked(b"no zip", "y.zip")
    assert [p.name for p in (tmp_path / "datasets").iterdir()] == [where.parent.name], "nothing is left of it"
