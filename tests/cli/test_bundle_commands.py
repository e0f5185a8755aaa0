"""Bundles and specs by command: written, imported, refused, and measured again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import bundles as made
import pytest
from test_cli import BASE, FP32, INT8, FakeJobs, bench, folder, manager, refused  # noqa: F401  # two are fixtures

from bench.core.bundle import to_text
from bench.core.codec import to_json
from bench.core.paths import ROOT
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.jobs import manager as jobs_manager

DOCUMENT = (ROOT / "docs" / "bundles.md").read_text()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Store]:
    """What another device measured."""
    return made.store_at(tmp_path / "board")


def test_a_run_writes_its_bundle(manager: FakeJobs, folder: Path) -> None:  # noqa: F811
    path = folder / "run.json"
    done = bench("run", "--model", BASE, "--threads", 2, "--lengths", "1", "--bundle", path)
    assert done.exit_code == 0 and f"Wrote {path}" in done.stderr, done.output
    (run,) = manager.store.runs()
    assert path.read_text() == to_text(manager.store.bundle(run.id))
    again = folder / "again.json"
    done = bench("export", run.id, "--bundle", again)
    assert (done.exit_code, done.stdout) == (0, "") and again.read_text() == path.read_text()


def test_a_cancelled_run_is_a_bundle_too(manager: FakeJobs, folder: Path) -> None:  # noqa: F811
    manager.end = lambda store, run_id: store.set_state(run_id, "cancelled", "Cancelled.")
    path = folder / "run.json"
    assert bench("run", "--threads", 2, "--bundle", path).exit_code == 1
    assert json.loads(path.read_text())["run"]["state"] == "cancelled"


def test_what_is_live_or_absent_is_not_exported(folder: Path) -> None:  # noqa: F811
    store, path = jobs_manager.jobs().store, folder / "x.json"
    run_id = store.create_run(made.SPEC, made.BOARD)
    assert f"{run_id} is preparing; only what has ended" in refused("export", run_id, "--bundle", path)
    assert "There is no run nope." in refused("export", "nope", "--bundle", path)
    assert not path.exists()
    store.set_state(run_id, "done")
    assert "can't be written" in refused("export", run_id, "--bundle", folder)
    assert "does not exist" in refused("run", "--bundle", folder / "absent" / "x.json")


def test_several_are_imported_and_each_gets_its_line(folder: Path, board: Store) -> None:  # noqa: F811
    files = []
    for name, make in (("run", made.interrupted_run), ("evaluation", made.evaluation)):
        files.append(folder / f"{name}.json")
        files[-1].write_text(to_text(board.bundle(make(board))))
    done = bench("import", *files)
    assert done.exit_code == 0 and done.stderr == "" and done.stdout.count("is here now.") == 2, done.output
    store = jobs_manager.jobs().store
    assert len(store.runs()) == len(store.evaluations()) == 1
    revision = store.revision()
    done = bench("import", files[0])
    assert done.exit_code == 0 and "was here already; nothing changed." in done.stdout
    (folder / "bad.json").write_text("{}")
    done = bench("import", folder / "bad.json", files[1], folder / "absent.json", folder)
    assert done.exit_code == 1 and done.stdout.count("\n") == 1 and "was here already" in done.stdout
    assert done.stderr.count("Refused: ") == done.stderr.count("\n") == 3
    assert "bad.json is no bundle" in done.stderr and "absent.json can't be read" in done.stderr
    assert store.revision() == revision


def test_imported_ones_say_in_the_list_where_they_were_measured(folder: Path, board: Store) -> None:  # noqa: F811
    path = folder / "run.json"
    run_id = made.finished_run(board)
    path.write_text(to_text(board.bundle(run_id)))
    store = jobs_manager.jobs().store
    assert "device" not in bench("runs").stdout
    store.set_state(store.create_run(made.SPEC, made.BOARD), "done")
    bench("import", path)
    listed = bench("runs").stdout
    assert re.search(rf"^{run_id} .*bøard \(0123456789ab\), imported +done", listed, re.MULTILINE), listed
    assert bench("export", run_id).stdout.splitlines()[1].startswith(f"{run_id},bøard,")


def test_one_of_another_device_is_not_resumed_here(folder: Path, board: Store) -> None:  # noqa: F811
    for make, command in ((made.interrupted_run, "run"), (cancelled_evaluation, "evaluate")):
        run_id = make(board)
        path = folder / f"{command}.json"
        path.write_text(to_text(board.bundle(run_id)))
        assert bench("import", path).exit_code == 0
        sentence = refused(command, "--resume", run_id)
        assert f"Run {run_id} was measured on bøard with torch 2.13.0; here is " in sentence
        store = jobs_manager.jobs().store
        assert to_text(store.bundle(run_id)) == to_text(board.bundle(run_id))


def cancelled_evaluation(store: Store) -> str:
    run_id = made.evaluation(store)
    store.set_state(run_id, "cancelled")
    return run_id


# --- specs


def test_a_printed_spec_is_measured(manager: FakeJobs, folder: Path) -> None:  # noqa: F811
    options = ("--model", BASE, "--modes", f"{FP32},{INT8}", "--threads", "1,2", "--lengths", "1,2.5", "--seed", 7)
    printed = bench("run", *options, "--print-spec")
    assert printed.exit_code == 0 and not manager.started
    path, bundle = folder / "spec.json", folder / "run.json"
    path.write_text(printed.stdout)
    assert bench("run", "--spec", path, "--bundle", bundle).exit_code == 0
    placements = [Placement("cpu", 1), Placement("cpu", 2)]
    spec = RunSpec.grid([BASE], [FP32, INT8], [1, 2.5], placements=placements, seed=7)
    assert manager.started == [spec]
    assert bench("run", "--spec", bundle).exit_code == 0, "a run's bundle holds its spec"
    assert manager.started == [spec, spec]
    assert bench("run", "--spec", bundle, "--print-spec").stdout == printed.stdout


def test_the_documented_spec_is_one(manager: FakeJobs, folder: Path) -> None:  # noqa: F811
    path = folder / "spec.json"
    path.write_text(re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)[0])
    printed = bench("run", "--spec", path, "--print-spec")
    assert printed.exit_code == 0, printed.output
    spec = json.loads(printed.stdout)
    assert spec["sizes"] == [1.0, 5.0] and spec["repeats"] == 10 and spec["axis"]["unit"] == "s"
    assert [v["settings"] for v in spec["variants"]] == [[], [["block_size", 32]]]


GOOD = json.loads(to_json(made.SPEC)) | {"axis": None}
GOOD.pop("axis")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON, or only a part of it"),
        ("[]", "holds JSON, but no bundle: it is no object"),
        ("{}", "holds no spec of a run: it has no variants. Write one by --print-spec."),
        (
            '{"earbench_bundle": 1, "run": 7}',
            "holds no spec. Allowed: a spec as `--print-spec` writes it, or a bundle.",
        ),
        (json.dumps(GOOD | {"repeats": 1}), "Repeats: got 1; allowed: a whole number from 2 to 1000."),
        (json.dumps(GOOD | {"sizes": ["a"]}), "Expected `float`, got `str` - at `$.sizes[0]`"),
        (json.dumps(GOOD | {"size": [1]}), "Unknown key - at `$.size`"),
        (json.dumps(GOOD | {"dataset": "/clips"}), "holds the spec of an evaluation. Allowed: that of a run."),
        (json.dumps(GOOD | {"variants": [{"model": "nope"}]}), "There is no model or folder “nope”"),
        (json.dumps(GOOD | {"variants": []}), "Models: none is chosen"),
        (json.dumps(GOOD).replace("torch-fp32", "nope"), "There is no mode “nope”"),
        (
            json.dumps(GOOD | {"axis": json.loads(to_json(made.SPEC.axis)) | {"high": 99.0}}),
            "got another axis than that of the models, Input length, s. Leave the axis out.",
        ),
    ],
)
def test_a_file_that_is_no_spec_starts_nothing(
    manager: FakeJobs,  # noqa: F811
    folder: Path,  # noqa: F811
    text: str,
    sentence: str,
) -> None:
    path = folder / "spec.json"
    path.write_text(text)
    assert sentence in refused("run", "--spec", path)
    assert not manager.started


def test_a_spec_names_the_whole_run(manager: FakeJobs, folder: Path) -> None:  # noqa: F811
    path = folder / "spec.json"
    path.write_text(json.dumps(GOOD))
    for option in (["--model", BASE], ["--input", "noise"], ["--lengths", "1"], ["--resume", "x"]):
        assert "--spec names the whole run; leave out --" in refused("run", "--spec", path, *option)
    assert "can't be read" in refused("run", "--spec", folder / "absent.json")
    assert not manager.started
