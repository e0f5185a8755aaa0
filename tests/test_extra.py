"""Any model and any mode in one file each: a toy family and a toy mode from elsewhere go the whole way.

The family has two networks, integer inputs, a cache that the engine keeps, and a task of its own; the mode has an
engine of its own. Nothing in `bench/` names them.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import snr_db
from prepared import prepare
from streamlit.testing.v1 import AppTest

from bench import modes
from bench.artefacts import build, cache, transfer
from bench.core import extras
from bench.core.paths import ROOT
from bench.core.specs import Placement, RunSpec, SpecError
from bench.core.store import Store
from bench.families import catalogue, families
from bench.families.family import ModelError
from bench.families.network import Steps
from bench.families.session import FedBack
from bench.families.tasks.task import TaskError
from bench.jobs import forecast, work
from bench.modes.mode import ModeError
from bench.results import report, sentences, tables
from bench.results.charts import size, speed, style
from bench.ui.page import PAGES

EXTRA = "tests.toys.family,tests.toys.mode"
MODEL, TOY_MODE = "toy-random", "toy-halves"
# Signal to noise of all logits after 20 cached steps against a loop of plain torch, dB, at least.
SNR_DB = {
    "torch-fp32": 80,
    "torch-int8-dynamic": 20,
    "onnx-fp32": 80,
    "onnx-int8-dynamic": 20,
    "openvino-fp32": 80,
    "openvino-int8-static": 20,
    TOY_MODE: 60,  # fp16 has 11 bits of a mantissa
}
OTHERS = ("torch-bf16", "torchao-int8-dynamic", "torchao-int8-weight-only", "onnx-int8-static", "onnx-int4")
OTHERS += ("openvino-bf16", "openvino-int8-weight-only")
MINUTES = 280.0

pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.ao|quantized tensor|TypedStorage)")


@pytest.fixture(autouse=True)
def _extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(extras.VARIABLE, EXTRA)


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "EARBENCH_DATA": str(folder)},
        timeout=MINUTES,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of the toy family in six modes of Earbench's and in the toy mode, from the command line.

    All but the toy mode are built before, in one process, so that torch is imported once.
    """
    folder = tmp_path_factory.mktemp("extra")
    with pytest.MonkeyPatch.context() as m:
        m.setenv(extras.VARIABLE, EXTRA)
        prepare(MODEL, [mode for mode in (*SNR_DB, *OTHERS) if mode != TOY_MODE], folder, folder / "prepared")
        done = bench(
            folder,
            *("run", "--model", MODEL, "--modes", ",".join(SNR_DB), "--sizes", "8,16", "--repeats", "2"),
            *("--target", "1", "--threads", "cpu/2", "--csv", str(folder / "run.csv")),
        )
    assert done.returncode == 0, done.stderr
    return folder, done


def plain_loop(feed: Any) -> Any:
    """(batch, steps, vocabulary) logits of the float modules, nothing of Earbench between."""
    import torch

    from tests.toys import family as toy

    torch.manual_seed(toy.SEED)
    networks = toy.modules(toy.CONFIG)
    with torch.inference_mode():
        keys, values = networks["encoder"](torch.from_numpy(feed["tokens"]))
        past, logits = torch.zeros(len(feed["tokens"]), 0, toy.WIDTH), []
        for step in range(toy.STEPS):
            token = torch.from_numpy(feed["forced"][:, step : step + 1])
            now, past = networks["decoder"](token, keys, values, past)
            logits.append(now)
    return torch.cat(logits, 1).numpy()


@pytest.mark.parametrize("mode", [*SNR_DB, *OTHERS])
def test_twenty_cached_steps_equal_a_loop_of_plain_torch(
    mode: str, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(measured[0]))
    toy = families()["toy"]
    artefact, coverage = build.prepare(MODEL, mode, {}, lambda _: None)
    assert artefact.from_cache
    directory = cache.folder(artefact.digest)
    networks = modes.find(mode).open(directory, Placement("cpu", 2), toy, toy.read_networks(directory))
    for batch, seed in ((1, 0), (2, 1)):  # twice, so that a state begins anew
        feed = toy.inputs(9, batch, seed, "noise", {})
        logits = toy.run(networks, feed, toy.read_files(directory), Steps(20), lambda _: None)["logits"]
        assert logits.shape == (batch, 20, 128)
        assert snr_db(plain_loop(feed), logits) >= SNR_DB.get(mode, 20)
    profile = toy.profile(toy.read_files(directory)["config.json"], toy.COVERAGE_SIZE)
    assert sum(p.macs for p in coverage.parts) == profile.macs
    bits = modes.find(mode).SPEC.weights.bits
    assert coverage.parameters_ratio(bits), f"some weights are stored in {bits} bits"


def test_the_table_of_the_run(measured: Any) -> None:
    folder, _ = measured
    with (folder / "run.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["mode"], float(r["tokens"])) for r in rows] == [(m, s) for s in (8.0, 16.0) for m in SNR_DB]
    assert {r["placement"] for r in rows} == {"cpu/2"} and {r["rtf"] for r in rows} == {""}
    assert {r["engine"] for r in rows} == {"torch", "onnx", "openvino", "toy"}
    assert list(rows[0])[-3:] == ["placement", "encode_mean_s", "decode_mean_s"]
    for r in rows:  # the phases are the pass, but for a moment between the clocks
        assert float(r["encode_mean_s"]) + float(r["decode_mean_s"]) == pytest.approx(float(r["mean_s"]), rel=0.2)
    by_mode = {r["mode"]: r for r in rows}
    assert by_mode["onnx-int8-dynamic"]["engine_ratio"] == by_mode["onnx-fp32"]["speedup_ratio"]
    assert by_mode[TOY_MODE]["engine_ratio"] == "", "its engine has no fp32 mode"


def test_the_terminal_names_the_axis(measured: Any) -> None:
    _, done = measured
    assert "tokens" in done.stdout and " ms, mean" in done.stdout


def test_charts_and_sentences_say_what_a_size_is(measured: Any) -> None:
    store = Store(measured[0] / "earbench.db")
    (run,) = store.runs()
    r = report.report(store, run.id)
    assert r and not r.failures
    rows, axis = tables.summary_rows(r), run.spec.axis
    drawn = json.dumps([speed.latency(rows, axis), speed.speedup(rows, "torch-fp32", axis), size.size(rows)])
    assert "Input tokens" in drawn and '"8 tokens"' in drawn and '"field": "tokens"' in drawn
    assert "length" not in drawn and "Latency against input tokens" in drawn
    headline = sentences.headline(r)
    assert headline and "on 16 tokens" in headline and "audio" not in headline
    coverage = tables.coverage_rows(r)
    assert {p["mode"] for p in coverage} == set(SNR_DB)
    toy = [p for p in coverage if p["mode"] == TOY_MODE]
    assert {p["weight_bits"] for p in toy} == {16, None} and {p["activation_bits"] for p in toy} == {32}


@pytest.mark.parametrize("page", ["app.py", "pages/1_Benchmark.py", "pages/2_Results.py", "pages/5_Device.py"])
def test_pages_show_them(page: str, measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.jobs import manager

    monkeypatch.setenv("EARBENCH_DATA", str(measured[0]))
    manager._jobs.cache_clear()
    try:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=MINUTES)
        if page != "app.py":
            app.switch_page(page)
        app.run()
        assert not app.exception and not app.error
        if page == "pages/1_Benchmark.py":
            assert TOY_MODE in app.multiselect(key="modes").options or any(
                "toy engine" in option for option in app.multiselect(key="modes").options
            )
            app.multiselect(key="models").set_value([MODEL]).run()
            assert app.text_input(key="lengths").label == "Input tokens"
            assert not app.exception and not app.error
        if page == "pages/2_Results.py":
            (table, *_) = (frame.value for frame in app.dataframe if "Mode" in frame.value.columns)
            assert "Input, tokens" in table.columns and "RTF" not in table.dropna(axis=1, how="all").columns
    finally:
        manager._jobs.cache_clear()


@pytest.mark.parametrize("page", [path for path, _, _ in PAGES])
def test_pages_say_in_a_sentence_which_extra_module_is_missing(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(extras.VARIABLE, "nowhere.to.be.found")
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=MINUTES)
    if page != "app.py":
        app.switch_page(page)
    app.run()
    assert not app.exception
    (error,) = app.error
    assert error.value.startswith("EARBENCH_EXTRA names nowhere.to.be.found, which can't be imported")


def test_pages_say_in_a_sentence_that_a_name_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twin_mode.py").write_text(
        "from types import SimpleNamespace\nMODE = SimpleNamespace(name='torch-fp32')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(extras.VARIABLE, "twin_mode")
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=MINUTES).run()
    (error,) = app.error
    assert not app.exception
    assert error.value.startswith("EARBENCH_EXTRA names twin_mode, whose MODE is called “torch-fp32”")


def test_a_mode_of_an_engine_that_is_not_listed_has_a_colour_and_a_place_in_the_menu() -> None:
    assert list(modes.modes())[-1] == TOY_MODE and modes.menu()[TOY_MODE] == "fp16 in the file (toy engine)"
    assert style.mode_colour(TOY_MODE) in style.OTHERS
    assert style.mode_colour(f"{TOY_MODE}:scale=2.0") == style.mode_colour(TOY_MODE)
    assert modes.complete(modes.find(TOY_MODE), {"scale": 2}) == {"scale": 2.0}


def test_the_toy_mode_takes_the_demo_model_too(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(measured[0]))
    artefact, coverage = build.prepare("demo", TOY_MODE, {"scale": 2.0}, lambda _: None)
    assert artefact.details == {"scale": "2.0"} and coverage.parts[0].weight_bits == 16


def test_an_artefact_of_several_networks_travels(
    measured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(measured[0]))
    artefact, _ = build.prepare(MODEL, "openvino-int8-static", {}, lambda _: None)
    files = cache.manifest_of(artefact.digest)["files"]
    assert set(files) == {"config.json", "encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"}
    transfer.write(artefact.digest, tmp_path / "toy.zip")
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "elsewhere"))
    digest, name = transfer.read(tmp_path / "toy.zip")
    assert digest == artefact.digest and name == MODEL and (cache.folder(digest) / "decoder.bin").is_file()


def test_calibration_sees_what_reaches_each_network_while_the_float_model_runs() -> None:
    toy, mode = families()["toy"], modes.find("openvino-int8-static")
    checkpoint = catalogue.find(MODEL)
    networks, source = toy.networks(checkpoint.config), toy.load(checkpoint, None)
    examples = [toy.prepare(example.read(), {}) for example in toy.TASK.examples("", 2)]
    float_mode = modes.find("torch-int8-dynamic")  # one that is built from the float modules
    feeds = build._captured(float_mode, toy, {}, networks, examples, source, lambda _: None)
    assert mode.SPEC.data and {name: len(f) for name, f in feeds.items()} == {"encoder": 2, "decoder": 2 * 6}
    np.testing.assert_array_equal(feeds["encoder"][1]["tokens"], examples[1]["tokens"])
    assert [feed["past"].shape[1] for feed in feeds["decoder"]] == [0, 1, 2, 3, 4, 5] * 2
    assert all(set(feed) == {"token", "keys", "values", "past"} for feed in feeds["decoder"])
    assert feeds["decoder"][0]["past"].dtype == np.float32


def test_a_state_is_fed_back_and_begins_with_zeros() -> None:
    """Hand-computed: each pass appends its own number to what was passed on."""
    decoder = families()["toy"].networks(catalogue.find(MODEL).config)[1]
    passes: list[Any] = []

    def first(feed: Any) -> Any:
        present = np.concatenate([feed["past"], np.full((1, 1, 64), len(passes), np.float32)], axis=1)
        return {"logits": feed["token"], "present": present}

    session = FedBack(decoder, first, passes.append)
    memory = np.zeros((1, 3, 64), np.float32)
    for token in (5, 6, 7):
        outputs = session({"token": np.array([[token]]), "keys": memory, "values": memory})
        assert set(outputs) == {"logits"} and outputs["logits"].item() == token
    assert [feed["past"][0, :, 0].tolist() for feed in passes] == [[], [1.0], [1.0, 2.0]]


# --- refusals


def test_modes_that_do_not_fit_say_why() -> None:
    for mode, reason in (
        ("torch-int8-static", "it takes models of one network without a state, and toy has 2"),
        ("torch-int8-qat", "it is tuned with a loss, and toy has none"),
    ):
        spec = RunSpec.grid([MODEL], [mode], [8], placements=[Placement()], axis=families()["toy"].AXIS)
        with pytest.raises(ModeError, match=f"{mode} does not support {MODEL}: {reason}"):
            forecast.estimate(spec)
    toy = families()["toy"]
    with pytest.raises(ModeError, match="it takes no more than a thousand words"):
        modes.refuse_unsupported(modes.find(TOY_MODE), toy, {"vocab_size": 2000}, "a large toy")


def test_models_of_different_inputs_are_no_one_run(data_folder: Path) -> None:
    with pytest.raises(SpecError, match=r"inputs are of different kinds: Input tokens .* and Input length, s"):
        work.axis([MODEL, "demo"])
    done = bench(data_folder, "run", "--model", f"{MODEL},demo")
    assert done.returncode == 2 and "Measure them in runs of their own" in done.stderr.replace("\n", " ")


def test_a_size_outside_the_axis(data_folder: Path) -> None:
    done = bench(data_folder, "run", "--model", MODEL, "--sizes", "1000")
    assert done.returncode == 2
    assert "Input tokens: got 1000.0; allowed: tokens from 1 to 512." in done.stderr.replace("\n", " ")


def test_what_transcribes_refuses_a_model_of_another_task(data_folder: Path) -> None:
    sentence = f"{MODEL} predicts the next token, and this takes a model that transcribes speech"
    with pytest.raises(TaskError, match=sentence):
        catalogue.check_task("transcription", ["demo", MODEL])
    for arguments in (("evaluate", "--dataset", "data/clips"), ("transcribe", "data/clips/benchmark-5s.wav")):
        done = bench(data_folder, *arguments, "--model", MODEL, "--modes", "torch-fp32")
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr
        assert sentence in " ".join((done.stdout + done.stderr).split())


def test_numbers_that_no_model_has_are_refused_before_anything_computes_with_them() -> None:
    toy = families()["toy"]
    for number in (10**9, 0, True, 64.0, None):
        with pytest.raises(ModelError, match=r"width is .*; allowed: whole numbers from 1 to 1024"):
            toy.check({"vocab_size": 5, "width": number}, "toy")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("no.such.module", "names no.such.module, which can't be imported"),
        ("json", "names json, which defines neither FAMILY nor MODE"),
        (
            "tests.toys.broken",
            "names tests.toys.broken, which can't be imported (NameError: name 'famly' is not defined)",
        ),
    ],
)
def test_modules_that_are_not_there_or_define_nothing(
    names: str, sentence: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(extras.VARIABLE, names)
    done = bench(data_folder, "models")
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_without_the_variable_nobody_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(extras.VARIABLE)
    assert "toy" not in families() and TOY_MODE not in modes.modes()
    for file in (ROOT / "bench").rglob("*.py"):
        assert "toy" not in file.read_text().split("EARBENCH_EXTRA")[0], file
