"""The way through in a real browser: choose, start, watch charts change, download what the store holds."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browsing import CHROMIUM, browser_page, dashboard, needs_chromium
from conftest import wait_for
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from test_lan import URL, Machine, machines
from test_serve import TOKEN

__all__ = ["machines"]  # a fixture

from bench.core.paths import ROOT
from bench.core.store import Store
from bench.results import report, tables

pytestmark = needs_chromium


_SLOW = """
import sys, time
import streamlit as st
sys.path.insert(0, {root!r})
from bench.ui.button import pressed

st.text_input("Something else", key="other")
time.sleep(1.5)
if pressed("Go", key="go"):
    st.session_state["times"] = st.session_state.get("times", 0) + 1
st.write(f"pressed {{st.session_state.get('times', 0)}} times, beside", st.session_state["other"])
"""


@pytest.mark.timeout(200)
def test_a_press_is_not_lost_when_something_else_changes_before_it_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(_SLOW.format(root=str(ROOT)))
    with dashboard(script) as url, browser_page() as page:
        page.goto(url)
        page.get_by_text("pressed 0 times").wait_for()
        page.get_by_role("button", name="Go").click()
        page.wait_for_timeout(300)  # the script is on its way to the button
        page.get_by_role("textbox", name="Something else").fill("typed")
        page.keyboard.press("Enter")
        page.get_by_text("pressed 1 times, beside typed").wait_for()


@pytest.mark.timeout(600)
def test_choose_start_watch_download(data_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    with dashboard() as url, browser_page() as page:
        page.goto(url)
        page.get_by_text("Nothing has been measured here yet").wait_for()
        page.get_by_role("button", name="Start a benchmark").click()
        _type_model(page, tiny_model)
        page.get_by_text("fp32, the original").first.wait_for()
        page.get_by_text("int8 dynamic").first.wait_for()
        _loosen(page)
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
        other.goto(f"{url}/Results")
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
    store = Store(data_folder / "earbench.db")
    run = store.runs()[0]
    assert run.state == "done", run.message
    found = report.report(store, run.id)
    assert found
    expected = tables.summary_rows(found)
    assert len(rows) == len(expected) == 4
    for row, want in zip(rows, expected, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in want.items()}
    kept = [s for g in found.groups for v in g.visits if v.variant == 0 and g.size == 5 for s in v.kept_s]
    five = next(r for r in rows if r["mode"] == "torch-fp32" and r["length_s"] == "5.0")
    assert int(five["passes"]) == len(kept) >= 10
    assert float(five["mean_s"]) == pytest.approx(sum(kept) / len(kept))


@pytest.mark.timeout(300)
def test_token_url_and_a_benchmark_from_another_machine(
    machines: tuple[Machine, Machine], data_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    device, laptop = machines
    here = tmp_path / "browser-on-the-laptop"
    here.write_text(f'#!/bin/sh\nexec ip netns exec {laptop.name} {CHROMIUM} "$@"\n')
    here.chmod(0o755)
    command = device.command([sys.executable, "-m", "bench", "serve", "--lan"])
    environment = {**os.environ, "EARBENCH_TOKEN": TOKEN}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: laptop.do(_asks_for_the_token, URL), "the dashboard", every_s=0.1)
        with browser_page(str(here), width=390) as page:
            page.goto(URL)
            page.get_by_role("heading", name="Token needed").wait_for()
            page.goto(f"{URL}/Benchmark?token={TOKEN}")
            assert TOKEN not in page.url
            _type_model(page, tiny_model)
            page.get_by_text("fp32, the original").first.wait_for()
            _loosen(page)
            page.get_by_role("textbox", name="Input lengths, s").fill("1")
            page.get_by_role("textbox", name="Input lengths, s").press("Enter")
            page.wait_for_timeout(1000)
            page.get_by_role("button", name="Start", exact=True).click()
            page.get_by_text("The run just measured").wait_for(timeout=200_000)
            page.get_by_text("times as fast").first.wait_for()
        assert [(r.state, r.spec.sizes) for r in Store(data_folder / "earbench.db").runs()] == [("done", (1.0,))]
    finally:
        process.terminate()
        process.wait(20)


def _type_model(page: Page, folder: Path) -> None:
    """Leave the default and type a folder's path."""
    default = page.get_by_text("wav2vec2-base-random (random weights")  # the model of a first benchmark
    try:
        default.wait_for(timeout=45_000)
    except PlaywrightTimeout:  # a browser that stays blank on a busy machine is told to load the page again
        page.reload()
        default.wait_for()
    choice = page.get_by_test_id("stMultiSelect").first
    models = choice.get_by_role("combobox")
    others, chosen = ("demo (small", "wav2vec2-base-random"), ""
    for _ in range(10):  # keys that are pressed while the page is drawn anew may be lost
        models.click()
        for _ in range(3):
            models.press("Backspace")
        try:
            page.get_by_role("option", name="wav2vec2-base-random").wait_for(timeout=10_000)
        except PlaywrightTimeout:  # it was chosen, and its removal was lost
            continue
        models.fill(str(folder))
        page.get_by_role("option", name="wav2vec2-base-random").wait_for(state="hidden")  # else Enter would choose it
        models.press("Enter")
        models.press("Escape")
        page.wait_for_timeout(1000)
        chosen = choice.inner_text()
        if folder.name in chosen and not any(other in chosen for other in others):
            return
    raise AssertionError(f"chosen are {chosen}")


def _loosen(page: Page) -> None:
    """The lab's modes, a wide precision target and one thread: a test of the way through, not of the figures."""
    page.get_by_text("Checking which modes run here").wait_for(state="detached")
    modes = page.get_by_test_id("stMultiSelect").nth(1)
    for _ in range(10):  # keys that are pressed while the page is drawn anew may be lost
        if "OpenVINO" not in modes.inner_text():
            break
        modes.get_by_role("combobox").press("Backspace")  # the last one, which gains most and takes longest to build
        modes.get_by_role("combobox").press("Escape")
        page.wait_for_timeout(2000)
    threads = page.get_by_role("textbox", name="Threads")
    for _ in range(20):  # a click while the page is drawn anew may be lost
        if threads.is_visible():
            break
        page.get_by_text("Advanced: batch").click()
        page.wait_for_timeout(1000)
    threads.fill("1")
    target = page.get_by_role("spinbutton", name="Precision target")
    target.fill("100")
    target.press("Enter")


def _asks_for_the_token(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError as e:
        return e.code == 401
    except OSError:
        return False
    return False
