"""Children: what they are told of this process, and what a worker does with a request that there is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_for

from bench.core import child
from bench.core.paths import ROOT
from bench.core.specs import Placement
from bench.workers.client import Pool, WorkerError


def test_children_get_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in child.SECRETS:
        monkeypatch.setenv(name, "a secret that is long enough")
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    (tmp_path / "told.py").write_text(
        "import json, os\nprint(json.dumps({'secrets': [v for v in os.environ.values() if v.startswith('a secret')], "
        "'threads': os.environ['OPENBLAS_NUM_THREADS']}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child.ask("told", timeout_s=60) == {"secrets": [], "threads": "1"}
    worker = Pool().start("The worker", Placement("cpu", 1))
    try:
        place = Path(f"/proc/{worker.pid}/environ")
        wait_for(lambda: b"EARBENCH_DATA" in place.read_bytes(), "the worker's environment")
        assert b"a secret" not in place.read_bytes()
    finally:
        worker.close()
    assert os.environ["EARBENCH_TOKEN"], "this process keeps them"


def test_a_worker_knows_its_requests_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    worker = Pool().start("The worker", Placement("cpu", 1))
    try:
        for name in ("__init__", "_timed", "nonsense"):
            with pytest.raises(WorkerError, match=f"Got the request '{name}'. Allowed: quit, build, open, visit"):
                worker.ask(name, 60)
    finally:
        worker.close()


def test_a_hub_name_that_begins_with_a_dash_is_a_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "fetch", "--split=test", "--clips=1", "--", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "EARBENCH_DATA": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 2 and "Got “--help” as a data set" in done.stderr.replace("\n", " "), done.stderr
    assert json.dumps(done.stdout) == '""'
