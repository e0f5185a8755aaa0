"""Many sessions that watch one job: how often they poll, what is computed for them, how a poll steps back."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsing import dashboard
from conftest import wait_for
from test_pages import finished_run, opened, store, texts

from bench.core.paths import ROOT
from bench.core.store import Store
from bench.jobs import manager
from bench.jobs.benchmark import Progress
from bench.jobs.job import Measurement
from bench.jobs.quiet import Quiet
from bench.ui import live, results, watching

__all__ = ["store"]  # the fixture
PAGE = "pages/1_Benchmark.py"


@pytest.fixture
def live_run(store: Store) -> Iterator[str]:
    """A benchmark that is live and does nothing, with figures."""
    run_id, end = finished_run(store, state="running"), threading.Event()
    progress = Progress("measuring", round=3, rounds=10, groups=1, cell="1 s", eta_s=60)
    job = Measurement(run_id, "benchmark", store.run(run_id).spec)
    job.progress = progress
    job.start(lambda: end.wait() and None)
    manager.jobs()._job = job
    yield run_id
    end.set()


def test_a_single_viewer_polls_every_three_seconds_and_many_less_often() -> None:
    assert watching.interval_s(1) == watching.interval_s(2) == 3.0
    intervals = [watching.interval_s(count) for count in range(1, 200)]
    assert intervals == sorted(intervals)
    for count, interval in enumerate(intervals, 1):
        assert count / interval <= watching.POLLS_PER_S + 1e-9 and interval <= max(3.0, count)


def test_one_viewer_more_or_less_does_not_change_intervals_to_and_fro() -> None:
    for count in range(1, 200):
        interval = watching.interval_s(count)
        assert not watching.outdated(interval, count)
        assert not (watching.outdated(watching.interval_s(count + 1), count))
    assert watching.outdated(watching.interval_s(1), 25)  # too often for so many: changes at once
    assert watching.outdated(watching.interval_s(25), 1)


def test_sessions_are_counted_by_a_real_server(tmp_path: Path) -> None:
    script = tmp_path / "count.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from bench.ui import watching\n"
        f"Path({str(tmp_path / 'count')!r}).write_text(str(watching.viewers()))\n"
    )
    with dashboard(script) as url, ExitStack() as sockets:
        for count in range(1, 4):
            sockets.enter_context(visit(url))
            wait_for(lambda: (tmp_path / "count").exists(), "the first session", 60)
            wait_for(lambda: (tmp_path / "count").read_text() == str(count), f"{count} sessions", 60)  # noqa: B023


def visit(url: str) -> socket.socket:
    """A session of the server: an open WebSocket, which asks for the page."""
    host = urlsplit(url).netloc
    address = host.split(":")
    connection = socket.create_connection((address[0], int(address[1])), 60)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: streamlit",
    )
    connection.sendall("\r\n".join((*lines, "", "")).encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    connection.sendall(bytes([0x82, 0x82, 0, 0, 0, 0, 0x5A, 0]))  # a masked frame: rerun_script, empty
    return connection


def test_without_a_server_there_is_one_viewer() -> None:
    assert watching.viewers() == 1


def test_figures_move_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, pace = [1000.0], watching.Pace()
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s[0])
    assert pace.revision("a", 7, 5.0) == 7
    now_s[0] += 4.9
    assert pace.revision("a", 8, 5.0) == 7
    now_s[0] += 0.2
    assert pace.revision("a", 9, 5.0) == 9
    pace.took("a", 0.4)  # so long that it may happen only every 20 s
    now_s[0] += 19
    assert pace.revision("a", 10, 5.0) == 9
    now_s[0] += 2
    assert pace.revision("a", 10, 5.0) == 10
    pace.took("a", 100.0)
    now_s[0] += watching.FIGURES_LATEST_S + 1
    assert pace.revision("a", 11, 5.0) == 11
    assert pace.revision("b", 11, 5.0) == 11  # another run does not wait


def test_sessions_that_poll_at_once_compute_once(store: Store) -> None:
    computed: list[int] = []

    @lru_cache
    def compute(of: Store, run_id: str, revision: int) -> str:
        computed.append(revision)
        time.sleep(0.05)
        return f"{run_id} at {revision}"

    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(watching.figures(store, "r", compute))) for _ in range(25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(computed) == 1 and len(answers) == 25 and len(set(answers)) == 1


def test_what_polls_show_is_drawn_once_a_revision_for_all_sessions(
    store: Store, live_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plots, drawn = results._plots, []
    monkeypatch.setattr(results, "_plots", lambda *what, **how: (drawn.append(what), plots(*what, **how)))
    now_s = [time.monotonic()]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now_s[0])
    sessions = [opened(PAGE) for _ in range(3)]
    for at in sessions:
        at.run()
    assert len(drawn) == 1
    for at in sessions:  # those that did not compute it show it too
        assert "round 3, at most 10" in at.get("progress")[0].proto.text
        assert len(at.get("vega_lite_chart")) == 3 and "Speed-up" in at.dataframe[0].value
    sessions[0].toggle(key=f"log-{live_run}").set_value(True).run()
    assert len(drawn) == 2
    store.set_state(live_run, "running")  # the revision moves, and what is drawn follows a little later
    sessions[1].run()
    assert len(drawn) == 2
    now_s[0] += 60
    for at in sessions[1:]:
        at.run()
        assert len(at.get("vega_lite_chart")) == 3
    assert len(drawn) == 3


def test_a_poll_waits_for_timed_passes_and_a_press_does_not(live_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Noted(Quiet):
        def wait(self, at_most_s: float) -> bool:
            waits.append(at_most_s)
            return super().wait(at_most_s)

    def poll() -> None:
        """Call the fragment again, as its timer does."""
        polled[0]()

    polled: list[Any] = []
    monkeypatch.setattr(live, "QUIET", Noted())
    monkeypatch.setattr(live.st, "fragment", lambda run_every: lambda draw: polled.append(draw) or draw)
    monkeypatch.setattr(live.st, "session_state", {})
    drawn: list[int] = []
    live._poll(lambda: drawn.append(1))
    assert (len(drawn), waits) == (1, [])  # the page itself is drawn at once
    poll()
    assert (len(drawn), waits) == (2, [live.WAIT_S])
    live.st.session_state["log-x"] = True
    poll()
    assert (len(drawn), len(waits)) == (3, 1)
    live.st.session_state["cancel pressed"] = ("x", 0.0)
    poll()
    assert (len(drawn), len(waits)) == (4, 1)


def test_a_poll_asks_for_a_longer_interval_once_there_are_many(live_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals: list[float] = []
    reruns: list[int] = []
    polled: list[Any] = []

    def fragment(run_every: float) -> Any:
        intervals.append(run_every)
        return lambda draw: polled.append(draw) or draw

    monkeypatch.setattr(live.st, "fragment", fragment)
    monkeypatch.setattr(live.st, "session_state", {})
    monkeypatch.setattr(live.st, "rerun", lambda: reruns.append(1))
    monkeypatch.setattr(watching, "viewers", lambda: 1)
    live._poll(lambda: None)
    polled[-1]()
    assert intervals == [3.0] and not reruns
    monkeypatch.setattr(watching, "viewers", lambda: 25)
    polled[-1]()
    assert reruns
    live._poll(lambda: None)
    assert intervals[-1] == watching.interval_s(25) > 14


def test_the_live_page_draws_progress_and_can_cancel(live_run: str) -> None:
    at = opened(PAGE)
    assert "Measuring" in texts(at)
    at.button(key="cancel").click().run()
    assert manager.jobs()._job.cancelled
