"""The command line: what it prints, writes and refuses, with a job manager that measures nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import LIGHT
from rich.console import Console
from typer.testing import CliRunner

from bench import modes
from bench.cli import app, console
from bench.core import paths
from bench.core.bundle import to_text
from bench.core.errors import EarbenchError
from bench.core.lease import NAME, Lease, Refused
from bench.core.records import Artefact, Failure, Opening, Pass, Reading, Visit
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store, StoreError
from bench.device import cpu, host
from bench.families import catalogue
from bench.jobs import manager as jobs_manager
from bench.modes.probe import Availability
from bench.sound import audio
from bench.workers.client import WorkerError

FP32, INT8, BASE = "torch-fp32", "torch-int8-dynamic", "wav2vec2-base-random"
_COLUMNS = """
    run_id device model mode engine threads batch length_s passes cold_s mean_s std_s median_s iqr_ratio speedup_ratio
    speedup_low speedup_high rtf size_bytes size_ratio load_s peak_rss_bytes
"""
COLUMNS = _COLUMNS.split()
SPEC = RunSpec.grid([BASE], [FP32, INT8], [1, 5], placements=[Placement("cpu", 2)])
FOUND = {
    **dict.fromkeys(modes.modes(), Availability("available")),
    "torch-bf16": Availability("emulated", "emulated: slow"),
    INT8: Availability("available", "engine x86"),
}


def measure(store: Store, run_id: str) -> None:
    """fp32 at 100 ms and int8 at 50 ms a second of audio, two rounds."""
    run = store.run(run_id)
    assert run
    for position, size in enumerate((400, 100)):
        artefact = Artefact("d", "seed 0", size * 10**6, 1.0, None, False)
        store.set_variant(run_id, position, artefact=artefact, opening=Opening(3.0, 0.5, 10, 20))
    for length_s in run.spec.sizes:
        baseline = run.spec.variants[0]
        group = store.start_group(run_id, baseline.model, baseline.placement, 1, length_s, [0, 1])
        for number in (0, 1):
            for position, s in enumerate((0.1 * length_s, 0.05 * length_s)):
                cold = (Pass("cold", 1.0),) if number == 0 else ()
                passes = (*cold, Pass("discarded", s), Pass("kept", s), Pass("kept", s))
                store.add_visit(group, Visit(position, number, position, 0.0, passes, Reading(10, 20)))
        store.end_group(group, "target reached")
    store.set_state(run_id, "done")


class FakeJobs:
    """Runs end as they begin, by `end`."""

    live = None

    def __init__(self, store: Store) -> None:
        self.store = store
        self.end: Callable[[Store, str], None] = measure
        self.started: list[RunSpec] = []

    def start(self, spec: RunSpec) -> str:
        self.started.append(spec)
        run_id = self.store.create_run(spec, host.device())
        self.end(self.store, run_id)
        return run_id

    def cancel(self) -> None:
        raise AssertionError("nobody asked for it")

    def holder(self) -> str | None:
        return None


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(console, "availability", lambda: FOUND)
    monkeypatch.setattr(console, "out", Console(highlight=False, markup=False, width=200))
    monkeypatch.setattr(console, "err", Console(stderr=True, highlight=False, markup=False, width=1000))
    jobs_manager._jobs.cache_clear()
    yield tmp_path
    jobs_manager._jobs.cache_clear()


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    fake = FakeJobs(jobs_manager.jobs().store)
    monkeypatch.setattr(console, "jobs", lambda: fake)
    return fake


def bench(*arguments: object) -> Result:
    done = CliRunner().invoke(app.app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refused(*arguments: object) -> str:
    """What a command with wrong arguments says: one sentence on stderr, nothing on stdout."""
    done = bench(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# --- lists


def test_models_are_listed_with_their_weights() -> None:
    done = bench("models")
    assert done.exit_code == 0
    assert all(c.name in done.stdout for c in catalogue.catalogue())
    assert re.search(rf"{BASE} +94 ", done.stdout)  # 94.27 million, counted in test_forecast
    assert "PATH" in done.stdout


def test_modes_are_listed_with_how_they_run_here() -> None:
    done = bench("modes")
    assert done.exit_code == 0
    assert all(re.search(rf"^ ?{name} ", done.stdout, re.MULTILINE) for name in modes.modes())
    assert "emulated: slow" in done.stdout and "available: engine x86" in done.stdout


def test_names_are_never_cut_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "out", Console(highlight=False, markup=False, width=80))
    assert all(c.name in bench("models").stdout for c in catalogue.catalogue())
    assert all(name in bench("modes").stdout for name in modes.modes())


def test_no_runs_say_how_to_begin() -> None:
    assert "python -m bench run" in bench("runs").stdout
    ids = bench("runs", "--ids")
    assert (ids.exit_code, ids.stdout) == (0, "")


def test_runs_newest_first_an_id_a_line(manager: FakeJobs) -> None:
    spec = RunSpec.grid([BASE], [FP32, INT8], [1, 5], placements=[Placement("cpu", 2)])
    old, new = manager.start(spec), manager.start(spec)
    manager.store.set_state(old, "cancelled")
    assert bench("runs", "--ids").stdout == f"{new}\n{old}\n"
    lines = [line for line in bench("runs").stdout.splitlines() if BASE in line]
    assert [line.split()[0] for line in lines] == [new, old]
    assert [line.split()[-1] for line in lines] == ["done", "cancelled"]
    assert "1, 5 s" in lines[0] and f"{FP32}, {INT8}" in lines[0]


# --- looking takes no lease


def test_looking_takes_no_lease_and_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(paths.database())
    live, done = (store.create_run(SPEC, host.device()) for _ in range(2))
    measure(store, done)
    store.set_state(live, "running")
    revision = store.revision()

    def taken(*_: object) -> None:
        raise AssertionError("the lease was taken")

    monkeypatch.setattr(Lease, "try_take", taken)
    for command in (["models"], ["modes"], ["runs"], ["runs", "--ids"], ["doctor"], ["export", done]):
        assert bench(*command).exit_code == 0
    assert bench("export", done, "--bundle", folder / "run.json").exit_code == 0
    assert store.revision() == revision
    states = {line.split()[0]: line.split()[-1] for line in bench("runs").stdout.splitlines() if BASE in line}
    assert states == {live: "interrupted", done: "done"}, "no process works on it"


def test_looking_while_another_process_measures() -> None:
    store = Store(paths.database())
    run_id = store.create_run(SPEC, host.device())
    with Lease(paths.data_folder() / NAME).take(f"run {run_id}"):
        assert "preparing" in bench("runs").stdout
        assert "has held it since" in bench("doctor").stdout and f"for run {run_id}." in bench("doctor").stdout
    assert re.search(r"^in use +no$", bench("doctor").stdout, re.MULTILINE)


def test_what_a_crash_left_is_exported_as_interrupted(folder: Path) -> None:
    store = Store(paths.database())
    run_id = store.create_run(SPEC, host.device())
    measure(store, run_id)
    store.set_state(run_id, "running")
    assert bench("export", run_id, "--bundle", folder / "run.json").exit_code == 0
    assert json.loads((folder / "run.json").read_text())["run"]["state"] == "interrupted"


# --- export


def test_export_prints_csv_and_writes_files(manager: FakeJobs, folder: Path) -> None:
    run_id = manager.start(RunSpec.grid([BASE], [FP32, INT8], [1, 5], placements=[Placement("cpu", 2)]))
    printed = bench("export", run_id)
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert [(r["mode"], r["length_s"]) for r in rows] == [(m, s) for s in ("1.0", "5.0") for m in (FP32, INT8)]
    assert [c for c in rows[0] if c in COLUMNS] == COLUMNS
    paths = {name: folder / f"run.{name}" for name in ("csv", "raw", "json")}
    done = bench("export", run_id, *(x for name, path in paths.items() for x in (f"--{name}", path)))
    assert (done.exit_code, done.stdout) == (0, "")
    assert paths["csv"].read_text() == printed.stdout
    # 2 lengths, 2 variants: 4 passes in round 0 with its cold one, 3 in round 1
    assert len(list(csv.DictReader(paths["raw"].open()))) == 2 * 2 * 7
    assert json.loads(paths["json"].read_text())["run"]["id"] == run_id


def test_export_of_no_run() -> None:
    assert refused("export", "20000101-000000-dead") == (
        "Error: There is no run 20000101-000000-dead. `python -m bench runs` lists them.\n"
    )


@pytest.mark.parametrize("option", ["--csv", "--raw", "--json"])
def test_export_to_where_nothing_can_be_written(manager: FakeJobs, folder: Path, option: str) -> None:
    run_id = manager.start(RunSpec.grid([BASE], [FP32, INT8], [1], placements=[Placement("cpu", 2)]))
    for path in (folder, folder / "absent" / "x.csv"):
        assert f"{path} can't be written" in refused("export", run_id, option, path)


# --- run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lengths", "five"], "got “five”. Allowed: seconds separated by commas"),
        (["--lengths", "1:5"], "got “1:5”"),
        (["--lengths", "0"], "Input length: got 0.0; allowed: seconds from 0.1 to 60."),
        (["--lengths", "61"], "got 61.0"),
        (["--lengths", "nan"], "Input length: got nan"),
        (["--lengths", ""], "Input length: nothing was given"),
        (["--modes", "nope"], "There is no mode “nope”. Allowed: torch-fp32,"),
        (["--model", "nope"], "There is no model or folder “nope”. Allowed: "),
        (["--model", "[/x][red]"], "“[/x][red]”"),
        (["--modes", "[/x]"], "“[/x]”"),
        (["--batch", "1.5"], "Batch sizes: got “1.5”"),
        (["--batch", "65"], "from 1 to 64"),
        (["--threads", "0"], "Threads: got 0"),
        (["--threads", "two"], "Threads: got “two”. Allowed: whole numbers separated by commas, such as 1,2,4, or"),
        (["--placement", "cpu/"], "Threads: got “cpu/”"),
        (["--placement", "abacus/2"], "Device: got abacus; allowed: cpu."),
        (["--repeats", "1"], "from 2 to 1000"),
        (["--target", "nan"], "Precision target: got nan"),
        (["--target", "2"], "Precision target: got 2"),
        (["--seed", "-1"], "Seed: got -1"),
        (["--input", "music"], "Input: got music; allowed: speech or noise."),
        (["--csv", "/no/such/folder/x.csv"], "The folder of /no/such/folder/x.csv does not exist."),
        (["--json", "/no/[/x]/x.json"], "The folder of /no/[/x]/x.json does not exist."),
    ],
)
def test_wrong_arguments_start_nothing(manager: FakeJobs, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("run", *arguments)
    assert not manager.started


def test_what_cannot_be_resumed_is_told(folder: Path) -> None:
    store = jobs_manager.jobs().store
    run_id = store.create_run(RunSpec.grid([BASE], [FP32], [1], placements=[Placement("cpu", 2)]), host.device())
    store.set_state(run_id, "done")
    assert f"Run {run_id} is done." in refused("run", "--resume", run_id)
    assert "There is no run [/x]." in refused("run", "--resume", "[/x]")


def test_a_database_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise StoreError("x.db can't be opened [/now].")

    for name in ("jobs", "store"):
        monkeypatch.setattr(console, name, broken)
    for command in (["runs"], ["runs", "--ids"], ["export", "x"], ["run"], ["run", "--resume", "x"]):
        assert refused(*command) == "Error: x.db can't be opened [/now].\n"


@pytest.mark.parametrize(
    "error",
    [
        WorkerError("hung", "It hung [/now]."),
        Refused("It hung [/now]."),
        type("New", (EarbenchError,), {})("It hung [/now]."),
    ],
)
def test_every_error_of_earbenchs_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: EarbenchError) -> None:
    def refusing() -> None:
        raise error

    for name, command in (("jobs", ["run"]), ("store", ["runs"])):
        monkeypatch.setattr(console, name, refusing)
        assert refused(*command) == "Error: It hung [/now].\n"


def test_a_port_that_there_is_not() -> None:
    assert "got 0; allowed: a whole number from 1 to 65535" in refused("serve", "--port", 0)


def test_sizes_and_placement_that_nobody_names(manager: FakeJobs) -> None:
    assert bench("run", "--model", BASE).exit_code == 0
    assert bench("run", "--model", BASE, "--placement", f"cpu/{cpu.default_threads()}", "--sizes", "1,5").exit_code == 0
    placements = [Placement("cpu", cpu.default_threads())]
    assert manager.started == [RunSpec.grid([BASE], [FP32, INT8], [1, 5], placements=placements)] * 2


def test_a_run_prints_its_table_and_writes_its_files(manager: FakeJobs, folder: Path) -> None:
    one, two = folder / "run.csv", folder / "run.json"
    done = bench(
        "run", "--model", BASE, "--threads", 2, "--lengths", "1,5", "--repeats", 3, "--csv", one, "--json", two
    )
    assert done.exit_code == 0, done.output
    assert manager.started == [RunSpec.grid([BASE], [FP32, INT8], [1, 5], placements=[Placement("cpu", 2)], repeats=3)]
    assert "to download" in done.stderr and ": done" in done.stderr
    assert f"model {BASE}, threads 2, batch 1" in done.stdout
    # 50 ms at 1 s of audio, twice as fast as 100 ms, 100 MB
    assert re.search(rf"{INT8} +1 +4 +50\.0 ± 0\.0 +2\.00 \[2\.00, 2\.00\] +0\.050 +100\.0", done.stdout)
    rows = list(csv.DictReader(one.open()))
    assert len(rows) == 4 and [c for c in rows[0] if c in COLUMNS] == COLUMNS
    assert [r["speedup_ratio"] for r in rows[::2]] == ["1.0", "1.0"]
    assert [float(r["speedup_ratio"]) for r in rows[1::2]] == pytest.approx([2, 2])
    assert len(json.loads(two.read_text())["summary"]) == 4


def test_all_modes_are_those_that_run_well_here(manager: FakeJobs) -> None:
    done = bench("run", "--modes", "ALL", "--threads", 2, "--lengths", 1)
    assert [v.mode for v in manager.started[0].variants] == [m for m in modes.modes() if m != "torch-bf16"]
    assert "Left out: torch-bf16 (emulated: slow)" in done.stderr


def test_all_modes_and_a_variant_beside_them(manager: FakeJobs) -> None:
    variant = "openvino-int8-static:float_convs=0:ranges=minmax"
    bench("run", "--modes", f"{INT8},ALL,{variant},{FP32}", "--threads", 2, "--lengths", 1)
    spelled = [v.spelled for v in manager.started[0].variants]
    others = [m for m in modes.modes() if m not in ("torch-bf16", INT8)]
    assert spelled == [INT8, *others, variant]


def test_doctor_tells_the_device_and_only_the_modes_that_need_a_word(manager: FakeJobs) -> None:
    done = bench("doctor")
    assert done.exit_code == 0
    assert re.search(rf"^modes +{len(FOUND) - 1} of {len(FOUND)} available$", done.stdout, re.MULTILINE)
    assert "emulated: slow" in done.stdout and "engine x86" in done.stdout
    assert FP32 not in done.stdout


@pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted"])
def test_a_run_that_does_not_end_well_is_1(manager: FakeJobs, tmp_path: Path, state: str) -> None:
    def end(store: Store, run_id: str) -> None:
        store.add_failure(run_id, Failure(1, "open", "killed", "It took [/all] memory [Errno 12]."))
        store.set_state(run_id, state, "Nothing could be measured [/here].")  # type: ignore[arg-type]

    manager.end = end
    done = bench("run", "--threads", 2, "--csv", tmp_path / "a.csv")
    assert done.exit_code == 1
    assert not (tmp_path / "a.csv").exists() and "Nothing was measured yet, so" in done.stderr
    assert ("python -m bench run --resume" in done.stderr) == (state != "failed")
    assert f": {state}. Nothing could be measured [/here]." in done.stderr
    assert f"{INT8} failed (open, killed): It took [/all] memory [Errno 12]." in done.stderr


def test_failed_variants_do_not_make_a_finished_run_fail(manager: FakeJobs) -> None:
    def end(store: Store, run_id: str) -> None:
        measure(store, run_id)
        store.add_failure(run_id, Failure(1, "x", "killed", "It was killed."))

    manager.end = end
    done = bench("run", "--threads", 2)
    assert done.exit_code == 0 and f"{INT8} failed (x, killed): It was killed." in done.stderr


def test_a_file_that_cannot_be_written_after_the_run(manager: FakeJobs, folder: Path) -> None:
    done = bench("run", "--threads", 2, "--csv", folder)
    assert done.exit_code == 2 and f"Error: {folder} can't be written" in done.stderr
    assert len(manager.store.runs()) == 1, "the run is kept: it can be exported"


def test_brackets_are_shown_as_they_are(manager: FakeJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Availability("unavailable", "torch can't be imported ([/x] of [torch])")
    monkeypatch.setattr(console, "availability", lambda: FOUND | {"torch-bf16": broken})
    assert "([/x] of [torch])" in bench("modes").stdout


def test_folders_with_brackets_are_shown_as_they_are(manager: FakeJobs) -> None:
    manager.start(RunSpec.grid(["/models/[v2]/tiny"], [FP32, INT8], [1], placements=[Placement("cpu", 2)]))
    assert "/models/[v2]/tiny" in bench("runs").stdout


def test_no_command_is_help() -> None:
    assert "Exit codes" in bench().output


# --- speech


@pytest.fixture
def clips(folder: Path) -> Path:
    """Three clips of noise with texts."""
    found, rng = folder / "clips", np.random.default_rng(0)
    found.mkdir()
    for i in range(3):
        audio.write_wav(found / f"{i}.wav", 0.1 * rng.standard_normal(16000).astype(np.float32))
    (found / "manifest.csv").write_text("path,text\n" + "".join(f"{i}.wav,ONE TWO\n" for i in range(3)))
    return found


@pytest.fixture
def real_jobs(data_folder: Path) -> Iterator[jobs_manager.Jobs]:
    """The manager that commands use, with real workers and the session's artefacts."""
    jobs_manager._jobs.cache_clear()
    manager = jobs_manager.jobs()
    yield manager
    manager.shutdown()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "/no/such/folder"], "There is no folder or file “/no/such/folder”"),
        (["--modes", "nope"], "There is no mode “nope”"),
        (["--model", "nope"], "There is no model or folder “nope”"),
        (["--clips", "-1"], "Clips at most: got -1"),
        (["--threads", "-1"], "Threads: got -1"),
        (["--normaliser", "loud"], "Normaliser: got loud; allowed: basic, none."),
        (["--split", "nope"], "has no split “nope”"),
        (["--clips-csv", "/no/such/folder/x.csv"], "The folder of /no/such/folder/x.csv does not exist."),
        (["--resume", "nope"], "There is no run nope."),
    ],
)
def test_wrong_arguments_of_an_evaluation(arguments: list[str], sentence: str) -> None:
    assert sentence in refused("evaluate", *arguments)
    assert jobs_manager.jobs().store.evaluations() == []


def test_an_evaluation_prints_its_table_and_writes_its_files(
    real_jobs: jobs_manager.Jobs, folder: Path, clips: Path, tiny_model: Path
) -> None:
    one, two = folder / "a.csv", folder / "b.csv"
    first, second = LIGHT
    options = ("--dataset", clips, "--model", tiny_model, "--modes", ",".join(LIGHT), "--threads", 1, "--clips", 2)
    done = bench("evaluate", *options, "--csv", one, "--clips-csv", two, "--bundle", folder / "c.json")
    assert done.exit_code == 0, done.output
    assert "2 of 3 clips were chosen, with seed 0." in done.stderr and "2 clips with 4 words, about" in done.stderr
    assert re.search(rf"{first} +\d+\.\d +baseline", done.stdout) and "points" in done.stdout
    rows = list(csv.DictReader(one.open()))
    assert [(r["mode"], r["words"], r["clips"]) for r in rows] == [(first, "4", "2"), (second, "4", "2")]
    assert all(0 <= float(r["wer_low"]) <= float(r["wer"]) <= float(r["wer_high"]) for r in rows)
    assert float(rows[0]["wer_delta"]) == 0 and float(rows[1]["rtf"]) > 0 and float(rows[1]["mean_s"]) > 0
    assert len(list(csv.DictReader(two.open()))) == 4
    (found,) = real_jobs.store.evaluations()
    assert bench("runs", "--ids").stdout == f"{found.id}\n"
    assert bench("export", found.id).stdout == one.read_text()
    assert (folder / "c.json").read_text() == to_text(real_jobs.store.bundle(found.id))
    assert "was here already" in bench("import", folder / "c.json").stdout
    assert f"Run {found.id} is done." in refused("evaluate", "--resume", found.id)


def test_the_best_mode_is_named_with_its_evidence(
    real_jobs: jobs_manager.Jobs, clips: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, other = LIGHT
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.2)
    # The first of all modes is the original: here it is one that needs no torch.
    monkeypatch.setattr("bench.cli.best.all_modes", lambda: dict.fromkeys(LIGHT))
    options = ("--dataset", clips, "--model", tiny_model, "--threads", 1, "--length", 0.5, "--modes", other)
    done = bench("best", *options)
    assert done.exit_code == 0, done.output
    assert "3 clips with 6 words, about" in done.stderr
    told = " ".join(done.stderr.split())
    assert "2 of 2 modes may be within the limit; to measure them: " in told
    assert re.search(r" \d+ %, group 1/1, round \d+, at most \d+: .*, about \d+ s left ", told)
    assert re.search(rf"{original} +.*within +1 ", done.stdout) and re.search(rf"{other} +.*within +\d", done.stdout)
    assert len(real_jobs.store.evaluations()) == 1 and [r.state for r in real_jobs.store.runs()] == ["done"]
    done = bench("best", *options, "--minimise", "size")
    assert done.exit_code == 0 and len(real_jobs.store.runs()) == 1
    assert "Minimise: got speed; allowed: latency, size, memory." in refused("best", "--minimise", "speed")
    assert "Limit: got 101; allowed: points of WER from 0 to 100." in refused("best", "--limit", "101")
    assert "has random weights" in refused("best", "--model", "wav2vec2-base-random")


def test_an_evaluation_that_fails_is_1(real_jobs: jobs_manager.Jobs, clips: Path, tiny_model: Path) -> None:
    for path in clips.glob("*.wav"):
        path.write_bytes(b"no sound")
    done = bench("evaluate", "--dataset", clips, "--model", tiny_model, "--modes", LIGHT[0], "--threads", 1)
    assert done.exit_code == 1
    assert ": failed. Nothing could be transcribed: no clip could be read." in done.stderr
    assert "evaluation failed (clip 0.wav, unreadable)" in done.stderr


def test_a_recording_is_transcribed(real_jobs: jobs_manager.Jobs, clips: Path, tiny_model: Path) -> None:
    options = ("--model", tiny_model, "--modes", ",".join(LIGHT), "--reference", "ONE TWO", "--threads", 1)
    done = bench("transcribe", clips / "0.wav", *options)
    assert done.exit_code == 0, done.output
    assert "0.wav, 1.00 s of audio, 1 threads" in done.stdout
    for mode in LIGHT:
        assert re.search(rf"^{mode}: \d+ ms, RTF \d+\.\d+, WER [\d.]+ % \(S/D/I ", done.stdout, re.MULTILINE)


def test_what_is_no_recording_is_refused(folder: Path) -> None:
    (folder / "x.wav").write_bytes(b"no sound at all, but bytes")
    assert "x.wav" in refused("transcribe", folder / "x.wav")
    assert "there is no such file" in refused("transcribe", folder / "absent.wav")
    assert "There is no mode “nope”" in refused("transcribe", folder / "x.wav", "--modes", "nope")


def test_a_name_that_the_hub_cannot_have() -> None:
    assert "Allowed: OWNER/NAME" in refused("fetch", "a b")
