"""Say when passes are timed, so that work that can wait does not take the processor from them.

The job's thread announces each visit. A visit begins with a discarded pass, and between two visits nothing is timed:
that is when other threads of this process do what they put off. The announcement itself never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

DISCARDED_RATIO = 0.5  # of the slowest pass so far: the discarded pass surely takes that long


class Quiet:
    """Whether passes are being timed now. Safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing is timed yet."""
        self._changed = threading.Condition()
        self._timed_from_s: float | None = None

    @contextmanager
    def visit(self, slowest_s: float) -> Iterator[None]:
        """Announce a visit for the time of the block; `slowest_s` is the slowest pass of its variant so far."""
        self._timed_from_s = time.monotonic() + DISCARDED_RATIO * slowest_s
        try:
            yield
        finally:
            with self._changed:
                self._timed_from_s = None
                self._changed.notify_all()

    @property
    def timing(self) -> bool:
        """Whether passes are being timed now."""
        timed_from_s = self._timed_from_s
        return timed_from_s is not None and time.monotonic() >= timed_from_s

    def wait(self, at_most_s: float) -> bool:
        """Wait until nothing is timed, or for so many seconds; returns whether nothing is timed."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.timing, at_most_s)


QUIET = Quiet()  # one per process, as there is one job at a time
