"""An imported run looks as where it was measured; what its texts may not be; where it says that it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles as made
import pytest

from bench.core.bundle import BundleError
from bench.core.records import Prediction
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store, StoreError
from bench.device import host
from bench.families.tasks.task import TaskError
from bench.jobs import history
from bench.results import bundles, evaluation, report, sentences, tables
from bench.ui import results


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made.store_at(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    target = made.store_at(tmp_path / "two")
    made.finished_run(target)  # so that rows get other ids there
    return target


def shown(store: Store, run_id: str) -> list[Any]:
    """All that pages and the command line make of a run or an evaluation."""
    if r := report.report(store, run_id):
        placements = [(c.record.variant.model, c.record.variant.placement, c.batch) for c in r.cells]
        charts = [results._specs(r, shown, False, live=False) for shown in dict.fromkeys(placements)]
        csv = [tables.to_csv(rows(r)) for rows in (tables.summary_rows, tables.raw_rows, tables.coverage_rows)]
        return [*csv, tables.to_json(r), sentences.headline(r), sentences.apart(r), report.title(r.run), charts]
    e = evaluation.result(store, run_id)
    assert e
    csv = [tables.to_csv(evaluation.summary_rows(e)), tables.to_csv(evaluation.clip_rows(e))]
    return [*csv, evaluation.to_json(e), evaluation.headline(e), evaluation.doubts(e), evaluation.title(e.evaluation)]


def take(store: Store, other: Store, run_id: str) -> bundles.Imported:
    return bundles.take_in(other, bundles.text(store, run_id).encode(), "x.json")


@pytest.mark.parametrize("make", [made.interrupted_run, made.finished_run, made.evaluation])
def test_tables_charts_and_files_are_the_same_elsewhere_twice(store: Store, other: Store, make: Any) -> None:
    run_id = make(store)
    for added in (True, False):
        imported = take(store, other, run_id)
        assert imported.added == added and imported.record.id == run_id
        assert shown(other, run_id) == shown(store, run_id)
    assert imported.sentence.endswith(f"{run_id} of bøard (0123456789ab) was here already; nothing changed.")


def test_what_could_not_be_imported_is_not_exported(store: Store) -> None:
    spec = replace(made.SPEC, variants=(made.FP32, replace(made.INT8, model="a\nb")))
    run_id = store.create_run(spec, made.BOARD)
    store.set_state(run_id, "failed")
    with pytest.raises(BundleError, match=r"no Earbench would import it: \$.*model holds control characters.* --raw"):
        bundles.text(store, run_id)
    run_id = made.evaluation(store)
    store.add_predictions(run_id, 1.0, [Prediction(0, 0, 0.1, {"texts": []})])
    with pytest.raises(BundleError, match=r"import it: \$\.predictions\[0\]\.output is no transcription"):
        bundles.text(store, run_id)


def test_the_reference_is_the_same_elsewhere_twice(tmp_path: Path, other: Store) -> None:
    store = made.reference_store(tmp_path)
    for record in (*store.runs(), *store.evaluations()):
        for _ in range(2):
            take(store, other, record.id)
            assert shown(other, record.id) == shown(store, record.id)


def test_where_it_was_measured(store: Store, other: Store) -> None:
    run_id = made.finished_run(store)
    take(store, other, run_id)
    run = other.run(run_id)
    assert run and bundles.origin(run, store.imported().get(run_id)) == ""
    imported_s = other.imported()[run_id]
    assert bundles.origin(run, imported_s) == (
        f"Measured on bøard (0123456789ab), imported here on {report.when(imported_s)}."
    )
    assert bundles.device_name(run, None) == "bøard"
    assert bundles.device_name(run, imported_s) == "bøard (0123456789ab), imported"


def test_forecasts_are_of_this_device_alone(store: Store, other: Store) -> None:
    here = made.finished_run(other, host.device())
    earlier = history.of(other).measured
    assert len(earlier) == 4  # two variants at two lengths
    faster = RunSpec(made.SPEC.variants, (1.0, 5.0))
    take(store, other, made.finished_run(store, spec=faster))
    assert other.runs()[0].device == made.BOARD and other.runs()[0].id != here
    assert history.of(other).measured == earlier


def test_a_mode_and_a_model_that_are_not_here_are_shown(store: Store, other: Store) -> None:
    run_id = made.finished_run(store)

    def change(document: Any) -> None:
        future = {"model": "of-tomorrow", "mode": "torch-int2"}
        for v in (document["run"]["spec"]["variants"][1], document["variants"][1]["variant"]):
            v["mode"] = future["mode"]
        for v in (*document["run"]["spec"]["variants"], *(x["variant"] for x in document["variants"])):
            v["model"] = future["model"]
        for group in document["groups"]:
            group["model"] = future["model"]

    bundles.take_in(other, made.spoilt(store, run_id, change), "x.json")
    r = report.report(other, run_id)
    assert r and [c.record.variant.mode for c in r.cells] == ["torch-fp32", "torch-int2"] * 2
    assert results._specs(r, ("of-tomorrow", Placement("cpu", 2), 1), False, live=False)
    assert [row["engine"] for row in tables.summary_rows(r)][1] is None
    assert "torch-int2 makes of-tomorrow" in (sentences.headline(r) or "")


@pytest.mark.parametrize(
    "output",
    [{}, {"text": "A"}, {"text": 7, "words": []}, "A", None, {"text": "A", "words": [], "tomorrow": 1}],
)
def test_outputs_that_the_task_does_not_have_are_refused(store: Store, other: Store, output: Any) -> None:
    def change(document: Any) -> None:
        document["predictions"][1]["output"] = output

    data = made.spoilt(store, made.evaluation(store), change)
    with pytest.raises(BundleError, match=r"x\.json .*predictions\[1\]\.output is no transcription .*Nothing was imp"):
        bundles.take_in(other, data, "x.json")
    assert other.evaluations() == []


def test_an_evaluation_of_a_task_that_is_not_here_is_kept_and_told(store: Store, other: Store) -> None:
    run_id = made.evaluation(store)

    def change(document: Any) -> None:
        document["evaluation"]["spec"]["task"] = "of-tomorrow"
        document["predictions"][1]["output"] = {"label": 3}

    data = made.spoilt(store, run_id, change)
    assert bundles.take_in(other, data, "x.json").added and not bundles.take_in(other, data, "x.json").added
    with pytest.raises(TaskError, match="There is no task “of-tomorrow”"):
        evaluation.result(other, run_id)


def test_a_changed_one_is_refused_with_a_sentence(store: Store, other: Store) -> None:
    run_id = made.finished_run(store)
    take(store, other, run_id)
    store.set_state(run_id, "failed", "Another end.")
    with pytest.raises(StoreError, match="is here already with other content"):
        take(store, other, run_id)
