"""What a task offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.core.errors import EarbenchError
from bench.core.scoring import Errors

Counts = Mapping[str, Errors]  # by the name of the metric


class TaskError(EarbenchError):
    """A task can't be done with this model."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A rate of errors."""

    name: str  # of columns: wer
    label: str  # for people: WER
    units: str  # what is counted: words


@dataclass(frozen=True, slots=True)
class Example:
    """A real example. `read` gives what `Family.prepare` takes; `target` is what should be predicted."""

    id: str
    digest: str | None  # SHA-256 of what it is read from
    read: Callable[[], Any]
    target: Any


class Task(ABC):
    """What a family predicts: transcription; later classification and language modelling."""

    NAME: ClassVar[str]
    VERB: ClassVar[str]  # what its models do, for messages: "transcribes speech"
    METRICS: ClassVar[tuple[Metric, ...]]  # the first one decides

    @abstractmethod
    def count(self, target: Any, output: Any, normaliser: str) -> Counts:
        """The errors of one prediction."""

    @abstractmethod
    def output_from(self, stored: Any) -> Any:
        """A prediction from what `to_json` wrote of it."""

    @abstractmethod
    def examples(self, where: str, limit: int) -> Sequence[Example]:
        """Examples to calibrate or to tune on: `where` names them, "" the ones at hand; `limit` 0: all.

        Raises EarbenchError.
        """
