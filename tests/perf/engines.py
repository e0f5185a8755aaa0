"""Our best mode beside what a person would write by hand today, in turn, in one run.

    python tests/perf/engines.py [--modes openvino-int8-static] [--lengths 5,10] [--rounds 12]

All on wav2vec2 base with random weights, batch 1, the same threads and input; each in a process of its own that is
stopped by a signal while it is not its turn:

  fp32            plain Transformers, as loaded
  dynamic         the lab's script: torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
  onnx dynamic    torch.onnx.export, then onnxruntime.quantization.quantize_dynamic with its defaults
  compile         torch.compile(model)
  MODE            the same model in a mode of Earbench, built and opened as the product does

A round visits everyone once in a seeded order, forwards, then backwards: one discarded pass, then three timed ones.
Printed is how many times as fast each mode of Earbench is: mean of the logarithms over rounds of the ratio of the
visits' medians, with Student's t interval; and, as the device's ceilings, the rate of the best matrix product (2048 by
2048 by 2048) in float32, bfloat16 and int8 of PyTorch (MKL, oneDNN) and OpenVINO, visited in the same rounds, with the
share of each that every contender reaches over all its multiply-accumulates.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench import modes
from bench.core import stats
from bench.core.specs import Placement, Variant
from bench.device import cpu
from bench.families import catalogue
from bench.families.wav2vec2 import FAMILY
from bench.jobs import work
from bench.jobs.benchmark import order
from bench.workers import start
from bench.workers.client import Pool

MODEL = "wav2vec2-base-random"

_LOAD = """
import json, sys, time
import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
model = Wav2Vec2ForCTC(Wav2Vec2Config()).eval()
inputs = {seconds: np.load(path) for seconds, path in json.loads(sys.argv[2]).items()}
"""
_TORCH = """
def run(x):
    with torch.inference_mode():
        model(x)
inputs = {seconds: torch.from_numpy(x) for seconds, x in inputs.items()}
"""
_LOOP = """
print("ready", flush=True)
for line in sys.stdin:
    x, times = inputs[line.strip()], []
    for _ in range(4):
        begun = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - begun)
    print(json.dumps(times[1:]), flush=True)
"""
KERNELS = ("fp32 torch", "fp32 openvino", "bf16 torch", "bf16 openvino", "int8 torch", "int8 openvino")
CEILING = 2048  # rows, columns and depth of the matrix products
_CEILINGS = f"""
import json, sys, time
import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch

n, threads = {CEILING}, int(sys.argv[1])
torch.set_num_threads(threads)
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
whole = rng.integers(-127, 128, (n, n), dtype=np.int8)


def openvino(precision, int8=False):
    x = op.parameter([n, n], np.float32)
    if int8:
        low, high = np.float32(-4), np.float32(4)
        left = op.fake_quantize(x, low, high, low, high, 256)
        right = op.multiply(op.convert(op.constant(whole), np.float32), op.constant(np.full((n, 1), 0.03, np.float32)))
    else:
        left, right = x, op.constant(b)
    model = ov.Model([op.matmul(left, right, False, True)], [x])
    hints = dict(INFERENCE_PRECISION_HINT=precision, INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1)
    compiled = ov.Core().compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(a))
    return lambda: request.infer()


fa, fb = torch.from_numpy(a), torch.from_numpy(b)
ha, hb = fa.to(torch.bfloat16), fb.to(torch.bfloat16)
ia, ib = torch.from_numpy(whole), torch.from_numpy(whole.T.copy())
inputs = dict(
    zip(
        {KERNELS},
        (
            lambda: fa @ fb,
            openvino("f32"),
            lambda: ha @ hb,
            openvino("bf16"),
            lambda: torch._int_mm(ia, ib),
            openvino("f32", int8=True),
        ),
    )
)


def run(product):
    product()
"""
BY_HAND = {
    "fp32": _TORCH,
    "dynamic": "model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)\n" + _TORCH,
    "onnx dynamic": """
import onnxruntime
from onnxruntime.quantization import quantize_dynamic

samples = torch.export.Dim("samples", min=4000, max=640000)
torch.onnx.export(model, (torch.from_numpy(next(iter(inputs.values()))),), "model.onnx", dynamo=True,
                  dynamic_shapes=({1: samples},), external_data=False)
quantize_dynamic("model.onnx", "int8.onnx")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[1])
session = onnxruntime.InferenceSession("int8.onnx", options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
def run(x):
    session.run(None, {name: x})
""",
    "compile": "model = torch.compile(model)\n" + _TORCH,
}


class Contender(Protocol):
    """Something that can be visited."""

    def visit(self, what: str) -> list[float]:
        """Seconds of three passes after a discarded one, over an input of so many seconds."""

    def close(self) -> None:
        """End it."""


class Hand:
    """A script as people write it, in a process of its own."""

    def __init__(self, code: str, folder: Path, inputs: dict[str, str], threads: int) -> None:
        command = [sys.executable, "-c", code + _LOOP, str(threads), json.dumps(inputs)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            process_group=0,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert self._process.stdout and self._process.stderr
        for line in self._process.stdout:  # libraries print, too
            if line.strip() == "ready":
                break
        else:
            raise RuntimeError(self._process.stderr.read()[-2000:])
        self._signal(signal.SIGSTOP)

    def visit(self, what: str) -> list[float]:
        assert self._process.stdin and self._process.stdout
        self._signal(signal.SIGCONT)
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        seconds: list[float] = json.loads(self._process.stdout.readline())
        self._signal(signal.SIGSTOP)
        return seconds

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Ours:
    """A mode of Earbench, built and opened as the product does."""

    def __init__(self, spelled: str, threads: int) -> None:
        self._pool, limits = Pool(), start.Limits()
        variant = Variant.parse(MODEL, spelled, Placement("cpu", threads))
        modes.check(variant)
        artefact, _ = start.build(variant, self._pool, limits, lambda text: print(f"  {text}", file=sys.stderr))
        self._worker, _ = start.open_worker(variant, artefact, self._pool, limits, lambda _: None)

    def visit(self, what: str) -> list[float]:
        self._worker.resume()
        request: dict[str, Any] = {"batch": 1, "size": float(what), "seed": 0, "input_kind": "speech"}
        answer = self._worker.ask("visit", 300, **request)
        self._worker.pause()
        return [seconds for kind, seconds, _ in answer["passes"] if kind == "kept"]

    def close(self) -> None:
        self._worker.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="openvino-int8-static")
    parser.add_argument("--lengths", default="5,10")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    lengths, threads = [float(s) for s in arguments.lengths.split(",")], cpu.default_threads()
    contenders: dict[str, Contender] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = {}
        for s in lengths:
            inputs[f"{s:g}"] = str(Path(folder) / f"{s:g}.npy")
            np.save(inputs[f"{s:g}"], FAMILY.inputs(s, 1, 0, "speech", {})["x"])
        try:
            for name, code in BY_HAND.items():
                print(f"preparing {name}", file=sys.stderr)
                contenders[name] = Hand(_LOAD + code, Path(folder), inputs, threads)
            ours = arguments.modes.split(",")
            for name in ours:
                contenders[name] = Ours(name, threads)
            ceilings = Hand(_CEILINGS, Path(folder), {}, threads)
            contenders[""] = ceilings
            names = [name for name in contenders if name]
            print(f"{catalogue.find(MODEL).label}, {threads} threads, {cpu.cpu_name()}")
            for s in inputs:
                medians: dict[str, dict[int, float]] = {name: {} for name in (*names, *KERNELS)}
                for name in names:  # the first pass of a length compiles or plans, and counts for nothing
                    contenders[name].visit(s)
                for number in range(arguments.rounds):
                    for p in order(range(len(names)), 0, (MODEL, s), number):
                        medians[names[p]][number] = statistics.median(contenders[names[p]].visit(s))
                    for kernel in KERNELS:
                        medians[kernel][number] = statistics.median(ceilings.visit(kernel))
                tell(s, names, ours, medians)
        finally:
            for contender in contenders.values():
                contender.close()


def tell(length_s: str, names: list[str], ours: list[str], medians: dict[str, dict[int, float]]) -> None:
    """Print what was measured at one length."""
    best = {}
    for kernel in KERNELS:
        rate = CEILING**3 / statistics.median(medians[kernel].values())
        best[kernel[:4]] = max(best.get(kernel[:4], 0.0), rate)
        print(f"{length_s} s  ceiling {kernel:20} {2 * rate / 1e9:7.0f} G operations a second")
    macs = work.work(MODEL, 1, float(length_s))
    for name in names:
        seconds = statistics.median(medians[name].values())
        shares = ", ".join(f"{macs / seconds / rate:.0%} of {bits}" for bits, rate in best.items())
        print(f"{length_s} s  {name:28} {seconds * 1e3:8.1f} ms, {shares}")
    for mine in ours:
        for name in BY_HAND:
            i = stats.speedup(medians[name], medians[mine])
            assert i and i.low is not None
            print(f"{length_s} s  {mine} is {i.value:.2f} [{i.low:.2f}, {i.high:.2f}] times as fast as {name}")


if __name__ == "__main__":
    main()
