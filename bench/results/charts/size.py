"""Charts of size on disk and of what is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt

from bench.results.charts.style import (
    BITS_COLOURS,
    FEW,
    MUTED,
    TABLE,
    Modes,
    Spec,
    filled,
    modes_colour,
    order_of,
    spec_of,
)
from bench.results.tables import Row


def size(rows: Sequence[Row]) -> Spec:
    """Bytes on disk, one bar per mode, labelled with the ratio to the baseline."""
    bars: dict[Any, dict[str, Any]] = {}
    for r in rows:
        if r["size_bytes"]:
            megabytes, ratio = float(r["size_bytes"]) / 1e6, float(r["size_ratio"] or 1)
            label = f"{megabytes:.1f} MB" + (f" · {ratio:.2f}×" if abs(ratio - 1) > 0.005 else "")
            bars[r["mode"]] = {"mode": r["mode"], "size_mb": megabytes, "label": label}
    top = max((v["size_mb"] for v in bars.values()), default=1.0)
    return filled(_size(order_of(rows), top), list(bars.values()))


@lru_cache(maxsize=32)
def _size(order: Modes, top: float) -> Spec:
    base = alt.Chart(TABLE).encode(
        y=alt.Y("mode:N", title="", sort=list(order), axis=alt.Axis(labelLimit=200)),
        x=alt.X("size_mb:Q", title="On disk, MB (10⁶ bytes)", scale=alt.Scale(domain=[0, 1.5 * top])),
    )
    bars = base.mark_bar().encode(color=modes_colour(order, legend=False))
    labels = base.mark_text(align="left", dx=6, color=MUTED, fontWeight=600).encode(text="label:N")
    subtitle = "all files that opening needs; ×: times smaller"
    return spec_of(
        bars + labels, "Size on disk", subtitle, (38 if len(order) <= FEW else 26) * len(order), legend=False
    )


def weights(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the weights by the bits they are stored in."""
    return _shares(rows, "weight_bits", "parameters", "Weights", "share of all weights by the bits that store one")


def work(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the multiply-accumulates by the bits of their input activations."""
    return _shares(rows, "activation_bits", "macs", "Work", "share of all multiply-accumulates by the bits they run in")


def _shares(rows: Sequence[Row], bits: str, amount: str, title: str, subtitle: str) -> Spec:
    sums: dict[str, dict[str, float]] = {}
    for r in rows:
        if r[bits] is not None and r[amount]:
            mode = sums.setdefault(str(r["mode"]), {})
            mode[f"{r[bits]} bit"] = mode.get(f"{r[bits]} bit", 0.0) + float(r[amount] or 0)
    values = [
        {"mode": mode, "bits": name, "share": part / sum(parts.values())}
        for mode, parts in sums.items()
        for name, part in parts.items()
    ]
    present = [b for b in BITS_COLOURS if any(v["bits"] == b for v in values)]
    colours = alt.Scale(domain=present, range=[BITS_COLOURS[b] for b in present])
    chart = alt.Chart(TABLE).mark_bar()
    chart = chart.encode(
        y=alt.Y("mode:N", title="", sort=list(order_of(rows)), axis=alt.Axis(labelLimit=200)),
        x=alt.X("share:Q", stack="zero", title="", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("bits:N", title="", scale=colours, legend=alt.Legend(orient="top")),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("bits:N", title="Precision"),
            alt.Tooltip("share:Q", title="Share", format=".1%"),
        ],
    )
    return filled(spec_of(chart, title, subtitle, 30 * len(order_of(rows))), values)
