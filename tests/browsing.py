"""A dashboard of our own and a browser that opens it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import wait_for
from playwright.sync_api import Page, sync_playwright

from bench.core.paths import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
LIMIT_S = 90.0

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@contextmanager
def dashboard(script: Path = ROOT / "app.py") -> Iterator[str]:
    """`streamlit run` on a port of its own, over the data folder that EARBENCH_DATA names; the value is its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _healthy(url), "the dashboard", LIMIT_S, 0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def browser_page(
    executable: str = CHROMIUM, *, width: int = 1280, flags: Sequence[str] = (), permissions: Sequence[str] = ()
) -> Iterator[Page]:
    """A page of a browser of our own, that wide; a failure shows what was on it."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=[*FLAGS, *flags])
        context = browser.new_context(viewport={"width": width, "height": 1000}, permissions=list(permissions))
        page = context.new_page()
        page.set_default_timeout(LIMIT_S * 1000)
        try:
            yield page
        except BaseException:
            print(page.locator("body").inner_text())  # pytest shows it with the failure
            raise
        finally:
            browser.close()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
