"""`measure` in a script: a real worker, a folder of its own, what it refuses, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIGHT, PROMPT_S, alive, wait_for

import bench
from bench.core import paths
from bench.core.bundle import to_text
from bench.core.errors import EarbenchError
from bench.core.lease import Lease, Refused
from bench.core.specs import EvaluationSpec, Placement, RunSpec
from bench.core.store import Store
from bench.datasets import dataset
from bench.families.family import ModelError
from bench.jobs import measure as jobs_measure
from bench.jobs.benchmark import Progress, Runner
from bench.jobs.measure import INTERRUPTED
from bench.workers.client import Worker

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that EARBENCH_DATA does not name, with the artefacts that tests share."""
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "elsewhere"))
    return data_folder


def spec(model: Path, modes: tuple[str, ...] = LIGHT[:1]) -> RunSpec:
    return RunSpec.grid([str(model)], modes, [0.5], placements=[Placement("cpu", 1)], repeats=3, precision_target=1.0)


def test_a_run_is_measured_in_the_folder_and_returned(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    asked = spec(tiny_model)
    bundle = bench.measure(asked, folder, seen.append)
    assert bundle.run and (bundle.run.state, bundle.run.spec) == ("done", asked)
    (group,) = bundle.groups
    assert group.state == "done" and len(group.visits) >= 3 and bundle.variants[0].artefact
    assert any(p.measuring for p in seen)
    store = Store(folder / "earbench.db")
    assert to_text(store.bundle(bundle.record.id)) == to_text(bundle)
    assert not (tmp_path / "elsewhere").exists(), "nothing lies where EARBENCH_DATA leads"
    assert os.environ["EARBENCH_DATA"] == str(tmp_path / "elsewhere"), "and it is as it was"


def test_an_evaluation_is_measured_too(folder: Path, tiny_model: Path) -> None:
    clips = str(dataset.bundled())
    variants = spec(tiny_model).variants
    bundle = bench.measure(EvaluationSpec(variants, clips, limit=2), str(folder))
    assert bundle.evaluation and bundle.record.state == "done" and bundle.evaluation.spec.digest
    assert len(bundle.clips) == len(bundle.predictions) == 2 and bundle.predictions[0].seconds > 0


def test_what_cannot_be_measured_is_refused_before_anything_is_stored(folder: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="There is no model or folder “nope”"):
        bench.measure(spec(Path("nope")), folder)
    assert not (folder / "earbench.db").exists()
    held = Lease(folder / "earbench.lock").take("a test")
    with held, pytest.raises(Refused, match=f"process {os.getpid()} has held it since .* for a test"):
        bench.measure(spec(tiny_model), folder)
    assert Store(folder / "earbench.db").runs() == []


def test_two_in_one_process_are_refused(folder: Path, tiny_model: Path) -> None:
    with paths.using(folder), pytest.raises(EarbenchError, match="This process is measuring already"):
        bench.measure(spec(tiny_model), folder)
    with paths.using(folder):
        assert paths.data_folder() == folder
    with pytest.raises(ZeroDivisionError), paths.using(folder):
        raise ZeroDivisionError
    with paths.using(None):
        assert paths.data_folder() != folder


def test_an_end_from_the_keyboard_leaves_an_interrupted_run(folder: Path, tiny_model: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.measuring:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.measure(spec(tiny_model), folder, stop)
    (run,) = Store(folder / "earbench.db").runs()
    assert (run.state, run.message) == ("interrupted", INTERRUPTED)
    assert Lease(folder / "earbench.lock").holder() is None
    assert not list((folder / "logs").iterdir()), "no worker is left"


def test_a_fault_of_ours_is_a_failed_run(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[Worker] = []

    def broken(runner: Runner) -> None:
        workers.append(runner.pool.start("The worker", Placement("cpu", 1)))
        workers[0].pause()
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(jobs_measure.Runner, "run", broken)
    bundle = bench.measure(spec(tiny_model), folder)
    assert bundle.record.state == "failed" and "ZeroDivisionError: by nought" in (bundle.record.message or "")
    assert [f.kind for f in bundle.failures] == ["error"] and "Traceback" in bundle.failures[0].log
    wait_for(lambda: not alive(workers[0].pid), "the end of the worker that was left", PROMPT_S)
    workers[0].close()


def test_the_documented_script_runs(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    text = (paths.ROOT / "docs" / "bundles.md").read_text()
    script = text.partition("```python\n")[2].partition("```")[0]
    assert len(script.splitlines()) == 5
    quick = script.replace('["demo"]', repr([str(tiny_model)])).replace('"measurements"', repr(str(folder)))
    quick = quick.replace("[1],", "[0.5], repeats=3, precision_target=1.0,")
    assert quick.count("tiny") == 1 and str(folder) in quick and "repeats=3" in quick
    done = subprocess.run(
        [sys.executable, "-c", f"{quick}\nprint(bundle.record.state, len(bundle.groups))"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done 1" and "preparing " in done.stdout


def test_the_package_itself_is_light() -> None:
    code = "import sys, bench; assert callable(bench.measure); print(sum(m.startswith('bench.') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr
