"""The jobs: work in a background thread that pages watch and cancel. One is live at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from bench.core.specs import EvaluationSpec, RunSpec
from bench.jobs.benchmark import Progress
from bench.workers.client import Pool

Kind = Literal["benchmark", "evaluation", "transcription"]
NOUNS: dict[Kind, str] = {
    "benchmark": "A benchmark",
    "evaluation": "An evaluation",
    "transcription": "A transcription",
}


class Job(ABC):
    """Work of this process that is live, or was."""

    def __init__(self, id: str, kind: Kind) -> None:
        """`id` is the run's, the evaluation's or the recording's. The thread starts with `start`."""
        self.id, self.kind = id, kind
        self.progress = Progress()
        self._thread: threading.Thread | None = None

    @property
    def noun(self) -> str:
        """The kind of job, as the start of a sentence."""
        return NOUNS[self.kind]

    def busy(self, doing: str) -> str:
        """Why `doing` must wait while it is live, as a sentence; `doing` is a noun, such as "a transcription"."""
        return f"{self.noun} is under way, and {doing} beside it would spoil its times. Wait for it, or cancel it."

    @property
    def refusal(self) -> str:
        """Why nothing else can start while it is live, as a sentence."""
        return (
            f"{self.noun} is under way, and two at once would disturb each other: nothing else was started. Wait for "
            "it to end, or cancel it, then start again."
        )

    @property
    def live(self) -> bool:
        """Whether its thread still runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether it was asked to end."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask it to end: its workers are killed."""

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread of its own."""
        self._thread = threading.Thread(target=work, name=f"{self.kind} {self.id}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for it to end; False if it still runs after the timeout."""
        if self._thread:
            self._thread.join(timeout_s)
        return not self.live


class Measurement(Job):
    """A benchmark or an evaluation."""

    def __init__(self, id: str, kind: Literal["benchmark", "evaluation"], spec: RunSpec | EvaluationSpec) -> None:
        """`spec` is the request, as it was made."""
        super().__init__(id, kind)
        self.spec, self.pool = spec, Pool()
        self.cut_off = False  # cancelled by the end of this process, not by a person

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end."""
        return self.pool.cancelled

    def cancel(self) -> None:
        """Ask it to end: its workers are killed, and what was measured is kept."""
        self.pool.cancel()
