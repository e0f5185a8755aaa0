"""Convert a run to rows (one per cell, pass, part or step), and rows to CSV and JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench import modes
from bench.core.records import LOSS_CURVE, Device, Pass
from bench.core.stats import SAME, Interval
from bench.results.report import Cell, Report

Value = str | int | float | bool | None
Row = dict[str, Value]


def summary_rows(r: Report) -> list[Row]:
    """One row per cell: the figures of the lab, and further ones for experts."""
    return [_summary_row(r, c) for c in r.cells]


def _summary_row(r: Report, c: Cell) -> Row:
    v, s, baseline = c.record.variant, c.summary, c.is_baseline
    artefact, opening = c.record.artefact, c.record.opening
    speedup = SAME if baseline else c.speedup
    mode = modes.modes().get(v.mode)  # a stored run may have a mode that this version lacks
    return {
        "run_id": r.run.id,
        "device": r.run.device.name,
        "model": v.model,
        "mode": v.spelled,
        "engine": mode.SPEC.engine if mode else None,
        "threads": v.placement.threads,
        "batch": c.batch,
        r.run.spec.axis.column: c.size,
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
        "placement": str(v.placement),
        **{f"{phase}_mean_s": c.phases.get(phase) for phase in phase_names(r)},
    }


def phase_names(r: Report) -> list[str]:
    """The phases of a run's passes, in order of first occurrence."""
    return list(dict.fromkeys(name for c in r.cells for name in c.phases))


def raw_rows(r: Report) -> list[Row]:
    """One row per pass, in the order in which they ran."""
    rows, phases = [], phase_names(r)
    for group in r.groups:
        for visit in group.visits:
            v = r.run.spec.variants[visit.variant]
            for i, p in enumerate(visit.passes):
                row: Row = {
                    "run_id": r.run.id,
                    "device": r.run.device.name,
                    "model": v.model,
                    "mode": v.spelled,
                    "threads": v.placement.threads,
                    "batch": group.batch,
                    r.run.spec.axis.column: group.size,
                    "group": group.id,
                    "round": visit.round,
                    "position": visit.position,
                    "pass": i,
                    "kind": p.kind,
                    "seconds": p.seconds,
                    "started_s": visit.started_s,
                    **asdict(visit.reading),
                    **device_columns(r.run.device),
                    "placement": str(v.placement),
                    **{f"{name}_s": _phase_s(p, name) for name in phases},
                }
                rows.append(row)
    return rows


def _phase_s(p: Pass, phase: str) -> float | None:
    """Seconds of a phase, summed if it occurs several times in the pass; None if it does not occur."""
    seconds = [s for name, s in p.phases if name == phase]
    return sum(seconds) if seconds else None


def coverage_rows(r: Report) -> list[Row]:
    """One row per variant and part: what is quantized."""
    rows: list[Row] = []
    for record in r.variants:
        for part in record.coverage.parts if record.coverage else ():
            rows.append({"model": record.variant.model, "mode": record.variant.spelled, **asdict(part)})
    return list({json.dumps(row): row for row in rows}.values())  # placements share an artefact


def loss_rows(r: Report) -> list[Row]:
    """One row per tuned variant and training step, whatever the placement; values that are not finite are left out."""
    rows: list[Row] = []
    for record in r.variants:
        losses = record.artefact.details.get(LOSS_CURVE, "").split() if record.artefact else []
        for step, text in enumerate(losses, 1):
            with contextlib.suppress(ValueError):
                if math.isfinite(loss := float(text)):
                    mode = record.variant.spelled
                    rows.append({"model": record.variant.model, "mode": mode, "step": step, "loss": loss})
    return list({json.dumps(row): row for row in rows}.values())


def to_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """Format rows as CSV with one header row. Text that a spreadsheet would run as a formula is made inert."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _inert(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def to_json(r: Report) -> str:
    """The whole run: spec, device, artefacts, coverage, every pass that counts, failures, and the summary."""
    document = {
        "run": asdict(r.run),
        "variants": [asdict(v) for v in r.variants],
        "groups": [asdict(g) for g in r.groups],
        "failures": [asdict(f) for f in r.failures],
        "summary": summary_rows(r),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _interval(name: str, interval: Interval | None) -> Row:
    value, low, high = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    return {f"{name}_ratio": value, f"{name}_low": low, f"{name}_high": high}


def device_columns(d: Device) -> Row:
    """The columns of every CSV row that name the device and the versions it was measured with."""
    return {"device_id": d.id, "cpu": d.cpu, "os": d.os, **{f"{k}_version": v for k, v in d.versions.items()}}


def _inert(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv module leaves a lone \r unquoted
    return f"'{text}" if text[:1] in tuple("=+-@\t\n") else text
