"""The state of a run as it stands, read without a lock: what a crash left is stored as live until the next start."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from bench.core import paths
from bench.core.lease import NAME, Lease
from bench.core.records import LIVE_STATES, Evaluation, Run
from bench.jobs.measure import INTERRUPTED

Record = TypeVar("Record", bound=Run | Evaluation)


def lease() -> Lease:
    """The lease of the data folder, not taken."""
    return Lease(paths.data_folder() / NAME)


def current(record: Record, lease: Lease) -> Record:
    """The record as it stands: interrupted, if it is stored as live and no process holds the lease."""
    if record.state not in LIVE_STATES or lease.holder():
        return record
    return replace(record, state="interrupted", message=INTERRUPTED)
