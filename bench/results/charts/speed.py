"""Charts of latency and speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import altair as alt

from bench.core.specs import LENGTH, Axis
from bench.results.charts.style import (
    MUTED,
    ORIGINAL,
    PALETTES,
    TABLE,
    Modes,
    Spec,
    filled,
    legend_px,
    modes_colour,
    ms,
    order_of,
    spec_of,
)
from bench.results.tables import Row


def latency(rows: Sequence[Row], axis: Axis = LENGTH, *, log: bool = False) -> Spec:
    """Forward-pass latency against input size: one line per mode, with a band from the 5th to the 95th percentile."""
    points = [
        {
            "mode": r["mode"],
            axis.column: r[axis.column],
            **{f"{k}_ms": ms(r[f"{k}_s"]) for k in ("mean", "std", "p5", "p95")},
            "passes": r["passes"],
        }
        for r in rows
    ]
    return filled(
        _latency(order_of(rows), axis, tuple(sorted({float(str(r[axis.column])) for r in rows})), log), points
    )


def _tooltip(axis: Axis) -> alt.Tooltip:
    return alt.Tooltip(f"{axis.column}:Q", title=f"Input, {axis.unit or axis.name}")


@lru_cache(maxsize=32)
def _latency(order: Modes, axis: Axis, sizes: tuple[float, ...], log: bool) -> Spec:
    scale = alt.Scale(type="log" if log else "linear", zero=not log, nice=True)
    middle = alt.Scale(domain=[0, 2 * sizes[0]]) if len(sizes) == 1 and not log else scale
    few = len(sizes) <= 8  # a tick at every measured length
    ticks = alt.Axis(values=list(sizes), format="~f", grid=False) if few else alt.Axis(format="~f", grid=False)
    base = alt.Chart(TABLE).encode(
        x=alt.X(f"{axis.column}:Q", title=axis.title, scale=middle, axis=ticks),
        color=modes_colour(order),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            _tooltip(axis),
            alt.Tooltip("mean_ms:Q", title="Mean, ms", format=".1f"),
            alt.Tooltip("std_ms:Q", title="Standard deviation, ms", format=".1f"),
            alt.Tooltip("passes:Q", title="Passes"),
        ],
    )
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("p5_ms:Q", scale=scale, title=""), y2="p95_ms:Q")
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=alt.Y("p5_ms:Q", title=""), y2="p95_ms:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=60, filled=True), strokeWidth=2.5).encode(
        y=alt.Y("mean_ms:Q", scale=scale, title="One forward pass, ms")
    )
    return spec_of(
        band + whiskers + line,
        f"Latency against {axis.label.lower()}",
        "mean; band: 5th to 95th percentile",
        280 + legend_px(order),
    )


def speedup(rows: Sequence[Row], baseline: str, axis: Axis = LENGTH) -> Spec:
    """Speed-up over the baseline with its 95 % interval, one bar per mode and size."""
    keys = ("mode", axis.column, "speedup_ratio", "speedup_low", "speedup_high")
    bars = [
        {k: r[k] for k in keys} | {"input": axis.show(float(str(r[axis.column])))}
        for r in rows
        if r["speedup_ratio"] is not None
    ]
    top = max((float(r["speedup_ratio"] or 1) for r in bars), default=1.0)
    # Intervals are shown whole, except those of the first rounds, which can be very wide; the axis grows in steps.
    reach = min(3 * top, max((float(r["speedup_high"] or 1) for r in bars), default=1.0))
    end = math.ceil(max(1.35, 1.35 * top, 1.3 * reach) * 2) / 2
    return filled(_speedup(order_of(rows), axis, len({r[axis.column] for r in bars}), baseline, end), bars)


@lru_cache(maxsize=32)
def _speedup(order: Modes, axis: Axis, sizes: int, baseline: str, end: float) -> Spec:
    base = alt.Chart(TABLE).encode(
        y=alt.Y("mode:N", title="", sort=list(order), axis=alt.Axis(labelLimit=200)),
        yOffset=alt.YOffset(f"{axis.column}:O"),
        color=modes_colour(order, legend=False),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            _tooltip(axis),
            alt.Tooltip("speedup_ratio:Q", title="Speed-up", format=".2f"),
            alt.Tooltip("speedup_low:Q", title="95 % interval from", format=".2f"),
            alt.Tooltip("speedup_high:Q", title="to", format=".2f"),
        ],
    )
    x = alt.X(
        "speedup_ratio:Q",
        title=f"Times as fast as {baseline}",
        axis=alt.Axis(format="~g", titleAnchor="end"),
        scale=alt.Scale(domain=[0, end]),
    )
    bars = base.mark_bar(opacity=0.55).encode(x=x)
    whiskers = base.mark_bar(size=3, clip=True).encode(x=alt.X("speedup_low:Q", title=""), x2="speedup_high:Q")
    inputs = base.mark_text(align="right", fontSize=10).encode(x=alt.datum(end), text="input:N", color=alt.value(MUTED))
    one = alt.Chart(TABLE).mark_rule(strokeDash=[4, 4], color=MUTED).encode(x=alt.datum(1))
    height = (16 * sizes + 8) * len(order)
    subtitle = [f"bars: {axis.plural.lower()}; dashed: no change", "whiskers: 95 % confidence interval"]
    return spec_of(bars + whiskers + inputs + one, "Speed-up", subtitle, height, legend=False)


def split(rows: Sequence[Row], axis: Axis = LENGTH) -> Spec | None:
    """Where the speed-up comes from, one bar per mode at the longest input: the engine's share, then the precision's.

    The axis is logarithmic, so that the two lengths add up to the whole. None if no engine except the original's was
    measured, or its fp32 was not.
    """
    split_rows = [r for r in rows if r["engine_ratio"] and r["precision_ratio"]]
    longest = max((float(r[axis.column] or 0) for r in split_rows), default=0)
    bars = [
        {"mode": r["mode"], "of": of, "from": begin, "to": end, "ratio": end / begin}
        for r in split_rows
        if r[axis.column] == longest and r["speedup_ratio"] != 1
        for of, begin, end in (
            ("engine", 1.0, float(r["engine_ratio"] or 1)),
            (
                "precision",
                float(r["engine_ratio"] or 1),
                float(r["engine_ratio"] or 1) * float(r["precision_ratio"] or 1),
            ),
        )
    ]
    if not any(v["of"] == "engine" and v["to"] != 1 for v in bars):
        return None
    ends = [float(str(v[k])) for v in bars for k in ("from", "to")]
    reach = math.ceil(1.1 * max(ends)), min(1.0, math.floor(9 * min(ends)) / 10)
    return filled(
        _split(order_of([r for r in split_rows if r[axis.column] == longest]), axis.show(longest), *reach), bars
    )


@lru_cache(maxsize=32)
def _split(order: Modes, size: str, top: float, bottom: float) -> Spec:
    ticks = [t for t in (0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20) if bottom <= t <= top]
    base = alt.Chart(TABLE).encode(
        y=alt.Y("mode:N", title="", sort=list(order), axis=alt.Axis(labelLimit=240)),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("of:N", title="Share of"),
            alt.Tooltip("ratio:Q", title="Times as fast", format=".2f"),
        ],
    )
    x = alt.X(
        "from:Q",
        title="Times as fast as the original (logarithmic)",
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False),
        axis=alt.Axis(values=ticks, format="~g"),
    )
    colours = alt.Scale(domain=["engine", "precision"], range=[ORIGINAL, PALETTES["openvino"][1]])
    bars = base.mark_bar(height=12).encode(
        x=x, x2="to:Q", color=alt.Color("of:N", title="", scale=colours, legend=alt.Legend(orient="top"))
    )
    one = alt.Chart(TABLE).mark_rule(strokeDash=[4, 4], color=MUTED).encode(x=alt.datum(1))
    subtitle = [
        "engine: its own fp32 against the original; precision: the mode against that",
        f"{size} of input",
    ]
    return spec_of(bars + one, "Where the speed-up comes from", subtitle, 24 * len(order))
