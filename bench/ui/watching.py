"""How often sessions poll a live job, and how often its figures are computed anew, whatever the number of viewers.

Every poll of every browser takes CPU time from the measurement: some 10 ms, nearly all of it within Streamlit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from streamlit import runtime

from bench.core.store import Store

T = TypeVar("T")
DrawnAt = tuple[str, str, int]  # database, run, revision: what is drawn from it is the same in every session

POLL_S = 3.0  # a single viewer's interval
POLLS_PER_S = 1.7  # of all viewers together
STEP = 1.5  # intervals are POLL_S times a power of this, so that one viewer more or less changes nothing
FIGURES_RATIO = 0.02  # of a core, for computing figures
FIGURES_LATEST_S = 30.0  # but figures are not older, whatever they cost


def viewers() -> int:
    """Number of browser sessions that are connected now; at least 1, and 1 where Streamlit does not tell."""
    try:
        count = runtime.get_instance()._session_mgr.num_active_sessions()
    except (AttributeError, RuntimeError):
        return 1
    return max(1, count) if isinstance(count, int) else 1


def interval_s(count: int) -> float:
    """Seconds between two polls of one of so many viewers."""
    interval = POLL_S
    while interval * POLLS_PER_S < count:
        interval *= STEP
    return interval


def outdated(interval: float, count: int) -> bool:
    """Whether a session that polls at this interval needs another one: a longer one at once, a shorter one by steps."""
    needed = interval_s(count)
    return needed > interval or needed * STEP * 1.01 < interval


class Pace:
    """Lets the revision that figures are drawn from move only so often. Safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing is drawn yet."""
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[int, float]] = {}  # run -> (revision, not to be replaced before)

    def revision(self, run_id: str, current: int, every_s: float) -> int:
        """The revision to draw a run from: the current one, or an earlier one that is not older than `every_s`."""
        now = time.monotonic()
        with self._lock:
            revision, until_s = self._shown.get(run_id, (-1, now))
            if revision == current or now < until_s:
                return revision
            self._shown = {run_id: (current, now + every_s)}
            return current

    def took(self, run_id: str, seconds: float) -> None:
        """Note the CPU time that computing a run's figures took: the longer, the later the next time."""
        delay_s = min(FIGURES_LATEST_S, seconds / FIGURES_RATIO)
        with self._lock:
            if run_id in self._shown:
                revision, until_s = self._shown[run_id]
                self._shown[run_id] = revision, max(until_s, time.monotonic() + delay_s)


_PACE = Pace()
_computing = threading.Lock()  # sessions that poll at the same moment compute once


def figures(store: Store, run_id: str, compute: Callable[[Store, str, int], T]) -> tuple[T, DrawnAt]:
    """A live run's figures as `compute` makes them for a revision, and what they were made from.

    `compute` remembers its results by its arguments.
    """
    with _computing:
        revision = _PACE.revision(run_id, store.revision(), interval_s(viewers()) / 2)
        start_s = time.thread_time()
        computed = compute(store, run_id, revision)
        _PACE.took(run_id, time.thread_time() - start_s)
    return computed, (str(store.path), run_id, revision)
