"""Charts of an evaluation: accuracy against time, and differences from the original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import altair as alt

from bench.results.charts.style import (
    MUTED,
    TABLE,
    Modes,
    Spec,
    filled,
    legend_px,
    modes_colour,
    ms,
    order_of,
    percent,
    spec_of,
)
from bench.results.tables import Row


def tradeoff(rows: Sequence[Row], against: str = "mean_s") -> Spec:
    """WER against time: one disc per variant, its area the size on disk; a ring marks variants that no other one beats.

    `rows` are those of an evaluation, with `unbeaten`; `against` is mean_s or rtf.
    """
    largest = max((float(r["size_bytes"] or 0) for r in rows), default=0.0) or 1.0
    points = [
        {
            "mode": r["mode"],
            "model": r["model"],
            "time": ms(r["mean_s"]) if against == "mean_s" else r["rtf"],
            **{f"{k}_percent": percent(r[k]) for k in ("wer", "wer_low", "wer_high")},
            "size_mb": float(r["size_bytes"] or 0) / 1e6,
            "area": (area := 60 + 840 * float(r["size_bytes"] or 0) / largest),
            "ring": (area**0.5 + 7) ** 2,
            "unbeaten": r["unbeaten"],
        }
        for r in rows
        if r["wer"] is not None and r[against] is not None
    ]
    end = 1.25 * max((float(str(v["time"])) for v in points), default=1.0)
    several_models = len({v["model"] for v in points}) > 1
    return filled(_tradeoff(order_of(rows), against, end, several_models), points)


@lru_cache(maxsize=32)
def _tradeoff(order: Modes, against: str, end: float, several_models: bool) -> Spec:
    title = "Mean time of a clip, ms" if against == "mean_s" else "Real-time factor"
    base = alt.Chart(TABLE).encode(
        x=alt.X("time:Q", title=title, scale=alt.Scale(domain=[0, end])),
        tooltip=[
            *([alt.Tooltip("model:N", title="Model")] if several_models else []),
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("wer_percent:Q", title="WER, %", format=".1f"),
            alt.Tooltip("wer_low_percent:Q", title="95 % interval from", format=".1f"),
            alt.Tooltip("wer_high_percent:Q", title="to", format=".1f"),
            alt.Tooltip("time:Q", title=title, format=".1f" if against == "mean_s" else ".3f"),
            alt.Tooltip("size_mb:Q", title="On disk, MB", format=".1f"),
        ],
    )
    y = alt.Y("wer_percent:Q", title="WER, %", scale=alt.Scale(zero=False, nice=True))
    shape = {"shape": alt.Shape("model:N", title="", legend=alt.Legend(orient="top"))} if several_models else {}
    ring = base.transform_filter("datum.unbeaten").mark_point(filled=False, color=MUTED, strokeWidth=2)
    ring = ring.encode(y=y, size=alt.Size("ring:Q", scale=None), **shape)
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        y=alt.Y("wer_low_percent:Q", title=""), y2="wer_high_percent:Q", color=modes_colour(order)
    )
    discs = base.mark_point(filled=True, opacity=0.75).encode(
        y=y, size=alt.Size("area:Q", scale=None), color=modes_colour(order), **shape
    )
    subtitle = [
        "area: size on disk; whiskers: 95 % interval",
        "ringed: no other is better in WER, time and size at once",
    ]
    return spec_of(whiskers + ring + discs, "Accuracy against time", subtitle, 300 + legend_px(order))


def deltas(rows: Sequence[Row], baseline: str) -> Spec:
    """Each variant's WER minus its baseline's, in points, with its 95 % interval and a line at zero.

    `rows` are those of an evaluation, with `label`.
    """
    bars = [
        {
            "mode": r["mode"],
            "label": r["label"],
            **{k.removeprefix("wer_"): percent(r[k]) for k in ("wer_delta", "wer_delta_low", "wer_delta_high")},
        }
        for r in rows
        if r["wer_delta"] is not None and not r["is_baseline"]
    ]
    reach = max((abs(float(str(v[k]))) for v in bars for k in ("delta", "delta_low", "delta_high") if v[k]), default=1)
    end = math.ceil(2.2 * max(reach, 0.25)) / 2  # the axis grows in steps, zero in its middle
    return filled(_deltas(order_of(rows), tuple(str(v["label"]) for v in bars), baseline, end), bars)


@lru_cache(maxsize=32)
def _deltas(order: Modes, labels: Modes, baseline: str, end: float) -> Spec:
    base = alt.Chart(TABLE).encode(
        y=alt.Y("label:N", title="", sort=list(labels), axis=alt.Axis(labelLimit=200)),
        color=modes_colour(order, legend=False),
        tooltip=[
            alt.Tooltip("label:N", title="Mode"),
            alt.Tooltip("delta:Q", title="Difference, points", format="+.2f"),
            alt.Tooltip("delta_low:Q", title="95 % interval from", format="+.2f"),
            alt.Tooltip("delta_high:Q", title="to", format="+.2f"),
        ],
    )
    x = alt.X(
        "delta:Q",
        title="Difference in WER, points",
        scale=alt.Scale(domain=[-end, end]),
        axis=alt.Axis(format="+~f"),
    )
    bars = base.mark_bar(opacity=0.55).encode(x=x)
    whiskers = base.mark_rule(strokeWidth=3).encode(x=alt.X("delta_low:Q", title=""), x2="delta_high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    zero = alt.Chart(TABLE).mark_rule(strokeDash=[4, 4], color=MUTED).encode(x=alt.datum(0))
    subtitle = ["right of the line: more errors", "whiskers: 95 % interval, paired by clip"]
    return spec_of(
        bars + whiskers + dots + zero, f"Difference to {baseline}", subtitle, 48 * len(labels) + 20, legend=False
    )
