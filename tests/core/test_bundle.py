"""Bundles: nothing is lost on the way, a second import changes nothing, and no file that anybody wrote does harm."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import pytest

from bench.core import bundle as bundle_module
from bench.core import bundle_reader
from bench.core.bundle import BundleError, to_text
from bench.core.bundle_reader import read
from bench.core.paths import ROOT
from bench.core.records import ClipRecord, Failure, Group, Pass, Prediction, Visit
from bench.core.specs import EvaluationSpec, RunSpec
from bench.core.store import Store, StoreError

DOCUMENT = (ROOT / "docs" / "bundles.md").read_text()
EXAMPLES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return bundles.store_at(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return bundles.store_at(tmp_path / "two")


def everything(store: Store, run_id: str) -> list[tuple[Any, ...]]:
    """All that the database holds of a run, without the ids that it gives to rows."""
    db = store._db
    tables = {
        "run": "id, kind, created_s, state, spec, device, message, started_s, finished_s",
        "variant": "position, artefact, opening, coverage",
        "failure": "variant, stage, kind, message, log, superseded",
        "measured_group": "coalesce(number, id), model, placement, batch, size, variants, state, ended",
        "clip": "position, id, path, text, length_s",
        "prediction": "variant, clip, seconds, output, paired",
    }
    rows = [
        tuple(row)
        for table, columns in tables.items()
        for row in db.execute(
            f"SELECT {columns} FROM {table} WHERE {'id' if table == 'run' else 'run_id'} = ? ORDER BY rowid", (run_id,)
        )
    ]
    visits = db.execute(
        "SELECT v.variant, v.round, v.position, v.started_s, v.reading, p.position, p.kind, p.seconds, p.phases "
        "FROM measured_group g JOIN visit v ON v.group_id = g.id JOIN pass p ON p.visit_id = v.id "
        "WHERE g.run_id = ? ORDER BY v.id, p.position",
        (run_id,),
    )
    return rows + [tuple(row) for row in visits]


@pytest.mark.parametrize("make", [bundles.interrupted_run, bundles.finished_run, bundles.evaluation])
def test_all_that_is_stored_arrives_and_a_second_time_changes_nothing(
    store: Store, other: Store, make: Callable[[Store], str]
) -> None:
    bundles.finished_run(other)  # so that rows get other ids there
    run_id = make(store)
    text = to_text(store.bundle(run_id))
    assert read(text.encode(), "x.json") == store.bundle(run_id)
    assert other.add_bundle(read(text.encode(), "x.json"))
    assert everything(other, run_id) == everything(store, run_id) and len(everything(store, run_id)) > 5
    assert to_text(other.bundle(run_id)) == text
    revision = other.revision()
    assert not other.add_bundle(read(text.encode(), "x.json"))
    assert other.revision() == revision and everything(other, run_id) == everything(store, run_id)
    assert set(other.imported()) == {run_id} and not store.imported()
    assert not store.add_bundle(read(text.encode(), "x.json")), "back where it came from"
    assert not store.imported()


def test_an_imported_run_that_is_resumed_travels_on(store: Store, other: Store, tmp_path: Path) -> None:
    for _ in range(3):  # so that the groups of the run have higher numbers than rows of the other database
        bundles.finished_run(store)
    run_id = bundles.interrupted_run(store)
    other.add_bundle(read(to_text(store.bundle(run_id)).encode(), "x.json"))
    other.supersede_unfinished(run_id)
    bundles.measure(other, run_id, 5.0, 10)
    bundles.measure(other, run_id, 1.0, 2)
    other.set_state(run_id, "done")
    bundle = other.bundle(run_id)
    assert [g.id for g in bundle.groups] == [7, 8, 9, 10, 11]
    assert [len(g.visits) for g in bundle.groups] == [6, 4, 8, 20, 4]
    third = bundles.store_at(tmp_path / "three")
    assert third.add_bundle(read(to_text(bundle).encode(), "x.json")) and third.bundle(run_id) == bundle


def test_superseded_groups_and_failures_travel(store: Store) -> None:
    bundle = store.bundle(bundles.interrupted_run(store))
    assert [g.state for g in bundle.groups] == ["done", "superseded", "running"]
    assert [len(g.visits) for g in bundle.groups] == [6, 4, 8]
    assert [f.kind for f in bundle.superseded_failures] == ["killed"] and [f.kind for f in bundle.failures] == ["error"]


def test_stored_data_of_an_older_version_travels(tmp_path: Path, other: Store) -> None:
    store = bundles.reference_store(tmp_path)
    ids = [*(r.id for r in store.runs()), *(e.id for e in store.evaluations())]
    assert len(ids) == 6
    for run_id in ids:
        bundle = read(to_text(store.bundle(run_id)).encode(), "x.json")
        assert other.add_bundle(bundle) and not other.add_bundle(bundle)
        assert other.bundle(run_id) == store.bundle(run_id) == bundle


def test_the_same_id_with_other_content_is_refused(store: Store, other: Store) -> None:
    run_id = bundles.finished_run(store)
    other.add_bundle(store.bundle(run_id))
    before, revision = everything(other, run_id), other.revision()
    first = store.bundle(run_id)
    changed = replace(first, run=replace(first.run, message="Faster."))  # type: ignore[type-var]
    with pytest.raises(StoreError, match=rf"Run {run_id} is here already with other content.*Nothing was imported"):
        other.add_bundle(changed)
    assert everything(other, run_id) == before and other.revision() == revision


def test_what_is_live_or_absent_is_not_exported(store: Store) -> None:
    run_id = store.create_run(bundles.SPEC, bundles.BOARD)
    for state in ("preparing", "running", "cancelling"):
        store.set_state(run_id, state)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=f"{run_id} is {state}; only what has ended"):
            store.bundle(run_id)
    with pytest.raises(StoreError, match="There is no run nope"):
        store.bundle("nope")


def test_an_import_is_one_commit(store: Store, other: Store) -> None:
    bundle = store.bundle(bundles.finished_run(store))
    (group, *_) = bundle.groups
    twice = replace(bundle, groups=(replace(group, visits=(*group.visits, group.visits[0])),))
    revision = other.revision()
    with pytest.raises(Exception, match="UNIQUE"):  # the reader refuses such a file before
        other.add_bundle(twice)
    assert other.runs() == [] and other.revision() == revision


def test_unknown_models_and_modes_are_no_hindrance(store: Store, other: Store) -> None:
    future = {"model": "of-tomorrow", "mode": "torch-int2", "placement": {"device": "npu:3", "threads": 4}}
    spec = RunSpec((bundles.FP32, replace(bundles.INT8, mode="torch-int2")), (1.0,))
    run_id = store.create_run(spec, bundles.BOARD)
    store.set_state(run_id, "done")

    def change(document: Any) -> None:
        for v in (document["run"]["spec"]["variants"][1], document["variants"][1]["variant"]):
            v.update(future)

    bundle = read(bundles.spoilt(store, run_id, change), "x.json")
    assert other.add_bundle(bundle)
    assert [v.mode for run in other.runs() for v in run.spec.variants] == ["torch-fp32", "torch-int2"]


# --- what is refused

Change = Callable[[Any], object]


def put(*path: Any, value: Any) -> Change:
    """A change of a document: the value at a path."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path: Any) -> Change:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


VISIT = ("groups", 0, "visits", 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("earbench_bundle", value=2), "is of a newer Earbench (bundle version 2; this one reads up to 1). Update"),
        (put("earbench_bundle", value="1"), "is no bundle: it has no whole number “earbench_bundle”"),
        (put("earbench_bundle", value=True), "is no bundle: "),
        (drop("earbench_bundle"), "is no bundle: "),
        (put("tomorrow", value=1), "Unknown key - at `$.tomorrow`"),
        (put("run", "device", "tomorrow", value=1), "Unknown key - at `$.run.device.tomorrow`"),
        (drop("run", "device", "os"), "missing required field `os` - at `$.run.device`"),
        (put("run", value=None), "it holds a run and an evaluation, or neither"),
        (put("run", "id", value="../../etc"), "the id is “../../etc”; allowed: one like 20260131-235959-0a1b"),
        (put("run", "state", value="running"), "the state is “running”; allowed: done, failed, cancelled, interrupted"),
        (put("run", "state", value="perfect"), "Invalid enum value 'perfect' - at `$.run.state`"),
        (put("run", "created_s", value=1e18), "$.run.created_s is 1e+18; allowed: 0 to 4e+09"),
        (put("run", "created_s", value="now"), "Expected `float`, got `str` - at `$.run.created_s`"),
        (put("run", "message", value="x" * 200_001), "$.run.message has 200001 characters; allowed: 200000"),
        (put("run", "device", "name", value="a\nb"), "$.run.device.name holds control characters or line breaks"),
        (put("run", "device", "name", value="x" * 256), "is longer than a name may be (255 bytes between slashes"),
        (put("run", "device", "id", value="a b"), "the device's id hold “a b”"),
        (put("run", "device", "versions", value={"a b": "1"}), "the versions hold “a b”"),
        (put("run", "device", "ram_bytes", value=10**30), "$.run.device.ram_bytes is 1"),
        (put("run", "device", "cores", value=10**30), "$.run.device.cores is 1"),
        (put("run", "spec", "repeats", value=1), "Repeats: got 1; allowed: a whole number from 2 to 1000"),
        (put("run", "spec", "sizes", value=[0.01]), "Input length: got 0.01; allowed: seconds from 0.1 to 60"),
        (put("run", "spec", "axis", "name", value="length:Q"), "the axis is “length:Q_s”"),
        (put("run", "spec", "axis", "low", value=-1), "the axis goes from -1 to 60; allowed: rising, above 0"),
        (put("run", "spec", "sizes", value=[1.0] * 1001), "there are 1001 sizes; allowed: 1000"),
        (put("run", "spec", "variants", 0, "placement", "device", value="a/b"), "a variant runs on “a/b”; allowed"),
        (put("variants", value=[]), "$.variants are not those of the spec"),
        (put("variants", 0, "variant", "mode", value="x"), "$.variants are not those of the spec"),
        (put("variants", 0, "artefact", "size_bytes", value=0), "$.variants[0].artefact.size_bytes is 0"),
        (put("variants", 0, "artefact", "digest", value="../x"), "$.variants[0].artefact.digest is “../x”"),
        (put("variants", 0, "coverage", "parts", 0, "macs", value=-1), "$.variants[0].coverage has a negative count"),
        (put("failures", 0, "variant", value=2), "a failure is of variant 2; allowed: 0 to 1"),
        (put("groups", 1, "id", value=0), "$.groups[1].id is 0; allowed: above "),
        (put("groups", 0, "variants", value=[0, 2]), "$.groups[0].variants is [0, 2]; allowed: some of [0, 1]"),
        (put("groups", 0, "variants", value=[]), "$.groups[0].variants is []"),
        (put("groups", 0, "model", value="x"), "$.groups[0].variants is [0, 1]; allowed: some of []"),
        (put("groups", 0, "size", value=2.0), "$.groups[0] is of batch 1 and size 2, which the spec does not have"),
        (put("groups", 0, "state", value="live"), "Invalid enum value 'live' - at `$.groups[0].state`"),
        (put("groups", 0, "visits", 1, "variant", value=0), "$.groups[0] has two visits of one variant in one round"),
        (put(*VISIT, "variant", value=-1), "$.groups[0].visits[0] is of variant -1"),
        (put(*VISIT, "passes", value=[]), "$.groups[0].visits[0] has no kept pass"),
        (put(*VISIT, "passes", 0, "seconds", value=0), "has a pass of 0.0 s; allowed: 1e-09 to 1e+06"),
        (put(*VISIT, "passes", 0, "seconds", value=-1), "seconds is -1; allowed: 0 to 1e+09"),
        (put(*VISIT, "passes", 0, "seconds", value=10**400), "passes[0].seconds is 1000"),
        (put(*VISIT, "passes", 0, "seconds", value=float("nan")), "is not JSON, or only a part of it"),
        (put(*VISIT, "passes", 0, "seconds", value=float("inf")), "is not JSON, or only a part of it"),
        (put(*VISIT, "passes", 0, "kind", value="best"), "Invalid enum value 'best'"),
        (put(*VISIT, "passes", 2, "phases", value=[["a b", 1]]), "has a phase “a b” of 1.0 s"),
        (put(*VISIT, "reading", "throttled", value="no"), "Expected `bool | null`, got `str`"),
        (put(*VISIT, "reading", "temperature_c", value=1e9), "temperature_c is 1"),
        (put("clips", value=[{"position": 0, "id": "a", "path": "/a", "text": ""}]), "a run has neither clips nor"),
        (put("x" * 300, value=1), "$ has a key that is longer than a name may be"),
    ],
)
def test_a_spoilt_run_is_refused_with_the_place(store: Store, change: Change, sentence: str) -> None:
    data = bundles.spoilt(store, bundles.interrupted_run(store), change)
    assert sentence in refusal(data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("evaluation", "spec", "normaliser", value="loud"), "the normaliser is “loud”; allowed: basic, none"),
        (put("clips", 1, "position", value=5), "$.clips are not numbered 0, 1, 2 …"),
        (put("clips", 0, "length_s", value=-1), "$.clips[0].length_s is -1; allowed: 0 to 4e+09"),
        (put("evaluation", "spec", "dataset", value="a\x00b"), "$.evaluation.spec.dataset holds control characters"),
        (put("predictions", 0, "clip", value=2), "$.predictions[0] is of clip 2 and variant 0, which are not there"),
        (put("predictions", 0, "variant", value=-1), "$.predictions[0] is of clip 0 and variant -1"),
        (put("predictions", 1, "variant", value=0), "$.predictions[1] is not in the order of clips and variants"),
        (put("predictions", 0, "seconds", value=0), "$.predictions[0].seconds is 0.0"),
        (put("predictions", 0, "output", "words", 0, "begin_s", value=1e99), "output.words[0].begin_s is 1e+99"),
        (put("groups", value=[]), ""),
    ],
)
def test_a_spoilt_evaluation_is_refused_with_the_place(store: Store, change: Change, sentence: str) -> None:
    data = bundles.spoilt(store, bundles.evaluation(store), change)
    if not sentence:
        assert read(data, "x.json") == store.bundle(store.evaluations()[0].id), "an empty list changes nothing"
        return
    assert sentence in refusal(data)


def test_more_variants_or_clips_than_can_be_shown_are_refused(store: Store) -> None:
    def many(document: Any) -> None:
        document["run"]["spec"]["variants"] *= 501

    def clips(document: Any) -> None:
        document["clips"] = [{"position": i, "id": "a", "path": "/a", "text": ""} for i in range(50_001)]

    data = bundles.spoilt(store, bundles.finished_run(store), many)
    assert "there are 1002 variants; allowed: 1000" in refusal(data)
    assert "there are 50001 clips; allowed: 50000" in refusal(bundles.spoilt(store, bundles.evaluation(store), clips))


def test_groups_of_an_evaluation_are_refused(store: Store) -> None:
    run = json.loads(to_text(store.bundle(bundles.interrupted_run(store))))
    data = bundles.spoilt(store, bundles.evaluation(store), put("groups", value=run["groups"]))
    assert "an evaluation has no groups" in refusal(data)


def refusal(data: bytes) -> str:
    """The sentence with which a file is refused; it is short, names the file and says how to go on."""
    with pytest.raises(BundleError) as e:
        read(data, "x.json")
    sentence = str(e.value)
    assert sentence.startswith("x.json ") and sentence.endswith(".") and len(sentence) < 600 and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is not JSON, or only a part of it"),
        (b'{"earbench_bundle": 1', "is not JSON, or only a part of it"),
        (b"PK\x03\x04", "is not JSON, or only a part of it"),
        (b"\xff\xfe{}", "is not JSON, or only a part of it"),
        (b'{"a": "\\ud800"}', "is not JSON, or only a part of it"),
        (b"[]", "holds JSON, but no bundle: it is no object"),
        (b"7", "holds JSON, but no bundle"),
        (b'{"run": {}}', "is no bundle"),
        (b"[" * 1_000_000, "is nested deeper than 16 levels"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "is nested deeper than 16 levels"),
        (b'{"earbench_bundle": ' + b"9" * 5000 + b"}", "is not JSON, or only a part of it"),
        (b'{"earbench_bundle": 1}', "missing required field `run`"),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, sentence: str) -> None:
    assert sentence in refusal(data)


def test_a_file_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    text = to_text(store.bundle(bundles.finished_run(store)))
    for module in (bundle_module, bundle_reader):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    assert "is larger (0 MB) than a bundle may be" in refusal(text.encode())
    with pytest.raises(BundleError, match=r"takes 0 MB as a bundle; allowed: 0 MB. Take it along as CSV"):
        to_text(store.bundle(store.runs()[0].id))


def test_more_values_than_fit_into_memory_are_not_parsed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    text = to_text(store.bundle(bundles.finished_run(store)))
    runs = len(text.encode()) / bundle_module.MAX_BYTES  # of the largest that is allowed
    values = text.count(",") + text.count("[") + 3 * text.count("{")
    assert values / runs < bundle_reader.MAX_VALUES, "a run of the largest size is still read"
    monkeypatch.setattr(bundle_reader.msgspec.json, "decode", lambda data: pytest.fail("it was decoded"))
    for value, count in ((b"{}", 2_000_000), (b'{"a":1}', 2_000_000), (b"[]", 4_000_000), (b"0", 8_000_000)):
        data = b'{"a":[' + b",".join([value] * count) + b"]}"
        assert "holds more values than a bundle may (8,000,003, objects as several; allowed: 8,000,000)" in refusal(
            data
        )


def test_any_name_of_a_file_and_any_message_travels(store: Store, other: Store) -> None:
    spec = EvaluationSpec((bundles.FP32, bundles.INT8), "/clips")
    run_id = store.create_run(spec, bundles.BOARD)
    names = ["a\nb\x1b[0m.wav", "é" * 127 + ".wav", "![](http://e).wav"]
    store.set_clips(run_id, [ClipRecord(i, name, f"/clips/{name}", "ONE") for i, name in enumerate(names)])
    for name in names:
        store.add_failure(run_id, Failure(1, f"clip {name}", "unreadable", f"“{name}” can't be read ![](http://e)."))
    store.set_state(run_id, "failed", "![](http://e) is no answer.")
    bundle = store.bundle(run_id)
    assert other.add_bundle(read(to_text(bundle).encode(), "x.json")) and other.bundle(run_id) == bundle


def test_a_number_that_is_not_finite_is_not_written(store: Store) -> None:
    bundle = store.bundle(bundles.evaluation(store))
    output = {"text": "", "words": [{"text": "a", "begin_s": 0.0, "end_s": 0.0, "confidence": float("nan")}]}
    with pytest.raises(BundleError, match=r"not finite.*--raw"):
        to_text(replace(bundle, predictions=(Prediction(0, 0, 1.0, output),)))


# --- what is documented


def test_the_documented_bundle_is_one(other: Store) -> None:
    example = EXAMPLES[-1]
    bundle = read(json.dumps(example).encode(), "x.json")
    assert json.loads(to_text(bundle)) == example, "nothing is left out of the example"
    assert other.add_bundle(bundle) and other.bundle(bundle.record.id) == bundle
    named = set(re.findall(r"`(\w+)`", DOCUMENT.partition("## The schema")[2].partition("A whole one")[0]))
    assert set(example) <= named
    for record in (example["run"], example["groups"][0], example["groups"][0]["visits"][0], *EXAMPLES[-1]["failures"]):
        assert set(record) <= named
    for kind in (Group, Visit, Pass, Prediction):
        assert set(kind.__dataclass_fields__) <= named
