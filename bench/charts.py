"""Tables -> charts, as Vega-Lite specifications. Pure: no streamlit, no store.

A mode keeps its colour on every page: its place in the list of modes is its place in the palette. Grey is the original.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np

from bench import modes
from bench.audio import Array
from bench.report import Row

# Grey for the original; an engine has a family of hues, a mode a place in it. Legible on light and on dark ground.
ORIGINAL = "#8b929c"
PALETTES = {
    "torch": ("#3f8fd2", "#1fa187", "#7fb8ea", "#2b62a8", "#63c5b0", "#5f7fe0", "#17766a", "#9aa8f5", "#3aa0b8"),
    "onnx": ("#e07b28", "#eeb04a", "#b85c10", "#d9976a", "#b8960c", "#8f5a2a"),
    "openvino": ("#c4589f", "#8e5bd0", "#e592c8", "#7a3f8f", "#b68ae6", "#d1495b"),
}
# Precisions have a hue of their own, so that no one takes them for a mode.
BITS_COLOURS = {"32 bit": "#8b929c", "16 bit": "#a99be0", "8 bit": "#7a5cc4", "4 bit": "#52309e"}
_MUTED = "#76808c"  # legible on light and on dark ground
FEW = 6  # modes whose charts fit beside one another
_TABLE = alt.Data(name="table")
Spec = dict[str, Any]
Modes = tuple[str, ...]


def mode_colour(mode: str) -> str:
    """The colour of a mode as it is spelled, the same everywhere; one that no menu has takes its mode's."""
    return _colours().get(mode) or _colours().get(mode.partition(":")[0], "#a0694b")


@lru_cache(maxsize=1)
def _colours() -> dict[str, str]:
    known, used = modes.modes(), Counter[str]()
    found: dict[str, str] = {}
    for text in modes.menu():
        engine = known[text.partition(":")[0]].ENGINE
        found[text] = PALETTES[engine][used[engine] % len(PALETTES[engine])] if found else ORIGINAL
        used[engine] += len(found) > 1
    return found


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
    return _spec(
        band + whiskers + line,
        "Latency against input length",
        "mean; band: 5th to 95th percentile",
        280 + _legend_px(order),
    )


def speedup(rows: Sequence[Row], baseline: str) -> Spec:
    """Speed-up over the baseline with its 95 % interval, a bar a mode and length."""
    keys = ("mode", "length_s", "speedup_ratio", "speedup_low", "speedup_high")
    shown = [
        {k: r[k] for k in keys} | {"input": f"{r['length_s']:g} s"} for r in rows if r["speedup_ratio"] is not None
    ]
    top = max((float(r["speedup_ratio"] or 1) for r in shown), default=1.0)
    # Intervals are shown whole, but for those of the first rounds, which reach anywhere; the axis grows in steps.
    reach = min(3 * top, max((float(r["speedup_high"] or 1) for r in shown), default=1.0))
    end = math.ceil(max(1.35, 1.35 * top, 1.3 * reach) * 2) / 2
    return _filled(_speedup(_order(rows), len({r["length_s"] for r in shown}), baseline, end), shown)


@lru_cache(maxsize=32)
def _speedup(order: Modes, lengths: int, baseline: str, end: float) -> Spec:
    base = alt.Chart(_TABLE).encode(
        y=alt.Y("mode:N", title="", sort=list(order), axis=alt.Axis(labelLimit=200)),
        yOffset=alt.YOffset("length_s:O"),
        color=_mode_colour(order, legend=False),
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
        axis=alt.Axis(format="~g", titleAnchor="end"),
        scale=alt.Scale(domain=[0, end]),
    )
    bars = base.mark_bar(opacity=0.55).encode(x=x)
    whiskers = base.mark_bar(size=3, clip=True).encode(x=alt.X("speedup_low:Q", title=""), x2="speedup_high:Q")
    inputs = base.mark_text(align="right", fontSize=10).encode(
        x=alt.datum(end), text="input:N", color=alt.value(_MUTED)
    )
    one = alt.Chart(_TABLE).mark_rule(strokeDash=[4, 4], color=_MUTED).encode(x=alt.datum(1))
    height = (16 * lengths + 8) * len(order)
    subtitle = ["bars: input lengths; dashed: no change", "whiskers: 95 % confidence interval"]
    return _spec(bars + whiskers + inputs + one, "Speed-up", subtitle, height, legend=False)


def split(rows: Sequence[Row]) -> Spec | None:
    """Where the speed-up comes from, a bar a mode at the longest input: the engine's share, then the precision's.

    On a logarithmic axis, so that the two lengths add up to the whole. None where no engine but the original's was
    measured, or its fp32 was not.
    """
    known = [r for r in rows if r["engine_ratio"] and r["precision_ratio"]]
    longest = max((float(r["length_s"] or 0) for r in known), default=0)
    shown = [
        {"mode": r["mode"], "of": of, "from": begin, "to": end, "ratio": end / begin}
        for r in known
        if r["length_s"] == longest and r["speedup_ratio"] != 1
        for of, begin, end in (
            ("engine", 1.0, float(r["engine_ratio"] or 1)),
            (
                "precision",
                float(r["engine_ratio"] or 1),
                float(r["engine_ratio"] or 1) * float(r["precision_ratio"] or 1),
            ),
        )
    ]
    if not any(v["of"] == "engine" and v["to"] != 1 for v in shown):
        return None
    ends = [float(str(v[k])) for v in shown for k in ("from", "to")]
    reach = math.ceil(1.1 * max(ends)), min(1.0, math.floor(9 * min(ends)) / 10)
    return _filled(_split(_order([r for r in known if r["length_s"] == longest]), longest, *reach), shown)


@lru_cache(maxsize=32)
def _split(order: Modes, length_s: float, top: float, bottom: float) -> Spec:
    ticks = [t for t in (0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20) if bottom <= t <= top]
    base = alt.Chart(_TABLE).encode(
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
    one = alt.Chart(_TABLE).mark_rule(strokeDash=[4, 4], color=_MUTED).encode(x=alt.datum(1))
    subtitle = [
        "engine: its own fp32 against the original; precision: the mode against that",
        f"{length_s:g} s of input",
    ]
    return _spec(bars + one, "Where the speed-up comes from", subtitle, 24 * len(order))


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
    return _spec(bars + labels, "Size on disk", subtitle, (38 if len(order) <= FEW else 26) * len(order), legend=False)


def weights(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the weights by the bits that they are stored in."""
    return _shares(rows, "weight_bits", "parameters", "Weights", "share of all weights by the bits that store one")


def work(rows: Sequence[Row]) -> Spec:
    """What is quantized: shares of the multiply-accumulates by the bits of the activations that go in."""
    return _shares(rows, "activation_bits", "macs", "Work", "share of all multiply-accumulates by the bits they run in")


def loss(rows: Sequence[Row]) -> Spec:
    """How fine-tuning went: a line a mode. rows: mode, step, loss."""
    return _filled(_loss(_order(rows)), list(rows))


@lru_cache(maxsize=8)
def _loss(order: Modes) -> Spec:
    chart = alt.Chart(_TABLE).mark_line(point=alt.OverlayMarkDef(size=25, filled=True), strokeWidth=1.5)
    chart = chart.encode(
        x=alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, tickMinStep=1)),
        y=alt.Y("loss:Q", title="CTC loss a character"),
        color=_mode_colour(order),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("step:Q", title="Step"),
            alt.Tooltip("loss:Q", title="Loss", format=".4f"),
        ],
    )
    return _spec(
        chart,
        "Fine-tuning",
        "loss of each step's clip before it was learnt from; clips differ",
        160 + _legend_px(order),
    )


def waveform(peaks: Array, length_s: float) -> Spec:
    """A sound at a glance. peaks: (count, 2), the lowest and the highest sample of each stretch."""
    reach = max(0.05, float(np.abs(peaks).max(initial=0)))  # silence stays a line
    step_s = length_s / max(1, len(peaks))
    shown = [{"t": (i + 0.5) * step_s, "low": low, "high": high} for i, (low, high) in enumerate(peaks.tolist())]
    return _filled(_waveform(round(reach, 3), round(length_s, 3)), shown)


@lru_cache(maxsize=8)
def _waveform(reach: float, length_s: float) -> Spec:
    scale, seconds = alt.Scale(domain=[-reach, reach]), alt.Scale(domain=[0, length_s], nice=False)
    chart = alt.Chart(_TABLE).mark_area(color=PALETTES["torch"][0], opacity=0.9)
    chart = chart.encode(
        x=alt.X("t:Q", title="Time, s", scale=seconds, axis=alt.Axis(grid=False, tickCount=8)),
        y=alt.Y("low:Q", scale=scale, axis=None),
        y2="high:Q",
    )
    found: Spec = chart.properties(height=120, width="container").to_dict()
    return found


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


def tradeoff(rows: Sequence[Row], against: str = "mean_s") -> Spec:
    """WER against time: a disc a variant, its area the size on disk; a ring marks what no other one beats.

    `rows` are an evaluation's, with `unbeaten`; `against` is mean_s or rtf.
    """
    largest = max((float(r["size_bytes"] or 0) for r in rows), default=0.0) or 1.0
    shown = [
        {
            "mode": r["mode"],
            "model": r["model"],
            "time": _ms(r["mean_s"]) if against == "mean_s" else r["rtf"],
            **{f"{k}_percent": _percent(r[k]) for k in ("wer", "wer_low", "wer_high")},
            "size_mb": float(r["size_bytes"] or 0) / 1e6,
            "area": (area := 60 + 840 * float(r["size_bytes"] or 0) / largest),
            "ring": (area**0.5 + 7) ** 2,
            "unbeaten": r["unbeaten"],
        }
        for r in rows
        if r["wer"] is not None and r[against] is not None
    ]
    end = 1.25 * max((float(str(v["time"])) for v in shown), default=1.0)
    several = len({v["model"] for v in shown}) > 1
    return _filled(_tradeoff(_order(rows), against, end, several), shown)


@lru_cache(maxsize=32)
def _tradeoff(order: Modes, against: str, end: float, several: bool) -> Spec:
    title = "Mean time of a clip, ms" if against == "mean_s" else "Real-time factor"
    base = alt.Chart(_TABLE).encode(
        x=alt.X("time:Q", title=title, scale=alt.Scale(domain=[0, end])),
        tooltip=[
            *([alt.Tooltip("model:N", title="Model")] if several else []),
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("wer_percent:Q", title="WER, %", format=".1f"),
            alt.Tooltip("wer_low_percent:Q", title="95 % interval from", format=".1f"),
            alt.Tooltip("wer_high_percent:Q", title="to", format=".1f"),
            alt.Tooltip("time:Q", title=title, format=".1f" if against == "mean_s" else ".3f"),
            alt.Tooltip("size_mb:Q", title="On disk, MB", format=".1f"),
        ],
    )
    y = alt.Y("wer_percent:Q", title="WER, %", scale=alt.Scale(zero=False, nice=True))
    shape = {"shape": alt.Shape("model:N", title="", legend=alt.Legend(orient="top"))} if several else {}
    ring = base.transform_filter("datum.unbeaten").mark_point(filled=False, color=_MUTED, strokeWidth=2)
    ring = ring.encode(y=y, size=alt.Size("ring:Q", scale=None), **shape)
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        y=alt.Y("wer_low_percent:Q", title=""), y2="wer_high_percent:Q", color=_mode_colour(order)
    )
    discs = base.mark_point(filled=True, opacity=0.75).encode(
        y=y, size=alt.Size("area:Q", scale=None), color=_mode_colour(order), **shape
    )
    subtitle = [
        "area: size on disk; whiskers: 95 % interval",
        "ringed: no other is better in WER, time and size at once",
    ]
    return _spec(whiskers + ring + discs, "Accuracy against time", subtitle, 300 + _legend_px(order))


def deltas(rows: Sequence[Row], baseline: str) -> Spec:
    """Each variant's WER minus its baseline's in points, with its 95 % interval and a line at no difference.

    `rows` are an evaluation's, with `label`.
    """
    shown = [
        {
            "mode": r["mode"],
            "label": r["label"],
            **{k.removeprefix("wer_"): _percent(r[k]) for k in ("wer_delta", "wer_delta_low", "wer_delta_high")},
        }
        for r in rows
        if r["wer_delta"] is not None and not r["is_baseline"]
    ]
    reach = max((abs(float(str(v[k]))) for v in shown for k in ("delta", "delta_low", "delta_high") if v[k]), default=1)
    end = math.ceil(2.2 * max(reach, 0.25)) / 2  # the axis grows in steps, zero in its middle
    return _filled(_deltas(_order(rows), tuple(str(v["label"]) for v in shown), baseline, end), shown)


@lru_cache(maxsize=32)
def _deltas(order: Modes, labels: Modes, baseline: str, end: float) -> Spec:
    base = alt.Chart(_TABLE).encode(
        y=alt.Y("label:N", title="", sort=list(labels), axis=alt.Axis(labelLimit=200)),
        color=_mode_colour(order, legend=False),
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
    zero = alt.Chart(_TABLE).mark_rule(strokeDash=[4, 4], color=_MUTED).encode(x=alt.datum(0))
    subtitle = ["right of the line: hears worse", "whiskers: 95 % interval, paired by clip"]
    return _spec(
        bars + whiskers + dots + zero, f"Difference to {baseline}", subtitle, 48 * len(labels) + 20, legend=False
    )


def _order(rows: Sequence[Row]) -> Modes:
    present = {str(r["mode"]) for r in rows}
    known = modes.menu()
    return (*(m for m in known if m in present), *sorted(present - set(known)))


def _mode_colour(order: Modes, *, legend: bool = True) -> alt.Color:
    scale = alt.Scale(domain=list(order), range=[mode_colour(m) for m in order])
    columns = _legend_columns(order)
    shown = (
        alt.Legend(orient="top", labelLimit=240, columns=columns, symbolOpacity=1, symbolStrokeWidth=0)
        if legend
        else None
    )
    return alt.Color("mode:N", title="", scale=scale, legend=shown)


def _legend_px(order: Modes) -> int:
    """How much higher a chart is for the rows of its legend beyond three."""
    return 18 * max(0, math.ceil(len(order) / _legend_columns(order)) - 3)


def _legend_columns(order: Modes) -> int:
    """Two of the long names beside one another don't fit on a phone; of few modes the names are short enough."""
    return 2 if len(order) <= FEW else 1


def _filled(spec: Spec, values: Sequence[Any]) -> Spec:
    """A drawn chart with its data. Drawing takes altair 40 ms, which is too much for every look at a live run."""
    return {**spec, "data": {"values": list(values)}}


def _ms(seconds: Any) -> float | None:
    return None if seconds is None else float(seconds) * 1e3


def _percent(rate: Any) -> float | None:
    return None if rate is None else float(rate) * 100


def _spec(
    chart: alt.LayerChart | alt.Chart, title: str, subtitle: str | list[str], plot_height: int, *, legend: bool = True
) -> Spec:
    """The chart as a dict; Streamlit fits title, legend and axes into the height, so they are added to the plot's."""
    titled = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=_MUTED)
    height = plot_height + (190 if legend else 130)
    found: Spec = chart.properties(title=titled, height=height, width="container").to_dict()
    return found
