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

# Grey for the original; each engine has a palette, each mode a colour in it. Legible on light and dark backgrounds.
ORIGINAL = "#8b929c"
PALETTES = {
    "torch": (
        "#3f8fd2",
        "#1fa187",
        "#7fb8ea",
        "#2b62a8",
        "#63c5b0",
        "#5f7fe0",
        "#17766a",
        "#9aa8f5",
        "#3aa0b8",
        "#4a7f9c",
        "#8ac6d1",
        "#6d6fb5",
    ),
    "onnx": ("#e07b28", "#eeb04a", "#b85c10", "#d9976a", "#b8960c", "#8f5a2a"),
    "openvino": ("#c4589f", "#8e5bd0", "#e592c8", "#7a3f8f", "#b68ae6", "#d1495b"),
}
OTHERS = ("#4f9a3a", "#c0862b", "#7a6fd0", "#2f8f8a", "#b5566f", "#8a8f2a")  # for engines without a palette
# Precisions have their own hue, so that they are not mistaken for modes.
BITS_COLOURS = {"32 bit": "#8b929c", "16 bit": "#a99be0", "8 bit": "#7a5cc4", "4 bit": "#52309e"}
MUTED = "#76808c"  # legible on light and dark backgrounds
FEW = 6  # modes whose charts fit side by side
TABLE = alt.Data(name="table")
Spec = dict[str, Any]
Modes = tuple[str, ...]


def mode_colour(mode: str) -> str:
    """The colour of a mode as spelled, the same everywhere; one that is not in the menu takes its mode's colour."""
    colours = _colours(tuple(modes.menu()))
    return colours.get(mode) or colours.get(mode.partition(":")[0], "#a0694b")


@lru_cache(maxsize=4)
def _colours(menu: Modes) -> dict[str, str]:
    """Colours by menu entry. An engine without a palette takes the colours of OTHERS, one per mode."""
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
    """The modes of some rows in the menu's order; those that are not in the menu come last."""
    present = {str(r["mode"]) for r in rows}
    menu = modes.menu()
    return (*(m for m in menu if m in present), *sorted(present - set(menu)))


def modes_colour(order: Modes, *, legend: bool = True) -> alt.Color:
    """The colour channel of charts with one mark per mode."""
    scale = alt.Scale(domain=list(order), range=[mode_colour(m) for m in order])
    columns = legend_columns(order)
    shown = (
        alt.Legend(orient="top", labelLimit=240, columns=columns, symbolOpacity=1, symbolStrokeWidth=0)
        if legend
        else None
    )
    return alt.Color("mode:N", title="", scale=scale, legend=shown)


def legend_px(order: Modes) -> int:
    """Extra chart height, in pixels, for the rows of its legend beyond three."""
    return 18 * max(0, math.ceil(len(order) / legend_columns(order)) - 3)


def legend_columns(order: Modes) -> int:
    """Columns of a legend. Two long names side by side don't fit on a phone; those of few modes are short enough."""
    return 2 if len(order) <= FEW else 1


def filled(spec: Spec, values: Sequence[Any]) -> Spec:
    """A drawn chart with its data. Drawing takes altair 40 ms, too much for every refresh of a live run."""
    return {**spec, "data": {"values": list(values)}}


def ms(seconds: Any) -> float | None:
    """Convert seconds to milliseconds."""
    return None if seconds is None else float(seconds) * 1e3


def percent(rate: Any) -> float | None:
    """Convert a fraction to percent."""
    return None if rate is None else float(rate) * 100


def spec_of(
    chart: alt.LayerChart | alt.Chart, title: str, subtitle: str | list[str], plot_height: int, *, legend: bool = True
) -> Spec:
    """The chart as a dict. Streamlit fits title, legend and axes into the height, so they are added to the plot's."""
    titled = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=MUTED)
    height = plot_height + (190 if legend else 130)
    spec: Spec = chart.properties(title=titled, height=height, width="container").to_dict()
    return spec
