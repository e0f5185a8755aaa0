"""Outcomes: what an attempt with a variant returns, its result or a `Failure`.

A failure is a value of its own type, so that no caller reaches the result without handling it: mypy refuses the union.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from bench.core.records import Failure
from bench.core.store import Store
from bench.workers.client import WorkerError

T = TypeVar("T")


class Attempts:
    """Attempts with the variants of one run or evaluation. Every failure is stored when it happens."""

    def __init__(self, run_id: str, store: Store) -> None:
        """Nothing is attempted yet."""
        self._run_id, self._store = run_id, store

    def __call__(self, position: int, stage: str, call: Callable[[], T]) -> T | Failure:
        """Return what `call` returns, or its WorkerError as a failure of the variant at this position."""
        try:
            return call()
        except WorkerError as e:
            failure = Failure(position, stage, e.kind, str(e), e.log)
            self._store.add_failure(self._run_id, failure)
            return failure


def split(outcomes: Mapping[int, T | Failure]) -> tuple[dict[int, T], dict[int, Failure]]:
    """Return (results, failures), both by variant position."""
    results: dict[int, T] = {}
    failures: dict[int, Failure] = {}
    for position, outcome in outcomes.items():
        if isinstance(outcome, Failure):
            failures[position] = outcome
        else:
            results[position] = outcome
    return results, failures
