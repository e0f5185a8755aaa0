"""What the charts share: colours, order, legends and sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt

from bench import modes
from bench.results.tables import Row

# Grey for the original; an engine has a family of hues, a mode a place in it. Legible on light and on dark ground.
ORIGINAL = "#8b929c"
PALETTES = {
    "torch": ("#3f8fd2", "#1fa187", "#7fb8ea", "#2b62a8", "#63c5b0", "#5f7fe0", "#17766a", "#9aa8f5", "#3aa0b8"),
    "onnx": ("#e07b28", "#eeb04a", "#b85c10", "#d9976a", "#b8960c", "#8f5a2a"),
    "openvino": ("#c4589f", "#8e5bd0", "#e592c8", "#7a3f8f", "#b68ae6", "#d1495b"),
}
OTHERS = ("#4f9a3a", "#c0862b", "#7a6fd0", "#2f8f8a", "#b5566f", "#8a8f2a")  # of engines that have no palette
# Precisions have a hue of their own, so that no one takes them for a mode.
BITS_COLOURS = {"32 bit": "#8b929c", "16 bit": "#a99be0", "8 bit": "#7a5cc4", "4 bit": "#52309e"}
MUTED = "#76808c"  # legible on light and on dark ground
FEW = 6  # modes whose charts fit beside one another
TABLE = alt.Data(name="table")
Spec = dict[str, Any]
Modes = tuple[str, ...]


def mode_colour(mode: str) -> str:
    """The colour of a mode as it is spelled, the same everywhere; one that no menu has takes its mode's."""
    colours = _colours(tuple(modes.menu()))
    return colours.get(mode) or colours.get(mode.partition(":")[0], "#a0694b")


@lru_cache(maxsize=4)
def _colours(menu: Modes) -> dict[str, str]:
    """By the menu's entries. An engine that has no palette takes what is left of hues, one a mode."""
    used: Counter[str] = Counter()
    by_name = modes.modes()
    colours: dict[str, str] = {}
    for text in menu:
        engine = by_name[text.partition(":")[0]].SPEC.engine
        palette = PALETTES.get(engine, OTHERS)
        colours[text] = palette[used[engine] % len(palette)] if colours else ORIGINAL
        used[engine] += len(colours) > 1
    return colours


def order_of(rows: Sequence[Row]) -> Modes:
    """The modes of some rows in the menu's order; those that no menu has come last."""
    present = {str(r["mode"]) for r in rows}
    known = modes.menu()
    return (*(m for m in known if m in present), *sorted(present - set(known)))


def modes_colour(order: Modes, *, legend: bool = True) -> alt.Color:
    """The colour channel of charts with a mark per mode."""
    scale = alt.Scale(domain=list(order), range=[mode_colour(m) for m in order])
    columns = legend_columns(order)
    shown = (
        alt.Legend(orient="top", labelLimit=240, columns=columns, symbolOpacity=1, symbolStrokeWidth=0)
        if legend
        else None
    )
    return alt.Color("mode:N", title="", scale=scale, legend=shown)


def legend_px(order: Modes) -> int:
    """How much higher a chart is for the rows of its legend beyond three."""
    return 18 * max(0, math.ceil(len(order) / legend_columns(order)) - 3)


def legend_columns(order: Modes) -> int:
    """Two of the long names beside one another don't fit on a phone; of few modes the names are short enough."""
    return 2 if len(order) <= FEW else 1


def filled(spec: Spec, values: Sequence[Any]) -> Spec:
    """A drawn chart with its data. Drawing takes altair 40 ms, which is too much for every look at a live run."""
    return {**spec, "data": {"values": list(values)}}


def ms(seconds: Any) -> float | None:
    """Seconds in milliseconds."""
    return None if seconds is None else float(seconds) * 1e3


def percent(rate: Any) -> float | None:
    """A fraction in percent."""
    return None if rate is None else float(rate) * 100


def spec_of(
    chart: alt.LayerChart | alt.Chart, title: str, subtitle: str | list[str], plot_height: int, *, legend: bool = True
) -> Spec:
    """The chart as a dict; Streamlit fits title, legend and axes into the height, so they are added to the plot's."""
    titled = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=MUTED)
    height = plot_height + (190 if legend else 130)
    found: Spec = chart.properties(title=titled, height=height, width="container").to_dict()
    return found
