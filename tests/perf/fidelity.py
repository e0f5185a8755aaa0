"""Does the product measure what a bare loop measures, also while people watch?

    python tests/perf/fidelity.py [--rounds 40] [--viewers 2] [--browser]

Arms, all on wav2vec2 base with random weights, fp32, 5 s of audio:

  bare      a loop of plain PyTorch, nothing of Earbench in its process
  product   `python -m bench run`, nobody watching
  watched   a Streamlit server whose own job measures, while sessions on the Benchmark page poll it over WebSockets;
            they are in a process of their own (viewers.py), and one of them leaves and comes back every 10 s
  browser   the same with one headless Chromium in their place; on request, and without a bar, as a browser on the
            device itself takes more of its cores than any of the above

A machine's speed drifts by more than 3 % within a minute, so the arms live side by side and take turns visit by
visit: in every round, in a random order, each arm runs until one more visit of 3 timed passes is in, and is then
stopped with all its processes. The stop falls into the next visit's first pass, which the product discards anyway; the
bare loop discards one likewise. An arm is compared with the bare loop of the same round: mean of the logarithms of the
ratios of the visits' medians, with Student's t interval over rounds.

Printed too: the CPU time of the server and of the sessions, apart, per second while the arm runs; and how long polls
and openings of the page take, from the request to the end of the script run. Exits with 1 where an interval of
`product` or `watched` reaches beyond 5 % off, or where an answer took more than 2 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import viewers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from bench import modes
from bench.core import stats
from bench.core.paths import ROOT
from bench.core.store import Store
from bench.device import cpu
from bench.families import catalogue
from bench.families.wav2vec2 import FAMILY

BAR, GOAL = 0.05, 0.03  # how far off an arm may be: its interval, its value
ANSWER_S = 2.0  # a page answers within
MODEL, LENGTH_S = "wav2vec2-base-random", 5.0
ENDLESS = 1000  # repeats: the run goes on until it is ended here
WAIT_S = 120.0
SETTLE_S = 10.0  # at first, sessions poll as if there were few of them

BARE = """
import json, sys, time
import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
model = Wav2Vec2ForCTC(Wav2Vec2Config()).eval()
torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")
audio = torch.from_numpy(np.load(sys.argv[2]))
with torch.inference_mode():
    for _ in sys.stdin:
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            model(audio)
            times.append(time.perf_counter() - begun)
        print(json.dumps(times[1:]), flush=True)
"""


class Bare:
    """A loop of its own in a fresh process."""

    def __init__(self, folder: Path, threads: int) -> None:
        path = folder / "input.npy"
        np.save(path, FAMILY.inputs(LENGTH_S, 1, 0, "speech", {})["x"])
        command = [sys.executable, "-c", BARE, str(threads), str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        self.visits: list[list[float]] = []

    def turn(self) -> list[float]:
        """One visit."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds: list[float] = json.loads(self._process.stdout.readline())
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Product:
    """`python -m bench run` with a data folder of its own, stopped between its turns."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._data, self._threads = folder / name, threads
        self._data.mkdir()
        (folder / "cache").mkdir(exist_ok=True)
        (self._data / "cache").symlink_to(folder / "cache")
        self.log = folder / f"{name}.log"
        try:
            self.begin()
            wait(lambda: bool(self.store.runs()), "the run to begin")
            self.run_id = self.store.runs()[0].id
            wait(lambda: self._count() > 0, "the first visit")
            self.stop()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Start measuring."""
        command = [
            "-m",
            "bench",
            "run",
            "--model",
            MODEL,
            "--modes",
            "torch-fp32",
            "--lengths",
            f"{LENGTH_S:g}",
            "--target",
            "0.001",
        ]
        self.start([*command, "--repeats", str(ENDLESS), "--threads", str(self._threads)])

    def start(self, command: list[str]) -> None:
        """A process in a session of its own."""
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, "EARBENCH_DATA": str(self._data), "TERM": "dumb"},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @cached_property
    def store(self) -> Store:
        """The arm's own database, opened while the arm runs: it may be stopped in the middle of a write."""
        return Store(self._data / "earbench.db")

    def turn(self) -> list[float]:
        """Run until one more visit is stored; the seconds of its kept passes."""
        store = self.store
        before = store.revision()
        self.go()
        wait(lambda: store.revision() > before, "a visit", 0.01)
        self.stop()
        (group,) = store.groups(self.run_id)
        return group.visits[-1].kept_s

    def go(self) -> None:
        """Let everything run."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop everything."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End everything."""
        if hasattr(self, "process"):
            self._signal(signal.SIGKILL)
            self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """The arm's processes, workers first."""
        first = psutil.Process(self.process.pid)
        return [*first.children(recursive=True), first]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self.processes():
                process.send_signal(number)

    def _count(self) -> int:
        return sum(len(g.visits) for g in self.store.groups(self.run_id))


class Watched(Product):
    """A run in a Streamlit server's own process while sessions poll the page that shows it."""

    viewers = 0

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self.awake_s, self.cpu_s = 0.0, {"server": 0.0, "sessions": 0.0}
        super().__init__(folder, name, threads)

    def turn(self) -> list[float]:
        """Run until one more visit is stored, and count the CPU time that it took beside the worker."""
        before, began_s = self._cpu_s(), time.monotonic()
        kept = super().turn()
        self.awake_s += time.monotonic() - began_s
        for name, seconds in self._cpu_s().items():
            self.cpu_s[name] += seconds - before[name]
        return kept

    def _cpu_s(self) -> dict[str, float]:
        pids = {"server": self.process.pid, "sessions": self.watching.pid}
        return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in pids.items()}

    def begin(self) -> None:
        """Press Start on the page, then open the sessions that watch."""
        # Which modes run is asked beforehand, as by an earlier visit: the session that starts does not wait for it.
        environment = {**os.environ, "EARBENCH_DATA": str(self._data)}
        command = [sys.executable, "-m", "bench", "modes"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        self.port = self.serve()
        starter = Starter(self.port, time.monotonic)
        starter.press_start(LENGTH_S, ENDLESS, self._threads)
        wait(lambda: bool(self.store.runs()), "the run to begin")
        self.watch()
        starter.close()

    def serve(self) -> int:
        """Start the server; returns its port."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port: int = s.getsockname()[1]
        self.start(["-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", str(port)])

        def listens() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0

        wait(listens, "the server")
        return port

    def watch(self) -> None:
        """Open the sessions that watch, in a process of their own."""
        clock = self._data / "stopped"
        clock.write_bytes(bytes(8))
        with clock.open("r+b") as file:
            self._stopped_s = mmap.mmap(file.fileno(), 8)
        self._since_s: float | None = None
        command = [sys.executable, str(Path(viewers.__file__)), str(self.port), str(self.viewers), str(clock)]
        self.watching = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def go(self) -> None:
        """Let everything run, the sessions too."""
        if self._since_s is not None:
            (before_s,) = struct.unpack("d", self._stopped_s[:8])
            self._stopped_s[:8] = struct.pack("d", before_s + time.monotonic() - self._since_s)
        super().go()

    def stop(self) -> None:
        """Stop everything, the sessions too."""
        super().stop()
        self._since_s = time.monotonic()

    def settle(self) -> None:
        """Run until every session has drawn the page and polls at the interval that suits so many."""
        self.go()
        time.sleep(SETTLE_S + viewers.STAGGER_S * self.viewers)
        self.stop()

    def measure(self) -> None:
        """From now on, polls, answers and CPU time count."""
        self.awake_s, self.cpu_s = 0.0, dict.fromkeys(self.cpu_s, 0.0)
        assert self.watching.stdin
        self.watching.stdin.write("measure\n")
        self.watching.stdin.flush()

    def report(self) -> dict[str, Any]:
        """What the sessions measured; they end."""
        self.go()
        out, _ = self.watching.communicate(timeout=WAIT_S)
        report: dict[str, Any] = json.loads(out)
        return report

    def close(self) -> None:
        """End everything."""
        super().close()
        if hasattr(self, "watching"):
            self.watching.kill()
            self.watching.wait()

    def processes(self) -> list[psutil.Process]:
        """The sessions' process too."""
        watching = getattr(self, "watching", None)
        watches = watching is not None and watching.poll() is None
        return [*super().processes(), *([psutil.Process(watching.pid)] if watches else [])]


class Browser(Watched):
    """The same, watched by Chromium, which is stopped with it."""

    def watch(self) -> None:
        """Open a browser."""
        from playwright.sync_api import sync_playwright

        before = set(psutil.Process().children(recursive=True))
        self._open = ExitStack()
        p = self._open.enter_context(sync_playwright())
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        page = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--headless"]).new_page()
        page.goto(f"http://127.0.0.1:{self.port}/Benchmark")
        page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
        server = set(super().processes())
        self._chromium = [c for c in psutil.Process().children(recursive=True) if c not in before | server]

    def turn(self) -> list[float]:
        """Run until one more visit is stored."""
        return Product.turn(self)

    def go(self) -> None:
        """Let everything run, the browser too."""
        Product.go(self)

    def stop(self) -> None:
        """Stop everything, the browser too."""
        Product.stop(self)

    def close(self) -> None:
        """End everything."""
        Product.close(self)

    def processes(self) -> list[psutil.Process]:
        """The browser's processes too."""
        return [*super().processes(), *getattr(self, "_chromium", [])]


class Starter(viewers.Session):
    """A session that presses Start. It knows the widgets of the page."""

    def __init__(self, port: int, now: Callable[[], float]) -> None:
        self._widgets: dict[str, Any] = {}
        self._drawn = False
        super().__init__(port, now)

    def press_start(self, length_s: float, repeats: int, threads: int) -> None:
        """Choose the original alone at one length, and press Start."""
        label = modes.find("torch-fp32").SPEC.label
        model = f"{MODEL} ({catalogue.find(MODEL).note})"
        while not (self._drawn and "start" in self._widgets):  # the first time, it asks which modes run here
            self.receive()
        assert label in self._widgets["modes"].options and model in self._widgets["models"].options
        message = BackMsg()
        states = message.rerun_script.widget_states.widgets
        states.add(id=self._widgets["models"].id).string_array_value.data.append(model)
        states.add(id=self._widgets["modes"].id).string_array_value.data.append(label)
        states.add(id=self._widgets["lengths"].id, string_value=f"{length_s:g}")
        states.add(id=self._widgets["threads"].id, string_value=str(threads))
        states.add(id=self._widgets["repeats"].id, double_value=repeats)
        self._drawn = False
        self.ask(message)  # the estimate first, as a person would see it; Start may be disabled before
        while not self._drawn:
            self.receive()
        states.add(id=self._widgets["start"].id, trigger_value=True)
        self.ask(message)

    def take(self, payload: bytes) -> None:
        """Note the widgets of the page."""
        super().take(payload)
        message = ForwardMsg.FromString(payload)
        if message.WhichOneof("type") == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            widget = getattr(element, element.WhichOneof("type") or "", None)
            key = str(getattr(widget, "id", "")).rpartition("-")[2]
            if key:
                self._widgets[key] = widget

    def drawn(self) -> None:
        """The page is complete."""
        self._drawn = True


def wait(condition: Callable[[], bool], what: str, every_s: float = 0.2) -> None:
    """Return once the condition holds."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(every_s)


def main() -> int:
    """Run the rounds and print the table; returns the exit code."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=40)
    ask.add_argument("--viewers", type=int, default=2)
    ask.add_argument("--browser", action="store_true")
    arguments = ask.parse_args()
    if arguments.rounds < 2 or arguments.viewers < 1:
        ask.error("--rounds must be 2 or more, --viewers 1 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the arms would outlive it
    busy = psutil.cpu_percent(interval=3) / 100
    begun, threads = time.monotonic(), cpu.default_threads()
    arms: dict[str, Any] = {}
    medians: dict[str, dict[int, float]] = {}
    Watched.viewers = arguments.viewers
    with tempfile.TemporaryDirectory(prefix="earbench-fidelity-") as name, ExitStack() as ends:
        folder = Path(name)
        kinds = {"product": Product, "watched": Watched} | ({"browser": Browser} if arguments.browser else {})
        for arm, kind in kinds.items():
            arms[arm] = kind(folder, arm, threads)
            ends.callback(arms[arm].close)
        arms["bare"] = Bare(folder, threads)
        ends.callback(arms["bare"].close)
        watched: Watched = arms["watched"]
        watched.settle()
        medians = {arm: {} for arm in arms}
        draw = random.Random(0)
        for number in range(-1, arguments.rounds):  # the first round warms up
            for arm in draw.sample(list(arms), len(arms)):
                kept = arms[arm].turn()
                if number >= 0:
                    medians[arm][number] = statistics.median(kept)
            if number < 0:
                watched.measure()
        cpu_s, awake_s = watched.cpu_s, watched.awake_s
        report = watched.report()
    print(f"{'arm':8} {'median, ms':>10}  over bare [95 %]")
    bad = False
    for arm in ("bare", *kinds):
        ratio = stats.speedup(medians[arm], medians["bare"])
        assert ratio and ratio.low and ratio.high
        line = f"{arm:8} {statistics.median(medians[arm].values()) * 1e3:10.1f}"
        if arm != "bare":
            line += f"  {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        if arm in ("product", "watched"):
            out = ratio.low < 1 - BAR or ratio.high > 1 + BAR
            met = abs(ratio.value - 1) <= GOAL
            line += "  OUT" if out else "  within the bar" + (", the goal is met" if met else "")
            bad |= out
        print(line)
    answers_s = sorted(report["answers_s"])
    slow = bool(answers_s) and answers_s[-1] > ANSWER_S
    print(f"{arguments.viewers} sessions: {report['polls']} polls, {report['openings']} openings in {awake_s:.0f} s")
    for name, seconds in cpu_s.items():
        per_s, per_visit = seconds / awake_s * 1e3, seconds / arguments.rounds * 1e3
        print(f"CPU time of the {name}: {per_s:.1f} ms per second, {per_visit:.1f} ms per visit")
    if answers_s:
        print(
            f"{len(answers_s)} answers: median {statistics.median(answers_s):.2f} s, worst {answers_s[-1]:.2f} s"
            + (f"  OUT, more than {ANSWER_S:g} s" if slow else "")
        )
    print(
        f"{arguments.rounds} rounds of 3 passes, {threads} threads, {LENGTH_S:g} s of audio; bar ±{BAR:.0%}, goal "
        f"±{GOAL:.0%}; {busy:.0%} of the cores taken before; {time.monotonic() - begun:.0f} s"
    )
    return 1 if bad or slow else 0


if __name__ == "__main__":
    sys.exit(main())
