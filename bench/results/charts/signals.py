"""Charts of a waveform and of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import altair as alt
import numpy as np

from bench.results.charts.style import PALETTES, TABLE, Modes, Spec, filled, legend_px, modes_colour, order_of, spec_of
from bench.results.tables import Row
from bench.sound.audio import Array


def loss(rows: Sequence[Row]) -> Spec:
    """Fine-tuning loss against step, one line per mode. rows: mode, step, loss."""
    return filled(_loss(order_of(rows)), list(rows))


@lru_cache(maxsize=8)
def _loss(order: Modes) -> Spec:
    chart = alt.Chart(TABLE).mark_line(point=alt.OverlayMarkDef(size=25, filled=True), strokeWidth=1.5)
    chart = chart.encode(
        x=alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, tickMinStep=1)),
        y=alt.Y("loss:Q", title="Loss"),
        color=modes_colour(order),
        tooltip=[
            alt.Tooltip("mode:N", title="Mode"),
            alt.Tooltip("step:Q", title="Step"),
            alt.Tooltip("loss:Q", title="Loss", format=".4f"),
        ],
    )
    return spec_of(
        chart,
        "Fine-tuning",
        "loss of each step's clip before the update; clips differ",
        160 + legend_px(order),
    )


def waveform(peaks: Array, length_s: float) -> Spec:
    """Waveform of a sound. peaks: (count, 2), the lowest and the highest sample of each stretch."""
    reach = max(0.05, float(np.abs(peaks).max(initial=0)))  # silence stays a line
    step_s = length_s / max(1, len(peaks))
    stretches = [{"t": (i + 0.5) * step_s, "low": low, "high": high} for i, (low, high) in enumerate(peaks.tolist())]
    return filled(_waveform(round(reach, 3), round(length_s, 3)), stretches)


@lru_cache(maxsize=8)
def _waveform(reach: float, length_s: float) -> Spec:
    scale, seconds = alt.Scale(domain=[-reach, reach]), alt.Scale(domain=[0, length_s], nice=False)
    chart = alt.Chart(TABLE).mark_area(color=PALETTES["torch"][0], opacity=0.9)
    chart = chart.encode(
        x=alt.X("t:Q", title="Time, s", scale=seconds, axis=alt.Axis(grid=False, tickCount=8)),
        y=alt.Y("low:Q", scale=scale, axis=None),
        y2="high:Q",
    )
    spec: Spec = chart.properties(height=120, width="container").to_dict()
    return spec
