"""Two checkouts of Earbench beside one another: is the newer one slower, larger, or later to start?

    python tests/perf/versions.py OLD NEW [--modes torch-fp32,...] [--model wav2vec2-base-random] [--length 5]

Workers of both are started from their own folders with their own data folders and asked in turn, so that heat and
neighbours hit both alike: rounds are run forwards, then backwards; a worker that is not asked is stopped. Printed for
each mode: new over old as the geometric mean of the rounds' ratios with its 95 % Student t interval, of a pass, of the
time to start and open, and of peak memory. Rounds are added until the interval of a pass lies within 5 % of 1 or
excludes it, up to the limit. Don't run anything else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench.core import stats
from bench.core.stats import Interval
from bench.device import readings

NARROW = 0.05  # an interval within so much of 1 decides
LOOK_EVERY = 10  # rounds
# What each version calls its worker and the arguments of its requests.
DIALECTS: dict[str, dict[str, Any]] = {
    "bench/workers/process.py": {"module": "bench.workers.process", "size": "size", "on": ("placement", "cpu/{}")},
    "bench/worker.py": {"module": "bench.worker", "size": "length_s", "on": ("threads", "{}")},
}


class Side:
    """One version's worker of one mode."""

    def __init__(self, checkout: Path, data: Path, model: str, mode: str, threads: int) -> None:
        self.dialect = next(d for file, d in DIALECTS.items() if (checkout / file).is_file())
        self.checkout, self.data, self.threads = checkout.resolve(), data, threads
        builder = self._start()
        digest = self.ask("build", model=model, mode=mode, settings={})["artefact"]["digest"]
        self.close(builder)
        begun = time.monotonic()
        self.process = self._start()
        name, form = self.dialect["on"]
        text = form.format(threads)
        self.ask("open", digest=digest, **{name: text if "/" in text else int(text)})
        self.opened_s = time.monotonic() - begun
        self.pause()

    def _start(self) -> subprocess.Popen[bytes]:
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        count = str(self.threads)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
        process = subprocess.Popen(
            [sys.executable, "-m", self.dialect["module"], str(request_read), str(reply_write)],
            pass_fds=(request_read, reply_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            cwd=self.checkout,
            env={**os.environ, "EARBENCH_DATA": str(self.data), **variables},
        )
        os.close(request_read)
        os.close(reply_write)
        self._requests, self._replies = os.fdopen(request_write, "w", buffering=1), os.fdopen(reply_read)
        return process

    def ask(self, do: str, **arguments: Any) -> Any:
        """A request's answer."""
        self._requests.write(json.dumps({"do": do, **arguments}) + "\n")
        for line in self._replies:
            reply = json.loads(line)
            if "error" in reply:
                raise SystemExit(f"{self.checkout}: {reply['error']['message']}")
            if "ok" in reply:
                return reply["ok"]
        raise SystemExit(f"{self.checkout}: the worker died.")

    def visit(self, length_s: float) -> tuple[float, int]:
        """(median seconds of the kept passes, peak resident bytes)."""
        os.killpg(self.process.pid, signal.SIGCONT)
        readings.reset_peak(self.process.pid)
        arguments = {self.dialect["size"]: length_s, "batch": 1, "seed": 0, "input_kind": "speech"}
        passes = self.ask("visit", **arguments)["passes"]
        peak = readings.memory(self.process.pid)[1]
        self.pause()
        return statistics.median(p[1] for p in passes if p[0] == "kept"), peak or 0

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def close(self, process: subprocess.Popen[bytes] | None = None) -> None:
        process = process or self.process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def compare(sides: tuple[Side, Side], length_s: float, most: int) -> tuple[Interval, Interval, int]:
    """New over old, of a pass and of peak memory; and how many rounds it took."""
    seconds: tuple[dict[int, float], dict[int, float]] = ({}, {})
    peaks: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for number in range(most):
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[i][number], peaks[i][number] = sides[i].visit(length_s)
        if number % LOOK_EVERY == LOOK_EVERY - 1:
            ratio = stats.speedup(seconds[1], seconds[0])
            assert ratio and ratio.low is not None and ratio.high is not None
            within = 1 - NARROW <= ratio.low <= ratio.high <= 1 + NARROW
            if within or not ratio.low <= 1 <= ratio.high:
                break
    ratio, memory = stats.speedup(seconds[1], seconds[0]), stats.speedup(peaks[1], peaks[0])
    assert ratio and memory
    return ratio, memory, number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--modes", default="torch-fp32,torch-int8-dynamic,onnx-int8-static,openvino-int8-static")
    parser.add_argument("--model", default="wav2vec2-base-random")
    parser.add_argument("--length", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200, help="at the most")
    parser.add_argument("--starts", type=int, default=3, help="how often each worker is started and opened")
    parser.add_argument("--data", type=Path, help="where both keep their artefacts; a new folder by default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = asked.data or Path(scratch)
        for mode in asked.modes.split(","):
            starts: tuple[dict[int, float], dict[int, float]] = ({}, {})
            sides: list[Side] = []
            for number in range(asked.starts):
                for side in sides:
                    side.close()
                sides = [
                    Side(checkout, data / name, asked.model, mode, asked.threads)
                    for checkout, name in ((asked.old, "old"), (asked.new, "new"))
                ]
                for i, side in enumerate(sides):
                    starts[i][number] = side.opened_s
            passes, memory, rounds = compare((sides[0], sides[1]), asked.length, asked.rounds)
            for side in sides:
                side.close()
            print(
                f"{mode}: a pass {text(passes)} in {rounds} rounds, peak memory {text(memory)}, start and open "
                f"{text(stats.speedup(starts[1], starts[0]))} in {asked.starts}; new over old",
                flush=True,
            )


def text(ratio: Interval | None) -> str:
    return "-" if ratio is None else f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


if __name__ == "__main__":
    main()
