"""Does the product measure what a bare loop measures, also while people watch?

    python tests/perf/fidelity.py [--rounds 40] [--browser]

Arms, all on wav2vec2 base with random weights, fp32, 5 s of audio:

  bare      a loop of plain PyTorch, nothing of Earbench in its process
  product   `python -m bench run`, nobody watching
  watched   a Streamlit server whose own job measures, while two sessions on the Benchmark page poll it over WebSockets
  browser   the same with one headless Chromium in their place; on request, and without a bar, as a browser on the
            device itself takes more of its cores than any of the above

A machine's speed drifts by more than 3 % within a minute, so the arms live side by side and take turns visit by
visit: in every round, in a random order, each arm runs until one more visit of 3 timed passes is in, and is then
stopped with all its processes. The stop falls into the next visit's first pass, which the product discards anyway; the
bare loop discards one likewise. An arm is compared with the bare loop of the same round: mean of the logarithms of the
ratios of the visits' medians, with Student's t interval over rounds. Exits with 1 where `product` or `watched` is more
than 3 % off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from bench import modes
from bench.core import stats
from bench.core.paths import ROOT
from bench.core.store import Store
from bench.device import cpu
from bench.families import catalogue
from bench.families.wav2vec2 import FAMILY

BAR = 0.03
MODEL, LENGTH_S = "wav2vec2-base-random", 5.0
ENDLESS = 1000  # repeats: the run goes on until it is ended here
WATCHERS = 2
WAIT_S = 120.0

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
        self.begin()
        wait(lambda: bool(self.store.runs()), "the run to begin")
        self.run_id = self.store.runs()[0].id
        wait(lambda: self._count() > 0, "the first visit")
        self.stop()

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

    @property
    def store(self) -> Store:
        """The arm's own database."""
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

    watchers: list[Watcher]

    def begin(self) -> None:
        """Press Start on the page, then open the sessions that watch."""
        self.port = self.serve()
        self.watchers = [Watcher(self.port)]
        self.watchers[0].press_start(LENGTH_S, ENDLESS, self._threads)
        wait(lambda: bool(self.store.runs()), "the run to begin")
        self.watch()

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
        """Open the other sessions."""
        self.watchers += [Watcher(self.port) for _ in range(WATCHERS - 1)]

    def go(self) -> None:
        """Let everything run, the sessions too."""
        super().go()
        for w in self.watchers:
            w.awake.set()

    def stop(self) -> None:
        """Stop everything, the sessions too."""
        for w in self.watchers:
            w.awake.clear()
        super().stop()

    def close(self) -> None:
        """End everything."""
        super().close()
        for w in self.watchers:
            w.awake.set()
            w.close()


class Browser(Watched):
    """The same, watched by Chromium, which is stopped with it."""

    def watch(self) -> None:
        """Close the starter's session and open a browser."""
        from playwright.sync_api import sync_playwright

        self.watchers.pop().close()
        before = set(psutil.Process().children(recursive=True))
        self._open = ExitStack()
        p = self._open.enter_context(sync_playwright())
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        page = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--headless"]).new_page()
        page.goto(f"http://127.0.0.1:{self.port}/Benchmark")
        page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
        server = set(super().processes())
        self._chromium = [c for c in psutil.Process().children(recursive=True) if c not in before | server]

    def processes(self) -> list[psutil.Process]:
        """The browser's processes too."""
        return [*super().processes(), *getattr(self, "_chromium", [])]


class Watcher:
    """A session on the Benchmark page that does what a browser does: polls its fragments when they are due."""

    def __init__(self, port: int) -> None:
        self.polls = 0
        self.awake = threading.Event()
        self.awake.set()
        self._widgets: dict[str, Any] = {}
        self._due: dict[str, tuple[float, float]] = {}  # fragment -> (when, every so many seconds)
        self._drawn = threading.Event()
        self._open = ExitStack()
        self._ws = self._open.enter_context(
            connect(
                f"ws://127.0.0.1:{port}/_stcore/stream",
                subprotocols=[Subprotocol("streamlit")],
                proxy=None,
                max_size=None,
                open_timeout=WAIT_S,
            )
        )
        self._send(BackMsg())
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def press_start(self, length_s: float, repeats: int, threads: int) -> None:
        """Choose the original alone at one length, and press Start."""
        label = modes.find("torch-fp32").SPEC.label
        model = f"{MODEL} ({catalogue.find(MODEL).note})"
        until = time.monotonic() + WAIT_S
        while "start" not in self._widgets:
            assert time.monotonic() < until, "no form with a Start button was drawn"
            time.sleep(0.2)
        self._drawn.wait(WAIT_S)
        assert label in self._widgets["modes"].options and model in self._widgets["models"].options
        message = BackMsg()
        states = message.rerun_script.widget_states.widgets
        states.add(id=self._widgets["models"].id).string_array_value.data.append(model)
        states.add(id=self._widgets["modes"].id).string_array_value.data.append(label)
        states.add(id=self._widgets["lengths"].id, string_value=f"{length_s:g}")
        states.add(id=self._widgets["threads"].id, string_value=str(threads))
        states.add(id=self._widgets["repeats"].id, double_value=repeats)
        self._send(message)  # the estimate first, as a person would see it; Start may be disabled before
        time.sleep(2)
        states.add(id=self._widgets["start"].id, trigger_value=True)
        self._send(message)

    def close(self) -> None:
        """Leave."""
        self._open.close()
        self._thread.join(10)

    def _send(self, message: BackMsg) -> None:
        message.rerun_script.page_name = "Benchmark"
        self._ws.send(message.SerializeToString())

    def _listen(self) -> None:
        while True:
            if not self.awake.is_set():  # a stop of its server stops its clock too
                asleep = time.monotonic()
                self.awake.wait()
                slept_s = time.monotonic() - asleep
                self._due = {f: (when + slept_s, every_s) for f, (when, every_s) in self._due.items()}
            now = time.monotonic()
            for fragment, (when, every_s) in self._due.items():
                if when <= now:
                    self._due[fragment] = now + every_s, every_s
                    poll = BackMsg()
                    poll.rerun_script.fragment_id = fragment
                    poll.rerun_script.is_auto_rerun = True
                    self._send(poll)
                    self.polls += 1
            soonest = min((when for when, _ in self._due.values()), default=now + 1)
            try:
                raw = self._ws.recv(timeout=min(0.1, max(0.01, soonest - time.monotonic())), decode=False)
            except TimeoutError:
                continue
            except ConnectionClosed:
                return
            self._take(ForwardMsg.FromString(raw))

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "auto_rerun":
            every_s = message.auto_rerun.interval
            self._due[message.auto_rerun.fragment_id] = time.monotonic() + every_s, every_s
        elif kind == "stop_auto_rerun":
            for fragment in message.stop_auto_rerun.fragment_ids:
                self._due.pop(fragment, None)
        elif kind == "script_finished":
            self._drawn.set()
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            widget = getattr(element, element.WhichOneof("type") or "", None)
            key = str(getattr(widget, "id", "")).rpartition("-")[2]
            if key:
                self._widgets[key] = widget


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
    ask.add_argument("--browser", action="store_true")
    arguments = ask.parse_args()
    busy = psutil.cpu_percent(interval=3) / 100
    begun, threads = time.monotonic(), cpu.default_threads()
    arms: dict[str, Any] = {}
    medians: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="earbench-fidelity-") as name, ExitStack() as ends:
        folder = Path(name)
        kinds = {"product": Product, "watched": Watched} | ({"browser": Browser} if arguments.browser else {})
        for arm, kind in kinds.items():
            arms[arm] = kind(folder, arm, threads)
            ends.callback(arms[arm].close)
        arms["bare"] = Bare(folder, threads)
        ends.callback(arms["bare"].close)
        watchers: list[Watcher] = arms["watched"].watchers
        polls = sum(w.polls for w in watchers)
        medians = {arm: {} for arm in arms}
        draw = random.Random(0)
        for number in range(-1, arguments.rounds):  # the first round warms up
            for arm in draw.sample(list(arms), len(arms)):
                kept = arms[arm].turn()
                if number >= 0:
                    medians[arm][number] = statistics.median(kept)
        polls = sum(w.polls for w in watchers) - polls
    print(f"{'arm':8} {'median, ms':>10}  over bare [95 %]")
    bad = 0
    for arm in ("bare", *kinds):
        ratio = stats.speedup(medians[arm], medians["bare"])
        assert ratio and ratio.low and ratio.high
        line = f"{arm:8} {statistics.median(medians[arm].values()) * 1e3:10.1f}"
        if arm != "bare":
            line += f"  {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        if arm in ("product", "watched"):
            out = abs(ratio.value - 1) > BAR
            sure = ratio.low > 1 - BAR and ratio.high < 1 + BAR
            line += "  OUT" if out else "  within the bar" if sure else "  within the bar, its interval is not"
            bad += out
        print(line)
    print(
        f"{arguments.rounds} rounds of 3 passes, {threads} threads, {LENGTH_S:g} s of audio; {polls} polls by "
        f"{WATCHERS} sessions; bar ±{BAR:.0%}; {busy:.0%} of the cores taken before; {time.monotonic() - begun:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
