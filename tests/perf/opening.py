"""What an artefact saves: opening it beside building it, and the memory of a process that holds nothing else.

    python tests/perf/opening.py [--model demo] [--modes onnx-fp32,torch-int8-dynamic] [--length 5]

Every mode that can be built here is built in an empty data folder (the mode that it starts from, if any, before it and
not counted), then opened in a fresh worker that passes a few seconds of speech, as the product does it. Two bars:

- opening (files to a callable, without the start of the process and the imports, which stand beside it) takes at most a
  fifth of building; a mode whose engine compiles when it opens is exempt;
- the peak of a worker's memory, from its start through its passes, is at most 1.5 times the artefact and 150 MB where
  the engine is not PyTorch, whose import alone takes more.

Ends with exit code 1 if a bar is missed. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench import modes
from bench.core.records import Artefact, Opening
from bench.core.specs import Placement, Variant
from bench.device import cpu, readings
from bench.families import catalogue
from bench.modes.probe import availability
from bench.workers.client import Pool, WorkerError
from bench.workers.start import Limits, build, open_worker

MAX_OPEN_RATIO = 1 / 5
SIZES, SPARE_BYTES = 1.5, 150_000_000


@dataclass(frozen=True)
class Measured:
    """One mode, built and opened. `peak_bytes`: of the worker after its passes; None where the system doesn't say."""

    mode: str
    artefact: Artefact
    opening: Opening
    peak_bytes: int | None

    @property
    def open_ratio(self) -> float:
        return self.opening.load_s / self.artefact.build_s

    @property
    def memory_bar_bytes(self) -> float | None:
        """None where the mode is exempt."""
        return None if modes.find(self.mode).SPEC.engine == "torch" else SIZES * self.artefact.size_bytes + SPARE_BYTES

    def verdicts(self) -> tuple[str, str]:
        """On opening and on memory: met, missed or why exempt."""
        opens = "met" if self.open_ratio <= MAX_OPEN_RATIO else "missed"
        mode = modes.find(self.mode)
        if mode.SPEC.needs.compiles or mode.SPEC.engine == "openvino":  # which compiles every graph, in about a second
            opens = "exempt: compiles when it opens"
        bar = self.memory_bar_bytes
        if bar is None:
            return opens, "exempt: PyTorch"
        return opens, "unknown" if self.peak_bytes is None else "met" if self.peak_bytes <= bar else "missed"


def measure(variant: Variant, length_s: float) -> Measured:
    """Raises WorkerError."""
    pool, limits = Pool(), Limits()
    artefact, _ = build(variant, pool, limits, lambda _: None)
    worker, opening = open_worker(variant, artefact, pool, limits, lambda _: None)
    try:
        worker.resume()
        worker.ask("visit", limits.heartbeat_s, batch=1, size=length_s, seed=0, input_kind="speech")
        return Measured(variant.mode, artefact, opening, readings.memory(worker.pid)[1])
    finally:
        worker.close()


def main() -> int:
    """Measure each mode and print its row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=catalogue.default())
    parser.add_argument("--modes", default="", help="separated by commas; default: all that can be built here")
    parser.add_argument("--length", type=float, default=5.0, help="seconds of speech a pass")
    parser.add_argument("--threads", type=int, default=cpu.default_threads())
    arguments = parser.parse_args()
    here = [name for name, a in availability().items() if a.state != "unavailable" and a.builds]
    names = arguments.modes.split(",") if arguments.modes else here
    variants = [
        Variant.parse(catalogue.find(arguments.model).name, name, Placement("cpu", arguments.threads)) for name in names
    ]
    columns = ("build, s", "start, s", "open, s", "open/build", "MB", "peak opened, MB", "peak passed, MB", "bar, MB")
    print(f"{'mode':32}" + "".join(f"{c:>17}" for c in columns) + "  opening; memory")
    missed = 0
    with tempfile.TemporaryDirectory() as data:
        os.environ["EARBENCH_DATA"] = data
        for variant in variants:
            try:
                measured = measure(variant, arguments.length)
            except WorkerError as e:
                missed += 1
                print(f"{variant.spelled:32} failed ({e.kind}): {e}")
                continue
            missed += "missed" in measured.verdicts()
            show(variant, measured)
    return 1 if missed else 0


def show(variant: Variant, measured: Measured) -> None:
    """A row."""
    opened, passed, bar = measured.opening.peak_rss_bytes, measured.peak_bytes, measured.memory_bar_bytes
    figures = (
        f"{measured.artefact.build_s:.2f}",
        f"{measured.opening.start_s:.2f}",
        f"{measured.opening.load_s:.3f}",
        f"{measured.open_ratio:.3f}",
        f"{measured.artefact.size_bytes / 1e6:.1f}",
        *("–" if b is None else f"{b / 1e6:.0f}" for b in (opened, passed, bar)),
    )
    row = f"{variant.spelled:32}" + "".join(f"{x:>17}" for x in figures)
    print(row + "  " + "; ".join(measured.verdicts()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
