"""Does the product measure what a bare loop measures, also while people watch?

    python tests/perf/fidelity.py [--turns 6] [--browser]

Arms that run in turn, each in fresh processes, on wav2vec2 base with random weights, fp32, 5 s of audio:

  bare      a loop of plain PyTorch, nothing of Earbench in its process
  product   `python -m bench run`, nobody watching
  watched   a Streamlit server whose own job measures, while two sessions on the Benchmark page poll it over WebSockets
  browser   the same with one headless Chromium in their place; on request, and without a bar, as a browser on the
            device itself takes more of its cores than any of the above

Every turn of an arm gives the median and the mean of its kept passes; an arm is compared with the bare loop of the
same turn, by the mean of the logarithms of the ratios with Student's t interval. Exits with 1 where the ratio of
medians of `product` or `watched` is more than 3 % off. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

from bench import device, modes, stats
from bench.models import wav2vec2
from bench.paths import ROOT
from bench.store import Store

BAR = 0.03
LENGTH_S = 5.0
ROUNDS = 5  # of a product's run; as many visits of 3 passes, and passes of the bare loop accordingly
WATCHERS = 2
WAIT_S = 120.0
LIMIT_S = 570.0  # no turn begins that would probably end later

BARE = """
import json, sys, time
import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

threads, passes, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads)
torch.manual_seed(0)
model = Wav2Vec2ForCTC(Wav2Vec2Config()).eval()
torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")
audio = torch.from_numpy(np.load(path))
times = []
with torch.inference_mode():
    for _ in range(passes + 1):
        begun = time.perf_counter()
        model(audio)
        times.append(time.perf_counter() - begun)
print(json.dumps(times[1:]))
"""


class Arms:
    """One method an arm: each runs one turn and returns the seconds of its kept passes."""

    def __init__(self, folder: Path) -> None:
        self.threads = device.default_threads()
        self.folder, self.input = folder, folder / "input.npy"
        self.polls = 0
        np.save(self.input, wav2vec2.inputs(LENGTH_S, 1, 0, "speech"))

    def bare(self) -> list[float]:
        """A fresh process with a loop of its own."""
        command = [sys.executable, "-c", BARE, str(self.threads), str(3 * ROUNDS), str(self.input)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True, cwd="/")
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    def product(self) -> list[float]:
        """A run from the command line."""
        command = [sys.executable, "-m", "bench", "run", "--modes", "torch-fp32", "--lengths", f"{LENGTH_S:g}"]
        command += ["--repeats", str(ROUNDS), "--threads", str(self.threads)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT, env=self._environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return self._newest()

    def watched(self) -> list[float]:
        """A run in the server's own process while sessions poll the page that shows it."""
        with self._server() as port:
            watchers = [Watcher(port)]
            try:
                watchers[0].press_start(LENGTH_S, ROUNDS, self.threads)
                self._wait(lambda: bool(self._runs()), "the run to begin")
                watchers += [Watcher(port) for _ in range(WATCHERS - 1)]
                self._wait(lambda: self._runs()[0].state == "running", "the first pass")
                before = [w.polls for w in watchers]
                self._wait(lambda: self._runs()[0].finished_s is not None, "the run's end")
                polls = [w.polls - b for w, b in zip(watchers, before, strict=True)]
            finally:
                for w in watchers:
                    w.close()
            run = self._runs()[0]
            assert run.finished_s and run.started_s
            # One poll in 2 s; some are lost while the workers open.
            assert min(polls) >= (run.finished_s - run.started_s) / 4, f"the sessions hardly polled: {polls}"
            self.polls += sum(polls)
            return self._newest()

    def browser(self) -> list[float]:
        """The same, watched by Chromium."""
        from playwright.sync_api import sync_playwright

        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        with self._server() as port, sync_playwright() as p:
            opened = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--headless"])
            page = opened.new_page()
            page.goto(f"http://127.0.0.1:{port}/Benchmark")
            starter = Watcher(port)
            starter.press_start(LENGTH_S, ROUNDS, self.threads)
            starter.close()
            self._wait(lambda: bool(self._runs()), "the run to begin")
            page.reload()
            page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
            self._wait(lambda: self._runs()[0].finished_s is not None, "the run's end")
            opened.close()
            return self._newest()

    # --- plumbing

    @property
    def data(self) -> Path:
        """The data folder of this turn; the cache is shared, so that the artefact is built once."""
        return self.folder / "data"

    def fresh(self) -> None:
        """Forget the runs of the turn before."""
        shutil.rmtree(self.data, ignore_errors=True)
        (self.folder / "cache").mkdir(exist_ok=True)
        self.data.mkdir()
        (self.data / "cache").symlink_to(self.folder / "cache")

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "EARBENCH_DATA": str(self.data), "TERM": "dumb"}

    def _runs(self) -> list[Any]:
        return Store(self.data / "earbench.db").runs()

    def _newest(self) -> list[float]:
        store = Store(self.data / "earbench.db")
        (run,) = store.runs()
        assert run.state == "done", f"{run.state}: {run.message}"
        (group,) = store.groups(run.id)
        kept = [s for v in group.visits for s in v.kept_s]
        assert len(group.visits) == ROUNDS and len(kept) >= ROUNDS, (len(group.visits), len(kept))
        return kept

    @contextmanager
    def _server(self) -> Iterator[int]:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port: int = s.getsockname()[1]
        log = self.folder / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", str(port)],
                cwd=ROOT,
                env=self._environment,
                stdout=out,
                stderr=out,
            )
        try:

            def listens() -> bool:
                assert process.poll() is None, log.read_text()
                with socket.socket() as s:
                    return s.connect_ex(("127.0.0.1", port)) == 0

            self._wait(listens, "the server")
            yield port
        finally:
            process.terminate()
            process.wait(30)

    @staticmethod
    def _wait(condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < until, f"waited in vain for {what}"
            time.sleep(0.5)


class Watcher:
    """A session on the Benchmark page that does what a browser does: polls its fragments when they are due."""

    def __init__(self, port: int) -> None:
        self.polls = 0
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
        label = modes.find("torch-fp32").LABEL
        until = time.monotonic() + WAIT_S
        while "start" not in self._widgets:
            assert time.monotonic() < until, "no form with a Start button was drawn"
            time.sleep(0.2)
        self._drawn.wait(WAIT_S)
        assert label in self._widgets["modes"].options
        message = BackMsg()
        states = message.rerun_script.widget_states.widgets
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
                raw = self._ws.recv(timeout=max(0.01, soonest - time.monotonic()), decode=False)
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


def main() -> int:
    """Run the turns and print the table; returns the exit code."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--turns", type=int, default=6)
    ask.add_argument("--arms", default="bare,product,watched")
    ask.add_argument("--browser", action="store_true")
    given = ask.parse_args()
    names = given.arms.split(",") + ["browser"] * given.browser
    busy = psutil.cpu_percent(interval=3) / 100
    if busy > 0.03:
        print(f"This machine is not quiet: {busy:.0%} of its cores are taken already.", file=sys.stderr)
    begun, longest_s, turns = time.monotonic(), 0.0, 0
    medians: dict[str, dict[int, float]] = {name: {} for name in names}
    means: dict[str, dict[int, float]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory(prefix="earbench-fidelity-") as folder:
        arms = Arms(Path(folder))
        arms.fresh()
        arms.product()  # builds the artefact, and warms the disk's cache
        for turn in range(given.turns):
            turn_begun = time.monotonic()
            if turn_begun - begun + longest_s > LIMIT_S:
                break
            for name in names if turn % 2 == 0 else names[::-1]:
                arms.fresh()
                kept = getattr(arms, name)()
                medians[name][turn], means[name][turn] = statistics.median(kept), statistics.mean(kept)
                print(
                    f"turn {turn + 1} {name:8} median {medians[name][turn] * 1e3:7.1f} ms, "
                    f"mean {means[name][turn] * 1e3:7.1f} ms, {len(kept)} passes",
                    file=sys.stderr,
                    flush=True,
                )
            longest_s, turns = max(longest_s, time.monotonic() - turn_begun), turn + 1
    print(f"\n{'arm':8}  {'over bare, medians':26}  {'over bare, means':26}")
    bad = 0
    for name in names[1:]:
        by_median, by_mean = stats.speedup(medians[name], medians["bare"]), stats.speedup(means[name], means["bare"])
        assert by_median and by_mean
        judged = name != "browser"
        out = judged and abs(by_median.value - 1) > BAR
        bad += out
        print(f"{name:8}  {_shown(by_median)}  {_shown(by_mean)}  {'OUT' if out else '' if judged else 'no bar'}")
    print(
        f"{turns} of {given.turns} turns, {arms.threads} threads, {LENGTH_S:g} s of audio; {arms.polls} polls by "
        f"{WATCHERS} sessions; {busy:.0%} of the cores taken before; bar ±{BAR:.0%} on medians; "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if bad else 0


def _shown(i: stats.Interval) -> str:
    if i.low is None or i.high is None:
        return f"{i.value:.3f}" + 21 * " "
    return f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" + 5 * " "


if __name__ == "__main__":
    sys.exit(main())
