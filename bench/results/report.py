"""A run with all figures computed from its stored passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench import modes
from bench.core import stats
from bench.core.records import LIVE_STATES, Failure, Group, Run, RunState, VariantRecord, Visit
from bench.core.stats import SAME, Interval, Summary
from bench.core.store import Store

BUSY_SHARE = 0.25  # of the visits: more of them beside busy programs, and a run's figures are doubted
BUSY_RATIO = 0.02  # CPU time of other processes above which a visit is flagged


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant at one batch and size, with its figures."""

    position: int  # of the variant in the spec
    record: VariantRecord
    batch: int
    size: float  # of an input, on the run's axis
    group: Group
    summary: Summary
    cold_s: float | None
    speedup: Interval | None  # None for the baseline, and if the baseline failed
    # The speed-up as two factors, if the engine's own fp32 was measured beside it: the engine's share (baseline over
    # the engine's fp32), and the precision's share (the engine's fp32 over this mode).
    engine: Interval | None
    precision: Interval | None
    size_ratio: float | None
    peak_rss_bytes: int | None
    pss_bytes: int | None
    busy_visits: int  # during which other processes took more than BUSY_RATIO of the CPU
    visits: int
    temperature_c: float | None  # the highest seen
    clock_hz: float | None  # the lowest seen
    throttled_visits: int
    is_baseline: bool  # the variant that the others are compared with
    rtf: float | None  # real-time factor: seconds of computing per second of input; None if inputs have no length
    phases: dict[str, float]  # mean seconds of each phase of a kept pass, if the family has several


@dataclass(frozen=True, slots=True)
class Report:
    """A run with everything computed from it."""

    run: Run
    variants: list[VariantRecord]
    groups: list[Group]
    cells: list[Cell]
    failures: list[Failure]

    @property
    def busy(self) -> tuple[int, int] | None:
        """(visits beside busy programs, all visits) if they are too many to rely on the figures, else None."""
        busy, visits = sum(c.busy_visits for c in self.cells), sum(c.visits for c in self.cells)
        return (busy, visits) if busy > BUSY_SHARE * visits else None


def report(store: Store, run_id: str) -> Report | None:
    """Compute a run's figures, provisional while it is live; None if there is no such run.

    Cached for all callers until the store's revision changes.
    """
    return report_at(store, run_id, store.revision())


@lru_cache(maxsize=8)
def report_at(store: Store, run_id: str, revision: int) -> Report | None:
    """The figures as first computed at this revision, even if the store has a newer one by now."""
    with store.snapshot():
        run = store.run(run_id)
        if run is None:
            return None
        variants, groups, failures = store.variants(run), store.groups(run_id), store.failures(run_id)
    cells = [c for group in groups for c in _cells(run, group, variants)]
    unique: dict[tuple[int, int, float], Cell] = {}
    for c in cells:  # one each, even if a baseline ran in several blocks, or a variant failed and was resumed
        key = (c.position, c.batch, c.size)
        if key not in unique or unique[key].visits < c.visits:
            unique[key] = c
    return Report(run, variants, groups, list(unique.values()), failures)


def _cells(run: Run, group: Group, variants: Sequence[VariantRecord]) -> Iterable[Cell]:
    by_variant: dict[int, list[Visit]] = {}
    for v in group.visits:
        by_variant.setdefault(v.variant, []).append(v)
    compared = next(ps for ps in run.spec.comparisons.values() if group.variants[0] in ps)
    baseline = compared[0]
    medians = {p: {v.round: statistics.median(v.kept_s) for v in vs} for p, vs in by_variant.items()}
    base_artefact = variants[baseline].artefact
    float_references = {p: f for p in compared if (f := _float_of(run, compared, p)) in by_variant}

    def split(slow: int, fast: int) -> Interval | None:
        return SAME if slow == fast else stats.speedup(medians.get(slow, {}), medians[fast])

    for position in group.variants:
        visits = by_variant.get(position, [])
        summary = stats.summarise([s for v in visits for s in v.kept_s])
        if summary is None:
            continue
        artefact = variants[position].artefact
        readings = [v.reading for v in visits]
        yield Cell(
            position=position,
            record=variants[position],
            batch=group.batch,
            size=group.size,
            group=group,
            summary=summary,
            cold_s=next((p.seconds for v in visits for p in v.passes if p.kind == "cold"), None),
            speedup=stats.speedup(medians.get(baseline, {}), medians[position]) if position != baseline else None,
            engine=split(baseline, float_references[position]) if position in float_references else None,
            precision=split(float_references[position], position) if position in float_references else None,
            size_ratio=base_artefact.size_bytes / artefact.size_bytes if base_artefact and artefact else None,
            peak_rss_bytes=_highest(r.peak_rss_bytes for r in readings),
            pss_bytes=_highest(r.pss_bytes for r in readings),
            busy_visits=sum((r.others_cpu_ratio or 0) > BUSY_RATIO for r in readings),
            visits=len(visits),
            temperature_c=_highest(r.temperature_c for r in readings),
            clock_hz=min((r.clock_hz for r in readings if r.clock_hz is not None), default=None),
            throttled_visits=sum(r.throttled is True for r in readings),
            is_baseline=position == baseline,
            rtf=summary.mean_s / (group.size * group.batch) if run.spec.axis.unit == "s" else None,
            phases=_phases(visits),
        )


def _float_of(run: Run, compared: Sequence[int], position: int) -> int | None:
    """Position of the variant that runs the same engine in fp32; None if there is none or the mode no longer exists."""
    mode = modes.modes().get(run.spec.variants[position].mode)
    return next((p for p in compared if mode and run.spec.variants[p].mode == mode.SPEC.float_reference), None)


def _phases(visits: Sequence[Visit]) -> dict[str, float]:
    """Mean seconds of each phase over the kept passes; a phase that occurs several times in a pass is summed."""
    kept = [p for v in visits for p in v.passes if p.kind == "kept" and p.phases]
    sums: dict[str, float] = {}
    for p in kept:
        for name, seconds in p.phases:
            sums[name] = sums.get(name, 0.0) + seconds
    return {name: seconds / len(kept) for name, seconds in sums.items()}


def when(seconds: float) -> str:
    """Format a time (Unix seconds) in the device's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def state(now: RunState) -> str:
    """A run's state for a table that is drawn once; live states, which change meanwhile, become one."""
    return "under way" if now in LIVE_STATES else now


def label(run: Run, position: int) -> str:
    """A variant's name within its run: the mode, with model and placement if they differ between variants."""
    v, vs = run.spec.variants[position], run.spec.variants
    more = [v.model] if len({x.model for x in vs}) > 1 else []
    more += [v.placement.label] if len({x.placement for x in vs}) > 1 else []
    return ", ".join([v.spelled, *more])


def title(run: Run) -> str:
    """One line that names a run: when and what."""
    models = ", ".join(dict.fromkeys(v.model for v in run.spec.variants))
    count = len(dict.fromkeys(v.spelled for v in run.spec.variants))
    return f"{when(run.created_s)} · {models} · {count} mode{'s' if count > 1 else ''}"


def _highest(values: Iterable[Any]) -> Any:
    return max((v for v in values if v is not None), default=None)
