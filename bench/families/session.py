"""Networks that an engine has opened, and how they are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from bench.families.network import Feed, Network


class Session(Protocol):
    """A network that runs, with its own state. Returns when the result exists."""

    def __call__(self, feed: Feed) -> Feed:
        """The free inputs by name -> the free outputs by name."""


class Opened(Protocol):
    """A network opened by an engine; sessions share its weights."""

    def start(self) -> Session:
        """A session with fresh state. One without state may be shared: its results are the caller's to keep."""


class FedBack:
    """A session that feeds a state back itself, over a network that was opened without one.

    `see` gets each whole feed, the state included: what static modes calibrate a network on.
    """

    def __init__(self, network: Network, stateless: Session, see: Callable[[Feed], None] = lambda feed: None) -> None:
        """`stateless` runs `network.stateless()`."""
        self._network, self._run, self._see = network, stateless, see
        self._state: dict[str, npt.NDArray[Any]] | None = None

    def __call__(self, feed: Feed) -> Feed:
        """See Session."""
        if self._state is None:
            self._state = self._network.first_state(feed)
        whole = {**feed, **self._state}
        self._see(whole)
        outputs = dict(self._run(whole))
        self._state = {name: outputs.pop(output) for output, name in self._network.state}
        return outputs


class Watched:
    """An opened network whose sessions feed their state back in the open."""

    def __init__(self, network: Network, stateless: Opened, see: Callable[[Feed], None]) -> None:
        """See FedBack."""
        self._network, self._stateless, self._see = network, stateless, see

    def start(self) -> Session:
        """See Opened."""
        return FedBack(self._network, self._stateless.start(), self._see)


class Timed:
    """Opened networks whose calls are timed: `seconds` grows by each, and by nothing else."""

    def __init__(self, networks: Mapping[str, Opened]) -> None:
        """Nothing has run."""
        self.seconds = 0.0
        self.networks: dict[str, Opened] = {name: _Timed(opened, self) for name, opened in networks.items()}


class _Timed:
    def __init__(self, opened: Opened, clock: Timed) -> None:
        self._opened, self._clock = opened, clock

    def start(self) -> Session:
        session = self._opened.start()

        def run(feed: Feed) -> Feed:
            begun = time.perf_counter()
            outputs = session(feed)
            self._clock.seconds += time.perf_counter() - begun
            return outputs

        return run
