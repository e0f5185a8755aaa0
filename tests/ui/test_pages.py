"""Pages by AppTest: empty, with a finished run, with failures, and what people may do wrong."""

from __future__ import annotations

import ast
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench import modes
from bench.core import extras, lease
from bench.core.paths import ROOT
from bench.core.records import Artefact, Coverage, Failure, Opening, Part, Pass, Reading, Visit
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store, StoreError
from bench.device.host import device
from bench.jobs import manager, measure
from bench.modes import probe
from bench.modes.mode import Option
from bench.modes.probe import Availability

PAGES = ("app.py", "pages/1_Benchmark.py", "pages/2_Results.py")  # the others have tests of their own
FOUND = {
    **dict.fromkeys(modes.modes(), Availability("available")),
    "torch-bf16": Availability("emulated", "emulated: expect it to be slow"),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    manager._jobs.cache_clear()
    monkeypatch.setattr(probe, "at_hand", lambda **_: FOUND)
    yield manager.jobs().store
    manager._jobs.cache_clear()


def finished_run(store: Store, *, state: str = "done", failed: bool = False) -> str:
    """fp32 at 100 ms and int8 at 50 ms, 10 rounds of 3 passes at 1 s and at 5 s."""
    spec = RunSpec.grid(
        ["wav2vec2-base-random"], ["torch-fp32", "torch-int8-dynamic"], [1, 5], placements=[Placement("cpu", 2)]
    )
    run_id = store.create_run(spec, device())
    for position, size in ((0, 400_000_000), (1, 100_000_000)):
        bits = 8 if position else 32
        store.set_variant(
            run_id,
            position,
            artefact=Artefact("d", "random, seed 0", size, 2.0, 10**9, False),
            opening=Opening(3.0, 0.5, 10**9, 10**9),
            coverage=Coverage((Part("encoder linears", bits, bits, 85_000_000, 21_000_000_000),)),
        )
    store.set_state(run_id, "running")
    for length_s in spec.sizes:
        group = store.start_group(run_id, "wav2vec2-base-random", Placement("cpu", 2), 1, length_s, [0, 1])
        for number in range(10):
            for position, seconds in ((0, 0.1 * length_s), (1, 0.05 * length_s)):
                if failed and position and number > 3:
                    continue
                passes = (
                    [Pass("cold", 1.0), Pass("discarded", seconds)] if number == 0 else [Pass("discarded", seconds)]
                )
                kept = [Pass("kept", seconds * (1 + (number + i) / 1000)) for i in range(3)]
                store.add_visit(group, Visit(position, number, position, 0.0, (*passes, *kept), Reading(10**9, 10**9)))
        store.end_group(group, "target reached")
    if failed:
        store.add_failure(
            run_id, Failure(1, "torch-int8-dynamic, 1 s", "killed", "It was killed from outside.", "last words")
        )
    store.set_state(run_id, state, "1 of 2 variants failed; what could be measured is kept." if failed else None)  # type: ignore[arg-type]
    return run_id


def opened(page: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    if page != "app.py":
        at.switch_page(page)
    for key, value in query.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception, at.exception
    return at


def texts(at: AppTest) -> str:
    """What a page shows as text, with names as people read them: what escapes them within Markdown is left out."""
    parts = [*at.markdown, *at.caption, *at.info, *at.error, *at.warning, *at.title, *at.subheader]
    return re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", "\n".join(str(x.value) for x in parts))


@pytest.mark.parametrize("page", PAGES)
def test_empty_pages_say_what_to_do(store: Store, page: str) -> None:
    said = texts(opened(page))
    assert "Nothing has been measured" in said or "No runs yet" in said or "charts fill in here" in said


def test_home_tells_the_newest_result(store: Store) -> None:
    finished_run(store)
    said = texts(opened("app.py"))
    assert "torch-int8-dynamic makes wav2vec2-base-random 4.00 times smaller and 2.00 times as fast" in said


def test_results_show_figures_and_files(store: Store) -> None:
    run_id = finished_run(store)
    at = opened("pages/2_Results.py", run=run_id)
    frame = at.dataframe[0].value
    assert list(frame["Mode"]) == ["torch-fp32", "torch-int8-dynamic"] * 2
    # rounds 0..9, passes i = 0..2: factor 1 + (round + i)/1000, mean (round + i) = 4.5 + 1
    assert frame["Mean, ms"][0] == pytest.approx(100 * 1.0055)
    assert list(frame["Speed-up"]) == pytest.approx([1, 2, 1, 2])
    assert len(at.get("download_button")) == 4
    assert at.query_params["run"] == [run_id] or at.query_params["run"] == run_id
    assert "4.00 times smaller and 2.00 times as fast" in texts(at)


def test_a_failure_is_a_sentence_with_the_log_beside_it(store: Store) -> None:
    at = opened("pages/2_Results.py", run=finished_run(store, failed=True))
    assert any("torch-int8-dynamic" in e.value and "killed" in e.value for e in at.error)
    assert any("last words" in c.value for c in at.code)


def test_a_run_that_is_gone_is_told(store: Store) -> None:
    finished_run(store)
    at = opened("pages/2_Results.py", run="20000101-000000-dead")
    assert any("no run 20000101-000000-dead" in e.value for e in at.error)


def test_only_stopped_runs_can_be_resumed(store: Store) -> None:
    done, stopped = finished_run(store), finished_run(store, state="interrupted")
    assert "Resume" not in [b.label for b in opened("pages/2_Results.py", run=done).button]
    assert "Resume" in [b.label for b in opened("pages/2_Results.py", run=stopped).button]


def test_delete_asks_first(store: Store) -> None:
    run_id = finished_run(store)
    at = opened("pages/2_Results.py", run=run_id)
    assert store.run(run_id)
    at.button(key="delete").click().run()
    assert store.run(run_id) is None
    assert "No runs yet" in texts(at)


def test_a_damaged_run_hides_no_other_and_can_be_deleted(store: Store) -> None:
    whole, broken = finished_run(store), finished_run(store)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE run SET spec = substr(spec, 1, 20) WHERE id = ?", (broken,))
    db.close()
    for page in ("pages/2_Results.py", "pages/4_Accuracy.py", "app.py", "pages/1_Benchmark.py"):
        assert not opened(page).exception
    at = opened("pages/2_Results.py", run=broken)
    assert at.selectbox[0].value == whole and any(broken in w.value and "can't be read" in w.value for w in at.warning)
    at.button(key="delete_damaged").click().run()
    assert not at.exception and store.damaged() == [] and [r.id for r in store.runs()] == [whole]


def test_a_full_disk_is_a_sentence_on_every_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = finished_run(store)
    store.set_state(run_id, "running")  # of a process that died

    def full(*_: object) -> None:
        raise StoreError("earbench.db can't be written (database or disk is full). Free some space there.")

    monkeypatch.setattr(store, "set_state", full)
    assert measure.INTERRUPTED in texts(opened("pages/2_Results.py"))  # known without a write
    monkeypatch.setattr(store, "create_run", full)
    at = opened("pages/1_Benchmark.py")
    monkeypatch.setattr(store, "interrupt_live", lambda _: [])
    at.button(key="start").click().run()
    assert not at.exception and any("disk is full" in e.value for e in at.error)
    assert manager.jobs().holder() is None, "the lock was given back"


def test_a_look_takes_no_lock_and_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = finished_run(store)
    store.set_state(run_id, "running")  # of a process that died: nobody recovers it for a look
    revision = store.revision()

    def locked(*_: object) -> None:
        raise AssertionError("a page took the lock")

    monkeypatch.setattr(lease.fcntl, "flock", locked)
    for path in ("app.py", *(f"pages/{p.name}" for p in sorted((ROOT / "pages").glob("*.py")))):
        assert not opened(path).exception, path
    assert store.revision() == revision


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lengths", "five", "got “five”"),
        ("lengths", "0", "from 0.1 to 60"),
        ("lengths", "", "nothing was given"),
        ("batches", "1.5", "whole numbers"),
        ("threads", "0", "1 to 256"),
        ("threads", "1, abacus/2", "Device: got abacus; allowed: cpu."),
    ],
)
def test_bad_input_gets_a_sentence_and_no_start(store: Store, key: str, value: str, sentence: str) -> None:
    at = opened("pages/1_Benchmark.py")
    assert not at.button(key="start").disabled
    at.text_input(key=key).set_value(value).run()
    assert any(sentence in e.value for e in at.error), [e.value for e in at.error]
    assert at.button(key="start").disabled


def test_no_model_gets_a_sentence_and_no_start(store: Store) -> None:
    at = opened("pages/1_Benchmark.py")
    at.multiselect(key="models").set_value([]).run()
    assert not at.exception and [e.value for e in at.error] == ["Models: none is chosen. Allowed: at least one."]
    assert at.button(key="start").disabled


def test_sizes_are_those_of_the_models_inputs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(extras.VARIABLE, "tests.toys.family")
    at = opened("pages/1_Benchmark.py")
    sizes, models = at.text_input(key="lengths"), at.multiselect(key="models")
    assert (sizes.label, sizes.value) == ("Input lengths, s", "1, 5")
    sizes.set_value("2, 3").run()
    models.set_value(["demo", "wav2vec2-base-random"]).run()
    assert at.text_input(key="lengths").value == "2, 3", "what was typed is kept while it means the same"
    models.set_value(["toy-random"]).run()
    assert (at.text_input(key="lengths").label, at.text_input(key="lengths").value) == ("Input tokens", "8, 16")
    assert not at.exception and not at.error and not at.button(key="start").disabled
    started: list[RunSpec] = []
    monkeypatch.setattr(manager.Jobs, "start", lambda _, spec: started.append(spec) or finished_run(store))
    at.button(key="start").click().run()
    assert [(s.sizes, s.axis.column) for s in started] == [((8.0, 16.0), "tokens")]


def test_models_of_different_inputs_get_a_sentence_and_no_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(extras.VARIABLE, "tests.toys.family")
    at = opened("pages/1_Benchmark.py")
    at.multiselect(key="models").set_value(["demo", "toy-random"]).run()
    assert any("inputs are of different kinds" in e.value for e in at.error)
    assert at.button(key="start").disabled and not at.exception
    at.button(key="lab").click().run()
    assert any("inputs are of different kinds" in e.value for e in at.error) and not at.exception


def test_what_does_not_fit_is_refused_before_the_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.device.cpu.available_memory_bytes", lambda: 100_000_000)
    at = opened("pages/1_Benchmark.py")
    assert any("of memory at once" in e.value and "smaller model" in e.value for e in at.error)
    assert at.button(key="start").disabled


def test_modes_tell_what_they_quantize_and_why_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = FOUND | {"torch-bf16": Availability("unavailable", "torch can't be imported (why); fix: install it")}
    monkeypatch.setattr(probe, "at_hand", lambda **_: missing)
    at = opened("pages/1_Benchmark.py")
    said = texts(at)
    assert "weights of the linear layers" in said
    assert "Not available here" in said
    assert "fix: install it" in said
    assert "bf16 (PyTorch)" not in at.multiselect(key="modes").options


def test_settings_of_a_mode_are_widgets_that_spell_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "steps": Option(50, "how many", 1, 100),
        "lr": Option(0.5, "how fast", 0.0, 1.0),
        "ranges": Option("minmax", "how they are found", allowed=("minmax", "percentile")),
        "data": Option("", "where clips lie"),
    }
    mode = modes.find("torch-int8-dynamic")
    monkeypatch.setattr(mode, "SPEC", replace(mode.SPEC, settings=options))
    at = opened("pages/1_Benchmark.py")
    key = f"modes-{mode.name}"
    assert [e.label for e in at.expander if "Settings" in e.label] == ["Settings of the chosen modes"]
    assert at.number_input(key=f"{key}-steps").help == "How many. Allowed: whole numbers from 1 to 100."
    started: list[RunSpec] = []
    monkeypatch.setattr(manager.Jobs, "start", lambda _, spec: started.append(spec) or finished_run(store))
    at.number_input(key=f"{key}-steps").set_value(7)
    at.number_input(key=f"{key}-lr").set_value(0.25)
    at.selectbox(key=f"{key}-ranges").set_value("percentile")
    at.text_input(key=f"{key}-data").set_value("/clips").run()
    at.button(key="start").click().run()
    assert not at.exception and [v.spelled for v in started[0].variants] == [
        "torch-fp32",
        "torch-int8-dynamic:data=/clips:lr=0.25:ranges=percentile:steps=7",
        "openvino-int8-static",
    ]


def test_another_process_that_holds_the_device_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager.Jobs, "holder", lambda self: "This device is measuring: process 7 has held it.")
    for page in PAGES:
        assert any("process 7" in i.value for i in opened(page).info), page


def test_pages_are_thin() -> None:
    for page in PAGES:
        source = (ROOT / page).read_text()
        assert source.count("\n") < 120, page
        imported = {n.module for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)}
        assert not imported & {
            "bench.jobs.benchmark",
            "bench.workers.client",
            "bench.workers.process",
            "bench.core.stats",
        }, page


def test_a_result_beside_busy_programs_is_doubted_at_home_and_on_results(store: Store) -> None:
    run_id = finished_run(store)
    assert not any("Other programs" in w.value for w in opened("app.py").warning)
    with sqlite3.connect(store.path) as db:  # 11 of the 40 visits, more than a quarter
        db.execute("UPDATE visit SET reading = json_set(reading, '$.others_cpu_ratio', 0.5) WHERE id % 4 = 0 OR id = 1")
        db.execute("UPDATE meta SET revision = revision + 1")
    doubt = "Other programs were busy during 11 of 40 visits"
    for page in ("app.py", "pages/2_Results.py"):
        assert any(doubt in w.value for w in opened(page).warning), (page, run_id)
