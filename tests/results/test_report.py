"""A small run made by hand: what the tables and the CSV say of it, with the arithmetic beside it."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.core.codec import from_plain
from bench.core.paths import ROOT
from bench.core.records import LOSS_CURVE, Artefact, Coverage, Device, Failure, Opening, Part, Pass, Reading, Visit
from bench.core.specs import Axis, Placement, RunSpec, Variant
from bench.core.store import Store
from bench.results import report, tables
from bench.results.report import Report

COLUMNS = """
    run_id, device, model, mode, engine, threads, batch, length_s, passes, cold_s, mean_s, std_s,
    median_s, iqr_ratio, speedup_ratio, speedup_low, speedup_high, rtf, size_bytes, size_ratio, load_s,
    peak_rss_bytes
"""
FP32, INT8 = (
    Variant("tiny", "torch-fp32", Placement("cpu", 2)),
    Variant("tiny", "torch-int8-dynamic", Placement("cpu", 2)),
)
SPEC = RunSpec((FP32, INT8), (5.0,))
DEVICE = Device("d1", "board", "=cpu()", 4, ("avx2",), 2**30, "-os", "x86_64", {"torch": "2.13.0", "python": "3.12"})
BASE, QUANT = (
    Artefact("a", "seed 0", 400, 1.0, None, False),
    Artefact("b", "+seed 0", 160, 2.0, None, True),
)
# Kept passes by variant and round. Visit medians: 0.3 and 0.4; 0.15 and 0.1.
KEPT = {0: [(0.2, 0.7, 0.1 + 0.2), (0.4, 0.4, 0.4)], 1: [(0.1, 0.4, 0.15), (0.1, 0.1, 0.1)]}


def visit(variant: int, number: int, kept: Sequence[float], reading: Reading | None = None) -> Visit:
    cold = (Pass("cold", 7.0 + variant),) if number == 0 else ()
    passes = (*cold, Pass("discarded", 5.0), *(Pass("kept", s) for s in kept))
    return Visit(variant, number, variant, 1000.5 + number, passes, reading or Reading())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


@pytest.fixture
def run_id(store: Store) -> str:
    made = store.create_run(SPEC, DEVICE)
    store.set_variant(made, 0, artefact=BASE, opening=Opening(3.0, 0.5, 10, 20))
    coverage = Coverage((Part("head", 8, 8, 100, 1000), Part("norms and biases", 32, 32, 50, 0)))
    store.set_variant(made, 1, artefact=QUANT, opening=Opening(3.0, 0.25, 10, None), coverage=coverage)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1])
    for number in (0, 1):
        for v in (0, 1):
            busy = (0.5, 0.01)[number] if v else None
            reading = Reading(None, 1000 + 10 * v - number, None, busy, 60.0 + number if v else None, 2.4e9)
            store.add_visit(group, visit(v, number, KEPT[v][number], reading))
    store.end_group(group, "target not reached in 2 rounds")
    store.set_state(made, "done")
    return made


def read(store: Store, run_id: str) -> Report:
    run_report = report.report(store, run_id)
    assert run_report
    return run_report


def test_the_figures_by_hand(store: Store, run_id: str) -> None:
    base, quant = read(store, run_id).cells
    assert base.is_baseline and not quant.is_baseline
    # 0.2 + 0.7 + 0.3 + 3 * 0.4 = 2.4, over 6 = 0.4; deviations -0.2 0.3 -0.1 0 0 0:
    # squares 0.04 + 0.09 + 0.01 = 0.14, over 5 = 0.028.
    assert base.summary.passes == 6
    assert base.summary.mean_s == pytest.approx(0.4, rel=1e-12)
    assert base.summary.std_s == pytest.approx(math.sqrt(0.028), rel=1e-12)
    assert base.rtf == pytest.approx(0.08, rel=1e-12)  # 0.4 s of computing for 5 s
    assert (base.cold_s, quant.cold_s) == (7.0, 8.0)  # cold and discarded passes are in no other figure
    assert base.speedup is None and base.size_ratio == 1.0
    # 0.3 / 0.15 = 2 and 0.4 / 0.1 = 4: logs ln 2 and 2 ln 2, mean 1.5 ln 2, so 2^1.5;
    # std ln 2 / sqrt 2, standard error ln 2 / 2, t(0.975, 1) = 12.7062: 2^(1.5 +- 6.3531)
    assert quant.speedup is not None
    assert quant.speedup.value == pytest.approx(2**1.5, rel=1e-12)
    assert quant.speedup.low == pytest.approx(2 ** (1.5 - 6.3531), rel=1e-4)
    assert quant.speedup.high == pytest.approx(2 ** (1.5 + 6.3531), rel=1e-4)
    assert quant.size_ratio == 2.5  # 400 / 160
    assert (quant.peak_rss_bytes, quant.pss_bytes, quant.temperature_c) == (1010, None, 61.0)
    assert (quant.busy_visits, quant.visits, base.busy_visits) == (1, 2, 0)  # 0.5 is over 0.02, 0.01 is not


def test_the_speed_up_in_two_factors_by_hand(store: Store) -> None:
    spec = RunSpec(
        tuple(Variant("tiny", m, Placement("cpu", 2)) for m in ("torch-fp32", "onnx-fp32", "onnx-int8-dynamic")), (5.0,)
    )
    made = store.create_run(spec, DEVICE)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1, 2])
    for number, seconds in enumerate(((8.0, 4.0, 1.0), (8.0, 2.0, 2.0))):
        for v, s in enumerate(seconds):
            store.add_visit(group, visit(v, number, (s,)))
    base, engine, quant = read(store, made).cells
    assert base.engine and base.precision and base.engine.value == base.precision.value == 1
    # engine: 8 / 4 and 8 / 2, so 2^1.5; precision of its fp32 is none
    assert engine.engine and engine.precision and engine.speedup
    assert engine.engine.value == pytest.approx(2**1.5, rel=1e-12) == engine.speedup.value
    assert engine.precision.value == 1
    # precision: 4 / 1 and 2 / 2, so 2; whole: 8 / 1 and 8 / 2, so 2^2.5 = 2^1.5 times 2
    assert quant.engine and quant.precision and quant.speedup
    assert quant.engine.value == pytest.approx(2**1.5, rel=1e-12)
    assert quant.precision.value == pytest.approx(2.0, rel=1e-12)
    assert quant.speedup.value == pytest.approx(quant.engine.value * quant.precision.value, rel=1e-12)
    row = tables.summary_rows(read(store, made))[2]
    assert (row["engine_ratio"], row["precision_ratio"]) == (quant.engine.value, quant.precision.value)


def test_without_the_engines_fp32_nothing_is_split(store: Store) -> None:
    spec = RunSpec((FP32, Variant("tiny", "onnx-int8-dynamic", Placement("cpu", 2)), INT8), (5.0,))
    made = store.create_run(spec, DEVICE)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1, 2])
    for v in (0, 1, 2):
        store.add_visit(group, visit(v, 0, (1.0 + v,)))
    _, other, engine_fp32 = read(store, made).cells
    assert other.engine is None and other.precision is None
    assert (
        engine_fp32.engine and engine_fp32.precision and engine_fp32.engine.value == 1
    )  # the original is its engine's fp32
    assert engine_fp32.precision.value == pytest.approx(1 / 3, rel=1e-12)


def test_rtf_counts_the_audio_of_the_whole_batch(store: Store) -> None:
    made = store.create_run(RunSpec((FP32,), (2.0,), (4,)), DEVICE)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 4, 2.0, [0])
    store.add_visit(group, visit(0, 1, (1.5, 2.5)))
    (cell,) = read(store, made).cells
    assert cell.rtf == 0.25  # 2 s for 4 times 2 s
    assert cell.size_ratio is None and cell.cold_s is None  # no artefact, no cold pass: unknown, not 1 and not 0


def test_csv_columns_and_the_rows_words(store: Store, run_id: str) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.summary_rows(read(store, run_id))))))
    columns = COLUMNS.replace(",", " ").split()
    assert len(columns) == 22 and [c for c in rows[0] if c in columns] == columns
    assert [r["mode"] for r in rows] == ["torch-fp32", "torch-int8-dynamic"]
    assert [r["engine"] for r in rows] == ["torch", "torch"]
    assert rows[0]["speedup_ratio"] == "1.0" and float(rows[1]["speedup_ratio"]) == pytest.approx(2**1.5, rel=1e-12)
    assert {(r["run_id"], r["device"], r["torch_version"]) for r in rows} == {(run_id, "board", "2.13.0")}
    assert (rows[1]["size_bytes"], rows[1]["load_s"], rows[1]["pss_bytes"]) == ("160", "0.25", "")


def test_csv_numbers_are_the_stores_to_the_last_bit(store: Store, run_id: str) -> None:
    r = read(store, run_id)
    kept = {v: [s for x in r.groups[0].visits if x.variant == v for s in x.kept_s] for v in (0, 1)}
    assert kept[0][2] == 0.30000000000000004
    raw = tables.to_csv(tables.raw_rows(r))
    by_csv = list(csv.DictReader(io.StringIO(raw)))
    by_pandas = pd.read_csv(io.StringIO(raw))
    for v, mode in enumerate(("torch-fp32", "torch-int8-dynamic")):
        assert [float(x["seconds"]) for x in by_csv if x["mode"] == mode and x["kind"] == "kept"] == kept[v]
        mine = by_pandas[(by_pandas["mode"] == mode) & (by_pandas["kind"] == "kept")]
        assert mine["seconds"].tolist() == kept[v]
    summary = tables.to_csv(tables.summary_rows(r))
    table = pd.read_csv(io.StringIO(summary))
    for row, parsed, in_pandas in zip(
        tables.summary_rows(r), csv.DictReader(io.StringIO(summary)), table.to_dict("records"), strict=True
    ):
        for name, value in row.items():
            if isinstance(value, float):
                assert parsed[name] == repr(value)
                assert float(parsed[name]) == value == in_pandas[name]
            elif isinstance(value, int):
                assert int(parsed[name]) == value == in_pandas[name]
            elif value is None:
                assert parsed[name] == "" and pd.isna(in_pandas[name])
    assert table["median_s"].tolist() == [statistics.median(kept[0]), statistics.median(kept[1])]


def test_raw_rows_hold_every_pass_in_order(store: Store, run_id: str) -> None:
    rows = tables.raw_rows(read(store, run_id))
    assert len(rows) == 2 * (5 + 4)  # in round 0 cold, discarded and 3 kept; in round 1 no cold one
    assert [(r["round"], r["mode"]) for r in rows if r["kind"] == "discarded"] == [
        (0, "torch-fp32"),
        (0, "torch-int8-dynamic"),
        (1, "torch-fp32"),
        (1, "torch-int8-dynamic"),
    ]
    assert [r["pass"] for r in rows[:5]] == [0, 1, 2, 3, 4]
    assert rows[-1]["others_cpu_ratio"] == 0.01 and rows[0]["others_cpu_ratio"] is None


def phased(kind: Any, encode: float, *decode: float) -> Pass:
    return Pass(kind, encode + sum(decode), (("encode", encode), *(("decode", s) for s in decode)))


def test_phases_by_hand(store: Store) -> None:
    made = store.create_run(SPEC, DEVICE)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1])
    warm = (phased("cold", 16.0, 8.0), phased("discarded", 32.0, 64.0))  # in no mean
    first = (*warm, phased("kept", 0.5, 0.25, 0.125), phased("kept", 1.5, 0.5, 0.125))
    store.add_visit(group, Visit(0, 0, 0, 0.0, first))
    store.add_visit(group, Visit(1, 0, 1, 0.0, (Pass("kept", 0.25),)))
    store.add_visit(group, Visit(0, 1, 0, 0.0, (phased("kept", 1.0, 0.5),)))
    r = read(store, made)
    base, quant = r.cells
    # encode: 0.5 + 1.5 + 1 = 3, over 3 passes; decode: 0.375 + 0.625 + 0.5 = 1.5, over 3
    assert base.phases == {"encode": 1.0, "decode": 0.5}
    assert sum(base.phases.values()) == pytest.approx(base.summary.mean_s)
    assert quant.phases == {}
    assert tables.phase_names(r) == ["encode", "decode"]
    rows = tables.summary_rows(r)
    assert [(row["encode_mean_s"], row["decode_mean_s"]) for row in rows] == [(1.0, 0.5), (None, None)]
    raw = tables.raw_rows(r)
    assert [(row["kind"], row["encode_s"], row["decode_s"]) for row in raw if row["mode"] == FP32.mode] == [
        ("cold", 16.0, 8.0),
        ("discarded", 32.0, 64.0),
        ("kept", 0.5, 0.375),
        ("kept", 1.5, 0.625),
        ("kept", 1.0, 0.5),
    ]
    assert [(row["encode_s"], row["decode_s"]) for row in raw if row["mode"] == INT8.mode] == [(None, None)]


def test_passes_without_phases_have_no_such_columns(store: Store, run_id: str) -> None:
    r = read(store, run_id)
    assert [c.phases for c in r.cells] == [{}, {}] and tables.phase_names(r) == []
    measured = {"mean_s", "std_s", "median_s", "p5_s", "p95_s", "cold_s", "load_s", "build_s", "length_s"}
    for row in tables.summary_rows(r):
        assert {name for name in row if name.endswith("_s")} == measured
    for row in tables.raw_rows(r):
        assert {name for name in row if name.endswith("_s")} == {"length_s", "started_s"}


def test_a_run_on_another_axis_has_its_column_and_no_real_time_factor(store: Store) -> None:
    tokens = Axis("tokens", "", "Input tokens", 1, 512, (8.0,), (8.0, 16.0))
    made = store.create_run(RunSpec((FP32,), (16.0,), axis=tokens), DEVICE)
    store.add_visit(store.start_group(made, "tiny", Placement("cpu", 2), 1, 16.0, [0]), visit(0, 1, (1.5, 2.5)))
    r = read(store, made)
    assert r.cells[0].rtf is None
    for row in (*tables.summary_rows(r), *tables.raw_rows(r)):
        assert row["tokens"] == 16.0 and "length_s" not in row and row["placement"] == "cpu/2"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\nx"])
def test_text_that_a_spreadsheet_would_run_is_inert(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(tables.to_csv([{"text": text, "number": -1.5}]), newline=""))
    assert row == {"text": f"'{text}", "number": "-1.5"}


def test_inert_cells_of_a_run(store: Store, run_id: str) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.summary_rows(read(store, run_id))))))
    assert (rows[0]["cpu"], rows[0]["os"], rows[1]["checkpoint"]) == ("'=cpu()", "'-os", "'+seed 0")


def test_text_with_commas_quotes_and_lines_comes_back() -> None:
    text = 'a, "b"\nc; é 語'
    (row,) = csv.DictReader(io.StringIO(tables.to_csv([{"text": text}]), newline=""))
    assert row["text"] == text
    (row,) = csv.DictReader(io.StringIO(tables.to_csv([{"text": "\rold\r\nlines"}]), newline=""))
    assert row["text"] == "'\nold\nlines"
    assert tables.to_csv([]) == ""


def test_a_baseline_that_failed_makes_no_other_one(store: Store) -> None:
    made = store.create_run(SPEC, DEVICE)
    store.set_variant(made, 1, artefact=QUANT)
    store.add_failure(made, Failure(0, "open", "killed", "It was killed."))
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [1])
    store.add_visit(group, visit(1, 0, KEPT[1][0]))
    r = read(store, made)
    (cell,) = r.cells
    assert not cell.is_baseline and cell.speedup is None and cell.size_ratio is None
    (row,) = tables.summary_rows(r)
    assert (row["speedup_ratio"], row["speedup_low"], row["speedup_high"], row["size_ratio"]) == (None,) * 4
    assert r.failures[0].variant == 0


def test_a_variant_that_failed_midway_keeps_its_shared_rounds(store: Store) -> None:
    made = store.create_run(SPEC, DEVICE)
    group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1])
    for number, (base, quant) in enumerate(((0.6, 0.2), (0.9, 0.3), (5.0, None))):
        store.add_visit(group, visit(0, number, (base,)))
        if quant:
            store.add_visit(group, visit(1, number, (quant,)))
    cell = next(c for c in read(store, made).cells if c.position == 1)
    assert cell.speedup is not None and cell.speedup.value == pytest.approx(3) and cell.speedup.rounds == 2


def test_blocks_keep_their_own_baseline_which_is_shown_once(store: Store) -> None:
    third = replace(INT8, mode="torch-bf16")
    made = store.create_run(RunSpec((FP32, INT8, third), (5.0,)), DEVICE)
    for other, base, quant in ((1, 0.4, 0.2), (2, 0.9, 0.3)):
        group = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, other])
        store.add_visit(group, visit(0, 0, (base,)))
        store.add_visit(group, visit(other, 0, (quant,)))
    cells = read(store, made).cells
    assert [c.position for c in cells] == [0, 1, 2]
    assert [c.speedup and c.speedup.value for c in cells] == [None, pytest.approx(2), pytest.approx(3)]


def test_superseded_passes_are_in_no_figure(store: Store, run_id: str) -> None:
    made = store.create_run(SPEC, DEVICE)
    old = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1])
    store.add_visit(old, visit(0, 0, (99.0,)))
    store.supersede_unfinished(made)
    new = store.start_group(made, "tiny", Placement("cpu", 2), 1, 5.0, [0, 1])
    store.add_visit(new, visit(0, 0, (0.5,)))
    (cell,) = read(store, made).cells
    assert cell.summary.mean_s == 0.5 and cell.summary.passes == 1


def test_a_run_of_a_mode_that_is_gone_stays_readable(store: Store) -> None:
    made = store.create_run(RunSpec((Variant("/gone", "no-such-mode", Placement("cpu", 2)),), (5.0,)), DEVICE)
    store.add_visit(store.start_group(made, "/gone", Placement("cpu", 2), 1, 5.0, [0]), visit(0, 0, (0.5,)))
    (row,) = tables.summary_rows(read(store, made))
    assert row["mode"] == "no-such-mode" and row["engine"] is None and row["mean_s"] == 0.5


def test_no_run_and_an_empty_run(store: Store) -> None:
    assert report.report(store, "none") is None
    assert tables.summary_rows(read(store, store.create_run(SPEC, DEVICE))) == []


def test_coverage_rows_and_json(store: Store, run_id: str) -> None:
    r = read(store, run_id)
    assert [(x["mode"], x["name"], x["weight_bits"], x["parameters"]) for x in tables.coverage_rows(r)] == [
        ("torch-int8-dynamic", "head", 8, 100),
        ("torch-int8-dynamic", "norms and biases", 32, 50),
    ]
    whole = json.loads(tables.to_json(r))
    assert from_plain(whole["run"]["spec"], RunSpec) == SPEC
    assert [p["seconds"] for v in whole["groups"][0]["visits"] for p in v["passes"]] == [
        row["seconds"] for row in tables.raw_rows(r)
    ]


HEAVY = "torch transformers librosa onnxruntime openvino torchao"


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "use",
    [
        "import bench.jobs.manager, bench.jobs.forecast, bench.jobs.benchmark, bench.results.report, bench.cli.app, "
        "bench.results.charts.speed, bench.results.sentences, bench.modes.probe",
        "from bench.jobs.forecast import estimate; from bench.core.specs import Placement, RunSpec; "
        "e = estimate(RunSpec.grid(['wav2vec2-base-random', 'facebook/wav2vec2-base-960h'], "
        "['torch-fp32', 'torch-int8-dynamic'], [1, 5], placements=[Placement('cpu', 2)])); "
        "assert e.duration.quiet_s > 0 < e.disk_bytes",
        "from bench.families import catalogue as models; "
        "models.family(models.find('wav2vec2-base-random')).inputs(5.0, 2, 0, 'speech', {})",
    ],
    ids=["imports", "estimate", "inputs"],
)
def test_the_dashboards_process_stays_light(use: str) -> None:
    tell = f"import sys; print('loaded:', *(m for m in '{HEAVY}'.split() if m in sys.modules))"
    assert fresh(f"{use}\n{tell}").strip() == "loaded:"


def test_a_loss_curve_becomes_rows_and_what_is_no_number_is_left_out(store: Store, run_id: str) -> None:
    assert tables.loss_rows(report.report(store, run_id)) == []  # type: ignore[arg-type]
    damaged = replace(QUANT, details={LOSS_CURVE: "0.5 nonsense 0.25 nan"})
    store.set_variant(run_id, 1, artefact=damaged)
    r = report.report(store, run_id)
    assert r and tables.loss_rows(r) == [
        {"model": "tiny", "mode": "torch-int8-dynamic", "step": step, "loss": loss}
        for step, loss in ((1, 0.5), (3, 0.25))
    ]
