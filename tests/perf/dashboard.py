"""Start to first paint, and resident memory, of the dashboard beside `streamlit hello`, in turn. Prints ratios.

Run it on a quiet machine: `python tests/perf/dashboard.py`. Needs Chromium.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench.core.paths import ROOT
from bench.core.stats import geometric_mean

TURNS = 7
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ARMS = {
    "earbench": (["run", "app.py"], "What do you gain when you quantize?"),
    "hello": (["hello"], "Welcome to Streamlit!"),
}


def main() -> None:
    """Measure both in turn and print."""
    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in ARMS}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for turn in range(TURNS):
            for name in list(ARMS)[:: 1 if turn % 2 else -1]:
                measured[name].append(measure(name, browser.new_page()))
        browser.close()
    for name, values in measured.items():
        seconds, resident = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:9} {seconds:5.2f} s to first paint, {resident / 1e6:4.0f} MB resident after it")
    for what, column in (("time to first paint", 0), ("resident memory", 1)):
        ratio = geometric_mean(
            [a[column] / b[column] for a, b in zip(measured["earbench"], measured["hello"], strict=True)]
        )
        assert ratio
        print(f"earbench over hello, {what}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], {TURNS} turns")


def measure(name: str, page: Page) -> tuple[float, int]:
    """(seconds from starting the server to its title on the screen, resident bytes then) of one start."""
    command, title = ARMS[name]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        begun = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "streamlit", *command, "--server.port", str(port), "--server.headless", "true"],
            cwd=ROOT,
            env={**os.environ, "EARBENCH_DATA": data},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_text(title).first.wait_for(timeout=60_000)
            return time.perf_counter() - begun, psutil.Process(server.pid).memory_info().rss
        finally:
            page.close()
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
