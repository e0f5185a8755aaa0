"""The base class of tasks, with their metrics and examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.core.errors import EarbenchError
from bench.core.scoring import Errors

Counts = Mapping[str, Errors]  # by metric name


class TaskError(EarbenchError):
    """A task is unknown or does not fit the model."""


@dataclass(frozen=True, slots=True)
class Metric:
    """An error rate."""

    name: str  # for columns: wer
    label: str  # for people: WER
    units: str  # the counted units: words


@dataclass(frozen=True, slots=True)
class Example:
    """A real example. `read` returns the input of `Family.prepare`; `target` is what should be predicted."""

    id: str
    digest: str | None  # SHA-256 of the file that it is read from
    read: Callable[[], Any]
    target: Any


class Task(ABC):
    """What a family predicts: transcription; later classification and language modelling."""

    NAME: ClassVar[str]
    VERB: ClassVar[str]  # for messages, what its models do: "transcribes speech"
    METRICS: ClassVar[tuple[Metric, ...]]  # the first is decisive

    @abstractmethod
    def count(self, target: Any, output: Any, normaliser: str) -> Counts:
        """Count the errors of one prediction."""

    @abstractmethod
    def output_from(self, stored: Any) -> Any:
        """Restore a prediction from the form that `to_json` wrote."""

    @abstractmethod
    def examples(self, where: str, limit: int) -> Sequence[Example]:
        """Return examples for calibration or tuning. `where` names their source, "" the shipped ones; `limit` 0: all.

        Raises EarbenchError.
        """
