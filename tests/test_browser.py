"""The way through in a real browser: choose, start, watch charts change, download what the store holds."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import report
from bench.paths import ROOT
from bench.store import Store

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@dataclass
class Server:
    """A dashboard of our own on a port of its own."""

    url: str
    data: Path
    pid: int


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", str(port)],
        cwd=ROOT,
        env={**os.environ, "EARBENCH_DATA": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _healthy(url), 60)
        yield Server(url, tmp_path, process.pid)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def page() -> Iterator[playwright.Page]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


@pytest.mark.timeout(600)
def test_choose_start_watch_download(server: Server, page: playwright.Page, tmp_path: Path) -> None:
    page.goto(server.url)
    page.get_by_text("Nothing has been measured here yet").wait_for()
    page.get_by_role("button", name="Start a benchmark").click()
    page.get_by_text("wav2vec2-base-random (").wait_for()
    page.get_by_text("fp32, the original").first.wait_for()
    page.get_by_text("int8 dynamic").first.wait_for()
    assert page.get_by_role("textbox", name="Input lengths, s").input_value() == "1, 5"
    page.get_by_role("button", name="Start", exact=True).click()

    page.get_by_role("button", name="Cancel").wait_for()
    table = page.get_by_test_id("stDataFrame").first
    table.wait_for(timeout=180_000)
    chart = page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first
    chart.wait_for()
    seen = set()
    deadline = time.monotonic() + 400
    other = page.context.new_page()  # another tab sees the same job
    other.goto(f"{server.url}/Results")
    other.get_by_role("link", name="Watch").wait_for()
    other.close()
    while page.get_by_role("button", name="Cancel").count() and time.monotonic() < deadline:
        seen.add(chart.evaluate("e => e.toDataURL ? e.toDataURL() : e.outerHTML"))
        page.wait_for_timeout(1500)
    assert len(seen) >= 3, "the charts did not change while the run went on"
    page.get_by_text("The run just measured").wait_for(timeout=120_000)

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Summary CSV").click()
    waiting.value.save_as(tmp_path / "summary.csv")
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    store = Store(server.data / "earbench.db")
    run = store.runs()[0]
    assert run.state == "done", run.message
    found = report.report(store, run.id)
    assert found
    expected = report.summary_rows(found)
    assert len(rows) == len(expected) == 4
    for row, want in zip(rows, expected, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in want.items()}
    kept = [s for g in found.groups for v in g.visits if v.variant == 0 and g.length_s == 5 for s in v.kept_s]
    five = next(r for r in rows if r["mode"] == "torch-fp32" and r["length_s"] == "5.0")
    assert int(five["passes"]) == len(kept) >= 10
    assert float(five["mean_s"]) == pytest.approx(sum(kept) / len(kept))


def _wait(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
