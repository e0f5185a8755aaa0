"""Tables -> charts, as Vega-Lite specifications. Pure: no streamlit, no store.

A mode keeps its colour on every page: its place in the list of modes is its place in the palette. Grey is the original.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt

from bench import modes
from bench.report import Row

# Grey for the original, then hues that stay apart for colour-blind eyes, on light and dark ground (after Okabe, Ito).
PALETTE = ("#8b929c", "#3f8fd2", "#e07b28", "#1fa187", "#c4589f", "#b8960c", "#d1495b", "#6c6cc9", "#5a9e3f", "#a0694b")
# Precisions have a hue of their own, so that no one takes them for a mode.
BITS_COLOURS = {"32 bit": "#8b929c", "16 bit": "#a99be0", "8 bit": "#7a5cc4", "4 bit": "#52309e"}
_MUTED = "#76808c"  # legible on light and on dark ground
_TABLE = alt.Data(name="table")
Spec = dict[str, Any]
Modes = tuple[str, ...]


def mode_colour(mode: str) -> str:
    """The colour of a mode, the same everywhere."""
    known = list(modes.modes())
    return PALETTE[known.index(mode) % len(PALETTE)] if mode in known else PALETTE[-1]


def latency(rows: Sequence[Row], *, log: bool = False) -> Spec:
    """Forward-pass latency against input length: a line a mode, the band from the 5th to the 95th percentile."""
    shown = [
        {
            "mode": r["mode"],
            "length_s": r["length_s"],
            **{f"{k}_ms": _ms(r[f"{k}_s"]) for k in ("mean", "std", "p5", "p95")},
            "passes": r["passes"],
        }
        for r in rows
    ]
    return _filled(_latency(_order(rows), tuple(sorted({float(str(r["length_s"])) for r in rows})), log), shown)


@lru_cache(maxsize=32)
def _latency(order: Modes, lengths_s: tuple[float, ...], log: bool) -> Spec:
    scale = alt.Scale(type="log" if log else "linear", zero=not log, nice=True)
    middle = alt.Scale(domain=[0, 2 * lengths_s[0]]) if len(lengths_s) == 1 and not log else scale
    few = len(lengths_s) <= 8  # a tick at every measured length
    ticks = alt.Axis(values=list(lengths_s), format="~f", grid=False) if few else alt.Axis(format="~f", grid=False)
    base = alt.Chart(_TABLE).encode(
        x=alt.X("length_s:Q", title="Input length, s", scale=middle, axis=ticks),
        color=_mode_colour(order),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("length_s:Q", title="Input, s"),
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
    return _spec(band + whiskers + line, "Latency against input length", "mean; band: 5th to 95th percentile", 280)


def speedup(rows: Sequence[Row], baseline: str) -> Spec:
    """Speed-up over the baseline with its 95 % interval, a bar a mode and length."""
    keys = ("mode", "length_s", "speedup_ratio", "speedup_low", "speedup_high")
    shown = [{k: r[k] for k in keys} for r in rows if r["speedup_ratio"] is not None]
    top = max((float(r["speedup_ratio"] or 1) for r in shown), default=1.0)
    # Intervals are shown whole, but for those of the first rounds, which reach anywhere; the axis grows in steps.
    reach = min(3 * top, max((float(r["speedup_high"] or 1) for r in shown), default=1.0))
    end = math.ceil(max(1.35, 1.35 * top, 1.05 * reach) * 2) / 2
    return _filled(_speedup(_order(rows), len({r["length_s"] for r in shown}), baseline, end), shown)


@lru_cache(maxsize=32)
def _speedup(order: Modes, lengths: int, baseline: str, end: float) -> Spec:
    base = alt.Chart(_TABLE).encode(
        y=alt.Y("length_s:O", title="Input length, s"),
        yOffset=alt.YOffset("mode:N", sort=list(order)),
        color=_mode_colour(order),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("length_s:Q", title="Input, s"),
            alt.Tooltip("speedup_ratio:Q", title="Speed-up", format=".2f"),
            alt.Tooltip("speedup_low:Q", title="95 % interval from", format=".2f"),
            alt.Tooltip("speedup_high:Q", title="to", format=".2f"),
        ],
    )
    x = alt.X(
        "speedup_ratio:Q",
        title=f"Times as fast as {baseline}",
        axis=alt.Axis(format="~g"),
        scale=alt.Scale(domain=[0, end]),
    )
    bars = base.mark_bar(opacity=0.55).encode(x=x)
    whiskers = base.mark_rule(strokeWidth=3, clip=True).encode(x=alt.X("speedup_low:Q", title=""), x2="speedup_high:Q")
    one = alt.Chart(_TABLE).mark_rule(strokeDash=[4, 4], color=_MUTED).encode(x=alt.datum(1))
    height = (24 * len(order) + 10) * lengths
    return _spec(bars + whiskers + one, "Speed-up", "whiskers: 95 % confidence interval; dashed: no change", height)


def size(rows: Sequence[Row]) -> Spec:
    """Bytes on disk, a bar a mode, labelled with the ratio to the baseline."""
    seen: dict[Any, dict[str, Any]] = {}
    for r in rows:
        if r["size_bytes"]:
            megabytes, ratio = float(r["size_bytes"]) / 1e6, float(r["size_ratio"] or 1)
            label = f"{megabytes:.1f} MB" + (f" · {ratio:.2f}×" if abs(ratio - 1) > 0.005 else "")
            seen[r["mode"]] = {"mode": r["mode"], "size_mb": megabytes, "label": label}
    top = max((v["size_mb"] for v in seen.values()), default=1.0)
    return _filled(_size(_order(rows), top), list(seen.values()))


@lru_cache(maxsize=32)
def _size(order: Modes, top: float) -> Spec:
    base = alt.Chart(_TABLE).encode(
        y=alt.Y("mode:N", title="", sort=list(order), axis=alt.Axis(labelLimit=200)),
        x=alt.X("size_mb:Q", title="On disk, MB (10⁶ bytes)", scale=alt.Scale(domain=[0, 1.5 * top])),
    )
    bars = base.mark_bar().encode(color=_mode_colour(order, legend=False))
    labels = base.mark_text(align="left", dx=6, color=_MUTED, fontWeight=600).encode(text="label:N")
    subtitle = "all files that opening needs; ×: times smaller"
    return _spec(bars + labels, "Size on disk", subtitle, 38 * len(order), legend=False)


def weights(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the weights by the bits that they are stored in."""
    return _shares(rows, "weight_bits", "parameters", "Weights", "share of all weights by the bits that store one")


def work(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the multiply-accumulates by the bits of the activations that go in."""
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
    chart = alt.Chart(_TABLE).mark_bar()
    chart = chart.encode(
        y=alt.Y("mode:N", title="", sort=list(_order(rows)), axis=alt.Axis(labelLimit=200)),
        x=alt.X("share:Q", stack="zero", title="", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("bits:N", title="", scale=colours, legend=alt.Legend(orient="top")),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("bits:N", title="Precision"),
            alt.Tooltip("share:Q", title="Share", format=".1%"),
        ],
    )
    return _filled(_spec(chart, title, subtitle, 30 * len(_order(rows))), values)


def _order(rows: Sequence[Row]) -> Modes:
    present = {str(r["mode"]) for r in rows}
    return (*(m for m in modes.modes() if m in present), *sorted(present - set(modes.modes())))


def _mode_colour(order: Modes, *, legend: bool = True) -> alt.Color:
    scale = alt.Scale(domain=list(order), range=[mode_colour(m) for m in order])
    shown = (
        alt.Legend(orient="top", labelLimit=240, columns=2, symbolOpacity=1, symbolStrokeWidth=0) if legend else None
    )
    return alt.Color("mode:N", title="", scale=scale, legend=shown)


def _filled(spec: Spec, values: Sequence[Any]) -> Spec:
    """A drawn chart with its data. Drawing takes altair 40 ms, which is too much for every look at a live run."""
    return {**spec, "data": {"values": list(values)}}


def _ms(seconds: Any) -> float | None:
    return None if seconds is None else float(seconds) * 1e3


def _spec(
    chart: alt.LayerChart | alt.Chart, title: str, subtitle: str, plot_height: int, *, legend: bool = True
) -> Spec:
    """The chart as a dict; Streamlit fits title, legend and axes into the height, so they are added to the plot's."""
    titled = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=_MUTED)
    height = plot_height + (190 if legend else 130)
    found: Spec = chart.properties(title=titled, height=height, width="container").to_dict()
    return found
