"""What earlier runs on this device say about the next one: its speed, its noise, and how long starting takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bench.core.errors import EarbenchError
from bench.core.records import Group, Run
from bench.core.store import Store
from bench.device import host
from bench.families import catalogue
from bench.jobs.predictor import Measured
from bench.jobs.rounds import Tally

RUNS = 6  # the newest ones that are read
LONGEST_START_S = 1800.0  # per variant; what took longer was no start


@dataclass(frozen=True, slots=True)
class History:
    """What earlier runs measured, the newest first. Seconds are per variant; None if no run says."""

    measured: tuple[Measured, ...] = ()
    prepare_s: float | None = None  # from the start until all variants are at hand, if none had to be built
    open_s: float | None = None  # from then until they are open


def of(store: Store, before_s: float = math.inf) -> History:
    """The history of this device in a store, from the newest runs that were finished here before a time."""
    device_id, imported = host.device().id, store.imported()
    runs = [
        run
        for run in store.runs()
        if run.state == "done"
        and run.device.id == device_id
        and run.id not in imported
        and run.finished_s
        and run.finished_s < before_s
    ]
    return _joined([_run_history(store, run.id) for run in runs[:RUNS]])


def _joined(histories: Sequence[History]) -> History:
    prepare = [h.prepare_s for h in histories if h.prepare_s is not None]
    opening = [h.open_s for h in histories if h.open_s is not None]
    return History(
        tuple(m for h in histories for m in h.measured),
        statistics.median(prepare) if prepare else None,
        statistics.median(opening) if opening else None,
    )


@lru_cache(maxsize=4 * RUNS)
def _run_history(store: Store, run_id: str) -> History:
    """A finished run does not change, so it is read once. One that can't be read says nothing."""
    try:
        with store.snapshot():
            return _read(store, run_id)
    except EarbenchError:
        return History()


def _read(store: Store, run_id: str) -> History:
    run, all_groups = store.run(run_id), store.groups(run_id, superseded=True)
    if run is None:  # it was deleted just now
        return History()
    groups = [g for g in all_groups if g.visits and g.state != "superseded"]
    measured = tuple(m for g in groups for m in _measured(run, g) if catalogue.exists(m.variant.model))
    if run.started_s is None or not groups or any(g.state == "superseded" for g in all_groups):
        return History(measured)  # a resumed run was started twice: its times of starting say nothing
    artefacts = [v.artefact for v in store.variants(run)]
    built = any(a and not a.from_cache for a in artefacts)
    prepare_s = (run.started_s - run.created_s) / len(artefacts)
    open_s = (min(v.started_s for v in groups[0].visits) - run.started_s) / len(groups[0].variants)
    return History(measured, None if built else _plausible(prepare_s), _plausible(open_s))


def _plausible(seconds: float) -> float | None:
    """None for a time that a clock was set in, or that a run waited to be resumed in."""
    return seconds if 0 < seconds < LONGEST_START_S else None


def _measured(run: Run, group: Group) -> list[Measured]:
    compared = next(ps for ps in run.spec.comparisons.values() if group.variants[0] in ps)
    tally = Tally(compared[0], group.variants)
    for visit in group.visits:
        tally.add(visit.variant, visit.round, visit.kept_s)
    return tally.measured(run.spec, group.batch, group.size)
