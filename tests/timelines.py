"""Timelines of recorded runs, and their replay through the clock that forecasts a run while it runs.

`reference/timelines.json.gz` is a list of runs on one machine under changing load; see `reference/README.md`. Times are
in seconds since the run's start. `tests/perf/forecast.py --record` makes the file from data folders.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench.core.records import Run
from bench.core.specs import Placement, RunSpec, Variant
from bench.core.stats import StopRule
from bench.core.store import Store
from bench.jobs import predictor
from bench.jobs.history import History
from bench.jobs.predictor import Measured
from bench.jobs.progress import Clock, Remaining
from bench.jobs.rounds import Tally

PRODUCT_RATE = 4.7e10  # of the machine that the runs were recorded on, so that a replay guesses the same everywhere
FILE = Path(__file__).parent / "reference" / "timelines.json.gz"


@dataclass(frozen=True)
class Group:
    """A measured group."""

    model: str
    placement: Placement
    batch: int
    size: float
    variants: list[int]
    ended: str
    visits: list[tuple[int, int, float, float, list[float]]]  # variant, round, begin, end, kept passes


@dataclass(frozen=True)
class Timeline:
    """A recorded run."""

    name: str
    use: str  # "tune" or "judge"
    spec: RunSpec
    built: list[int]  # positions of the variants that were not in the cache
    earlier: History  # what was known on the device before it
    prepared_s: float  # when everything was built
    end_s: float
    groups: list[Group]


@dataclass(frozen=True)
class Moment:
    """What was forecast at one moment of a replay."""

    at_s: float
    remaining: Remaining
    eta_s: float | None  # as shown


def load(file: Path = FILE) -> list[Timeline]:
    """Read recorded runs."""
    return [_from_json(d) for d in json.loads(gzip.decompress(file.read_bytes()))]


def dump(timelines: list[dict[str, Any]], file: Path = FILE) -> None:
    """Write recorded runs."""
    file.write_bytes(gzip.compress(json.dumps(timelines, separators=(",", ":")).encode(), mtime=0))


def record(store: Store, run: Run, name: str, use: str, earlier: History) -> dict[str, Any]:
    """Describe a finished run as JSON."""
    assert run.started_s and run.finished_s
    start_s = run.created_s
    groups = []
    for g in store.groups(run.id):
        begins = [v.started_s for v in g.visits]
        ends = [*begins[1:], begins[-1] + sum(p.seconds for p in g.visits[-1].passes)]
        visits = [
            [v.variant, v.round, round(begin - start_s, 3), round(end - start_s, 3), [round(s, 6) for s in v.kept_s]]
            for v, begin, end in zip(g.visits, begins, ends, strict=True)
        ]
        groups.append([g.model, str(g.placement), g.batch, g.size, list(g.variants), g.ended, visits])
    spec = run.spec
    return {
        "name": name,
        "use": use,
        "spec": {
            "variants": [[v.model, v.spelled, str(v.placement)] for v in spec.variants],
            "sizes": spec.sizes,
            "batches": spec.batches,
            "repeats": spec.repeats,
            "precision_target": spec.precision_target,
        },
        "built": [i for i, v in enumerate(store.variants(run)) if v.artefact and not v.artefact.from_cache],
        "earlier": {
            "measured": [
                [m.variant.model, m.variant.spelled, str(m.variant.placement), m.batch, m.size, m.pass_s, m.spread]
                for m in earlier.measured
            ],
            "prepare_s": earlier.prepare_s,
            "open_s": earlier.open_s,
        },
        "prepared_s": round(run.started_s - start_s, 3),
        "end_s": round(run.finished_s - start_s, 3),
        "groups": groups,
    }


def replay(run: Timeline, extra_s: tuple[float, ...] = ()) -> Iterator[Moment]:
    """Feed a run to the runner's clock; yields its forecast after each visit, and at the `extra_s` times."""
    with mock.patch.object(predictor, "_product_rate", return_value=PRODUCT_RATE):
        yield from _replay(run, extra_s)


def _replay(run: Timeline, extra_s: tuple[float, ...]) -> Iterator[Moment]:
    now = [0.0]
    clock = Clock(
        run.spec,
        StopRule(run.spec.precision_target, run.spec.repeats),
        run.earlier,
        [run.spec.variants[p] for p in run.built],
        lambda: now[0],
    )
    yield Moment(0.0, clock.remaining(), clock.eta_s())
    waiting = sorted(extra_s)
    for at_s, happens in _events(run, clock):
        while waiting and waiting[0] <= at_s:
            now[0] = waiting.pop(0)
            yield Moment(now[0], clock.remaining(), clock.eta_s())
        now[0] = at_s
        happens()
        yield Moment(at_s, clock.remaining(), clock.eta_s())


def _events(run: Timeline, clock: Clock) -> Iterator[tuple[float, Callable[[], None]]]:
    """When what happens to the clock, in the order in which the runner tells it."""
    at_s, comparison = run.prepared_s, None
    for group in run.groups:
        key = (group.model, group.placement, group.batch, group.size)
        if key[:2] != comparison:
            comparison = key[:2]
            yield at_s, lambda c=comparison, g=group: clock.opening(c, g.variants)
        tally = Tally(group.variants[0], group.variants)
        yield group.visits[0][2], lambda k=key, t=tally: clock.begin(k, t)
        for i, (variant, number, _, at_s, kept_s) in enumerate(group.visits):
            tally.add(variant, number, kept_s)
            last_of_round = i + 1 == len(group.visits) or group.visits[i + 1][1] != number
            if last_of_round:

                def end_round(t: Tally = tally, g: Group = group) -> None:
                    t.end_round(g.variants)
                    clock.round_done()

                yield at_s, end_round
            else:
                yield at_s, lambda: None
        yield at_s, clock.end
    yield run.end_s, lambda: None


def _from_json(d: dict[str, Any]) -> Timeline:
    spec = d["spec"]
    variants = tuple(Variant.parse(model, mode, Placement.parse(p)) for model, mode, p in spec.pop("variants"))
    earlier = d["earlier"]
    measured = tuple(
        Measured(Variant.parse(model, mode, Placement.parse(p)), batch, size, pass_s, spread)
        for model, mode, p, batch, size, pass_s, spread in earlier["measured"]
    )
    groups = [
        Group(model, Placement.parse(placement), batch, size, variants, ended, [tuple(v) for v in visits])
        for model, placement, batch, size, variants, ended, visits in d["groups"]
    ]
    return Timeline(
        d["name"],
        d["use"],
        RunSpec(variants, tuple(spec.pop("sizes")), tuple(spec.pop("batches")), **spec),
        d["built"],
        History(measured, earlier["prepare_s"], earlier["open_s"]),
        d["prepared_s"],
        d["end_s"],
        groups,
    )
