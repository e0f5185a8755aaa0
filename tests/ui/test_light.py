"""The dashboard's process never imports an engine: each page in an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.paths import ROOT
from bench.core.records import Artefact, Coverage, Opening, Part, Pass, Visit
from bench.core.specs import Placement, RunSpec
from bench.core.store import Store
from bench.device.host import device

HEAVY = ("torch", "transformers", "librosa", "onnxruntime", "openvino", "torchao")
# What modes run here is known already, as after the first visit: asking is a process of its own in any case.
SHOW = """
import json, sys
from streamlit.testing.v1 import AppTest
from bench.modes import modes, probe

probe._answer.update({name: probe.Availability("available") for name in modes()})
from types import SimpleNamespace
from bench.ui import guard

guard._context = lambda: SimpleNamespace(ip_address=None, headers={"Host": "localhost"})
at = AppTest.from_file("app.py", default_timeout=60)
if sys.argv[1] != "app.py":
    at.switch_page(sys.argv[1])
if sys.argv[2]:
    at.query_params["run"] = sys.argv[2]
at.run()
shown = [x.value for x in (*at.title, *at.markdown)]
print(json.dumps([[str(e.value) for e in at.exception], shown, sorted(sys.modules)]))
"""


def measured(folder: Path) -> str:
    """A finished run with all that the pages draw."""
    store, model = Store(folder / "earbench.db"), "wav2vec2-base-random"
    run_id = store.create_run(
        RunSpec.grid([model], ["torch-fp32", "torch-int8-dynamic"], [1], placements=[Placement("cpu", 2)]), device()
    )
    group = store.start_group(run_id, model, Placement("cpu", 2), 1, 1.0, [0, 1])
    for p, (seconds, bits) in enumerate(((0.1, 32), (0.05, 8))):
        coverage = Coverage((Part("head", bits, bits, 100, 1000),))
        artefact, opening = Artefact("d", "seed 0", bits * 10**6, 1.0, None, False), Opening(3.0, 0.5, 10, 20)
        store.set_variant(run_id, p, artefact=artefact, opening=opening, coverage=coverage)
        for number in range(3):
            store.add_visit(group, Visit(p, number, p, 0.0, (Pass("kept", seconds),)))
    store.end_group(group, "target reached")
    store.set_state(run_id, "done")
    return run_id


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "with a run"])
@pytest.mark.parametrize("page", ["app.py", *sorted(f"pages/{p.name}" for p in (ROOT / "pages").glob("*.py"))])
def test_a_page_loads_no_engine(tmp_path: Path, page: str, empty: bool) -> None:
    run_id = "" if empty else measured(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SHOW, page, run_id],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "EARBENCH_DATA": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    exceptions, shown, loaded = json.loads(done.stdout.splitlines()[-1])
    assert exceptions == [] and shown, "the page was drawn"
    assert "streamlit" in loaded and not set(HEAVY) & set(loaded)
