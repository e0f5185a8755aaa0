"""Store -> tables, CSV and JSON. Every statistic is computed here, when read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from bench import device, models, modes, stats
from bench.estimate import work
from bench.records import LIVE_STATES, LOSS_CURVE, Device, Failure, Group, Run, RunState, VariantRecord, Visit
from bench.stats import Interval, Summary
from bench.store import Store

BUSY_RATIO = 0.02  # CPU time of others above which a visit is flagged

_ONE = Interval(1.0, 1.0, 1.0, 0)
Value = str | int | float | bool | None
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant at one batch and length, with its figures."""

    position: int  # of the variant in the spec
    record: VariantRecord
    batch: int
    length_s: float
    group: Group
    summary: Summary
    cold_s: float | None
    speedup: Interval | None  # None for the baseline, and where the baseline failed
    # The same in two factors, where the engine's own fp32 was measured beside it: what the engine gives by itself
    # (baseline over the engine's fp32), and what the lower precision adds (the engine's fp32 over this mode).
    engine: Interval | None
    precision: Interval | None
    size_ratio: float | None
    peak_rss_bytes: int | None
    pss_bytes: int | None
    busy_visits: int  # during which others took more than BUSY_RATIO of the CPU
    visits: int
    temperature_c: float | None  # the highest seen
    clock_hz: float | None  # the lowest seen
    throttled_visits: int
    is_baseline: bool  # the variant that the others are compared with

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of computing per second of audio, of the whole batch."""
        return self.summary.mean_s / (self.length_s * self.batch)


@dataclass(frozen=True, slots=True)
class Report:
    """A run with everything computed from it."""

    run: Run
    variants: list[VariantRecord]
    groups: list[Group]
    cells: list[Cell]
    failures: list[Failure]


def report(store: Store, run_id: str) -> Report | None:
    """A run's figures, provisional while it is live; None where there is no such run.

    Computed once for all who ask while the store's revision stands.
    """
    return _report(store, run_id, store.revision())


@lru_cache(maxsize=8)
def _report(store: Store, run_id: str, revision: int) -> Report | None:
    with store.snapshot():
        run = store.run(run_id)
        if run is None:
            return None
        variants, groups, failures = store.variants(run), store.groups(run_id), store.failures(run_id)
    cells = [c for group in groups for c in _cells(run, group, variants)]
    unique: dict[tuple[int, int, float], Cell] = {}
    for c in cells:  # once, though memory made a baseline run in several blocks, or a variant died and was resumed
        key = (c.position, c.batch, c.length_s)
        if key not in unique or unique[key].visits < c.visits:
            unique[key] = c
    return Report(run, variants, groups, list(unique.values()), failures)


def rates(store: Store) -> dict[tuple[str, int], float]:
    """MAC/s that modes reached on this device, by mode and threads, from the newest finished run."""
    here = device.device()
    newest = next((x for x in store.runs() if x.state == "done" and x.device.id == here.id), None)
    found = report(store, newest.id) if newest else None
    return {
        (c.record.variant.spelled, c.record.variant.threads): work(c.record.variant.model, c.batch, c.length_s)
        / c.summary.median_s
        for c in (found.cells if found else ())
        if models.exists(c.record.variant.model)
    }


def _cells(run: Run, group: Group, variants: Sequence[VariantRecord]) -> Iterable[Cell]:
    by_variant: dict[int, list[Visit]] = {}
    for v in group.visits:
        by_variant.setdefault(v.variant, []).append(v)
    family = next(f for f in run.spec.families.values() if group.variants[0] in f)
    baseline = family[0]
    medians = {p: {v.round: statistics.median(v.kept_s) for v in vs} for p, vs in by_variant.items()}
    base_artefact = variants[baseline].artefact
    floats = {p: f for p in family if (f := _float_of(run, family, p)) in by_variant}

    def split(slow: int, fast: int) -> Interval | None:
        return _ONE if slow == fast else stats.speedup(medians.get(slow, {}), medians[fast])

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
            length_s=group.length_s,
            group=group,
            summary=summary,
            cold_s=next((p.seconds for v in visits for p in v.passes if p.kind == "cold"), None),
            speedup=stats.speedup(medians.get(baseline, {}), medians[position]) if position != baseline else None,
            engine=split(baseline, floats[position]) if position in floats else None,
            precision=split(floats[position], position) if position in floats else None,
            size_ratio=base_artefact.size_bytes / artefact.size_bytes if base_artefact and artefact else None,
            peak_rss_bytes=_highest(r.peak_rss_bytes for r in readings),
            pss_bytes=_highest(r.pss_bytes for r in readings),
            busy_visits=sum((r.others_cpu_ratio or 0) > BUSY_RATIO for r in readings),
            visits=len(visits),
            temperature_c=_highest(r.temperature_c for r in readings),
            clock_hz=min((r.clock_hz for r in readings if r.clock_hz is not None), default=None),
            throttled_visits=sum(r.throttled is True for r in readings),
            is_baseline=position == baseline,
        )


def _float_of(run: Run, family: Sequence[int], position: int) -> int | None:
    """The variant that runs the same engine in fp32, by position; None where there is none or the mode is gone."""
    known = modes.modes()
    mode = known.get(run.spec.variants[position].mode)
    wanted = mode and f"{mode.ENGINE}-fp32"
    return next((p for p in family if run.spec.variants[p].mode == wanted), None)


def summary_rows(r: Report) -> list[Row]:
    """One row a cell: what the lab asks for, and what an expert wants to know beside it."""
    return [_summary_row(r, c) for c in r.cells]


def _summary_row(r: Report, c: Cell) -> Row:
    v, s, baseline = c.record.variant, c.summary, c.is_baseline
    artefact, opening = c.record.artefact, c.record.opening
    speedup = _ONE if baseline else c.speedup
    known = modes.modes()  # a stored run may have a mode of another Earbench
    return {
        "run_id": r.run.id,
        "device": r.run.device.name,
        "model": v.model,
        "mode": v.spelled,
        "engine": known[v.mode].ENGINE if v.mode in known else None,
        "threads": v.threads,
        "batch": c.batch,
        "length_s": c.length_s,
        "passes": s.passes,
        "cold_s": c.cold_s,
        "mean_s": s.mean_s,
        "std_s": s.std_s,
        "median_s": s.median_s,
        "p5_s": s.p5_s,
        "p95_s": s.p95_s,
        "iqr_ratio": s.iqr_ratio,
        "outliers": s.outliers,
        **_interval("speedup", speedup),
        **_interval("engine", c.engine),
        **_interval("precision", c.precision),
        "rounds": len({x.round for x in c.group.visits}),
        "ended": c.group.ended,
        "rtf": c.rtf,
        "size_bytes": artefact.size_bytes if artefact else None,
        "size_ratio": c.size_ratio,
        "load_s": opening.load_s if opening else None,
        "open_peak_rss_bytes": opening.peak_rss_bytes if opening else None,
        "peak_rss_bytes": c.peak_rss_bytes,
        "pss_bytes": c.pss_bytes,
        "busy_visits": c.busy_visits,
        "visits": c.visits,
        "throttled_visits": c.throttled_visits,
        "temperature_c": c.temperature_c,
        "clock_hz": c.clock_hz,
        "build_s": artefact.build_s if artefact else None,
        "checkpoint": artefact.checkpoint if artefact else None,
        "input": r.run.spec.input_kind,
        "seed": r.run.spec.seed,
        **device_columns(r.run.device),
    }


def raw_rows(r: Report) -> list[Row]:
    """One row a pass, in the order in which they ran."""
    rows = []
    for group in r.groups:
        for visit in group.visits:
            v = r.run.spec.variants[visit.variant]
            for i, p in enumerate(visit.passes):
                row: Row = {
                    "run_id": r.run.id,
                    "device": r.run.device.name,
                    "model": v.model,
                    "mode": v.spelled,
                    "threads": v.threads,
                    "batch": group.batch,
                    "length_s": group.length_s,
                    "group": group.id,
                    "round": visit.round,
                    "position": visit.position,
                    "pass": i,
                    "kind": p.kind,
                    "seconds": p.seconds,
                    "started_s": visit.started_s,
                    **asdict(visit.reading),
                    **device_columns(r.run.device),
                }
                rows.append(row)
    return rows


def coverage_rows(r: Report) -> list[Row]:
    """One row a variant and part: what is quantized."""
    rows: list[Row] = []
    for record in r.variants:
        for part in record.coverage.parts if record.coverage else ():
            rows.append({"model": record.variant.model, "mode": record.variant.spelled, **asdict(part)})
    return list({json.dumps(row): row for row in rows}.values())  # thread counts share an artefact


def loss_rows(r: Report) -> list[Row]:
    """One row a variant that was tuned and a step of it, thread counts aside; what is no number is left out."""
    rows: list[Row] = []
    for record in r.variants:
        told = record.artefact.details.get(LOSS_CURVE, "").split() if record.artefact else []
        for step, text in enumerate(told, 1):
            with contextlib.suppress(ValueError):
                if math.isfinite(loss := float(text)):
                    mode = record.variant.spelled
                    rows.append({"model": record.variant.model, "mode": mode, "step": step, "loss": loss})
    return list({json.dumps(row): row for row in rows}.values())


def to_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """Comma-separated text with one header row. Text that a spreadsheet would run as a formula is made inert."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _inert(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def to_json(r: Report) -> str:
    """The whole run: spec, device, artefacts, coverage, every pass that counts, failures, and the summary."""
    whole = {
        "run": asdict(r.run),
        "variants": [asdict(v) for v in r.variants],
        "groups": [asdict(g) for g in r.groups],
        "failures": [asdict(f) for f in r.failures],
        "summary": summary_rows(r),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)


def when(seconds: float) -> str:
    """A moment for people, in the device's own time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def state(now: RunState) -> str:
    """For a table that is drawn once: live states change meanwhile."""
    return "under way" if now in LIVE_STATES else now


def label(run: Run, position: int) -> str:
    """A variant's name within its run: the mode, and what else tells it from the others."""
    v, vs = run.spec.variants[position], run.spec.variants
    more = [v.model] if len({x.model for x in vs}) > 1 else []
    more += [f"{v.threads} threads"] if len({x.threads for x in vs}) > 1 else []
    return ", ".join([v.spelled, *more])


def title(run: Run) -> str:
    """A run in a line: when and what."""
    models = ", ".join(dict.fromkeys(v.model for v in run.spec.variants))
    count = len(dict.fromkeys(v.spelled for v in run.spec.variants))
    return f"{when(run.created_s)} · {models} · {count} mode{'s' if count > 1 else ''}"


def _interval(name: str, i: Interval | None) -> Row:
    value, low, high = (i.value, i.low, i.high) if i else (None, None, None)
    return {f"{name}_ratio": value, f"{name}_low": low, f"{name}_high": high}


def device_columns(d: Device) -> Row:
    """What every row of a CSV says of where it was measured, and with what."""
    return {"device_id": d.id, "cpu": d.cpu, "os": d.os, **{f"{k}_version": v for k, v in d.versions.items()}}


def _inert(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv module leaves a lone \r unquoted
    return f"'{text}" if text[:1] in tuple("=+-@\t\n") else text


def _highest(values: Iterable[Any]) -> Any:
    return max((v for v in values if v is not None), default=None)
