"""Networks opened by an engine, and the sessions that run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from bench.families.network import Feed, Network


class Session(Protocol):
    """A callable network with its own state. It returns when the result exists (synchronised)."""

    def __call__(self, feed: Feed) -> Feed:
        """Free inputs by name -> free outputs by name."""


class Opened(Protocol):
    """A network opened by an engine; its sessions share the weights."""

    def start(self) -> Session:
        """Return a session with fresh state. One without state may be shared. The caller owns the results."""


class FedBack:
    """A session that feeds back the state itself, over a network opened by `Network.stateless`.

    `see` is called with each complete feed, state included: static modes calibrate a network on these feeds.
    """

    def __init__(self, network: Network, stateless: Session, see: Callable[[Feed], None] = lambda feed: None) -> None:
        """`stateless` runs `network.stateless()`."""
        self._network, self._run, self._see = network, stateless, see
        self._state: dict[str, npt.NDArray[Any]] | None = None

    def __call__(self, feed: Feed) -> Feed:
        """See Session."""
        if self._state is None:
            self._state = self._network.first_state(feed)
        full_feed = {**feed, **self._state}
        self._see(full_feed)
        outputs = dict(self._run(full_feed))
        self._state = {name: outputs.pop(output) for output, name in self._network.state}
        return outputs


class Watched:
    """An opened network whose sessions report each complete feed, state included."""

    def __init__(self, network: Network, stateless: Opened, see: Callable[[Feed], None]) -> None:
        """See FedBack."""
        self._network, self._stateless, self._see = network, stateless, see

    def start(self) -> Session:
        """See Opened."""
        return FedBack(self._network, self._stateless.start(), self._see)


class Timed:
    """Opened networks whose calls are timed: `seconds` is the total time of the calls alone."""

    def __init__(self, networks: Mapping[str, Opened]) -> None:
        """`seconds` starts at 0."""
        self.seconds = 0.0
        self.networks: dict[str, Opened] = {name: _Timed(opened, self) for name, opened in networks.items()}


class _Timed:
    def __init__(self, opened: Opened, clock: Timed) -> None:
        self._opened, self._clock = opened, clock

    def start(self) -> Session:
        session = self._opened.start()

        def run(feed: Feed) -> Feed:
            start_s = time.perf_counter()
            outputs = session(feed)
            self._clock.seconds += time.perf_counter() - start_s
            return outputs

        return run
