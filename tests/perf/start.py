"""How long a benchmark takes from its start to its first stored pass, in two checkouts of Earbench in turn.

    python tests/perf/start.py OLD NEW [--turns 5] [--model demo]

Two cases, with every artefact cached beforehand: (a) two variants that need torch, (b) two that don't. In each turn
every checkout starts a process of its own, which calls `jobs().start` and waits for the first stored visit; its
imports before that don't count. The order changes from turn to turn. Beside them, in the same turns: the time of one
bare `import torch` and Transformers' model class. Printed: medians, and paired ratios as geometric means with their
95 % Student t intervals. Don't run anything else meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench.core import stats

CASES = {
    "torch": ("torch-fp32,torch-int8-dynamic", 1.5),  # allowed: times one bare import
    "torch-free": ("onnx-fp32,onnx-int8-dynamic", None),
    "openvino": ("onnx-fp32,openvino-fp32", None),
}
MOST_S = 3.0  # allowed where nothing needs torch
BARE = "import torch; from transformers import Wav2Vec2ForCTC"
# Run in a checkout: MODEL MODE,MODE -> seconds from the start to the first stored visit
_RUN = """
import sys, time
from bench.core.specs import Placement, RunSpec
from bench.jobs.manager import jobs

model, modes = sys.argv[1:]
spec = RunSpec.grid([model], modes.split(","), (1.0,), placements=[Placement("cpu", 2)], repeats=2)
manager = jobs()
begun_s = time.monotonic()
run_id = manager.start(spec)
while not any(g.visits for g in manager.store.groups(run_id)):
    if manager.wait(0.02) and not any(g.visits for g in manager.store.groups(run_id)):
        sys.exit(f"nothing was measured: {[f.message for f in manager.store.failures(run_id)]}")
print(time.monotonic() - begun_s)
manager.cancel()
manager.wait(60)
"""


def first_pass_s(checkout: Path, data: Path, model: str, modes: str) -> float:
    """Return the seconds from the start of a run to its first stored visit."""
    process = subprocess.run(
        [sys.executable, "-c", _RUN, model, modes],
        cwd=checkout,
        env={**os.environ, "EARBENCH_DATA": str(data), "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SystemExit(f"{checkout}: {process.stderr[-1000:]}")
    return float(process.stdout.split()[-1])


def bare_import_s() -> float:
    """Return the seconds of a process that imports torch and the model class, and nothing else."""
    begun_s = time.monotonic()
    subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True)
    return time.monotonic() - begun_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, help="where both keep their artefacts; a new folder by default")
    options = parser.parse_args()
    checkouts = {"old": options.old.resolve(), "new": options.new.resolve()}
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch)
        for modes, _ in CASES.values():  # builds what is not cached
            for name, checkout in checkouts.items():
                first_pass_s(checkout, data / name, options.model, modes)
        seconds: dict[str, dict[int, float]] = {"import": {}}
        for turn in range(options.turns):
            seconds["import"][turn] = bare_import_s()
            for case, (modes, _) in CASES.items():
                for name in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                    took_s = first_pass_s(checkouts[name], data / name, options.model, modes)
                    seconds.setdefault(f"{case} {name}", {})[turn] = took_s
    bare_s = statistics.median(seconds["import"].values())
    print(f"one import of torch and Transformers: {bare_s:.2f} s, median of {options.turns}")
    for case, (modes, most_imports) in CASES.items():
        old, new = seconds[f"{case} old"], seconds[f"{case} new"]
        new_s = statistics.median(new.values())
        limit_s = most_imports * bare_s if most_imports else MOST_S
        print(
            f"{case} ({modes}): old {statistics.median(old.values()):.2f} s, new {new_s:.2f} s, new over old "
            f"{interval(new, old)}, new over one import {interval(new, seconds['import'])}; at most {limit_s:.2f} s: "
            f"{'reached' if new_s <= limit_s else 'MISSED'}"
        )


def interval(seconds: dict[int, float], base: dict[int, float]) -> str:
    """Return the ratio of paired seconds, with its interval."""
    ratio = stats.speedup(seconds, base)
    assert ratio
    low, high = (f"{x:.2f}" if x is not None else "?" for x in (ratio.low, ratio.high))
    return f"{ratio.value:.2f} [{low}, {high}]"


if __name__ == "__main__":
    main()
