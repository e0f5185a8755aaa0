"""The chart of a mel spectrogram: a picture between axes, because a mark for each of its points would be slow."""

from __future__ import annotations

import base64
import io
import math
from functools import lru_cache

import altair as alt
import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.results.charts.style import TABLE, Spec, filled
from bench.sound.mel import BANDS, RANGE_DB, TOP_HZ, Mel

# From quiet to loud, ever lighter, so that it reads without colours too. On light and dark pages alike.
COLOURS = ("#0b0e26", "#2b2a72", "#6d3a9c", "#b5478f", "#e8705a", "#f5b556", "#fdf6c3")
TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000)
_TITLE = f"dB relative to the loudest point (range {RANGE_DB:g} dB)"


def spectrogram(mel: Mel, length_s: float) -> Spec:
    """Mel spectrogram of a sound: time in s against frequency in Hz on a mel scale, coloured by level."""
    step = _mel(TOP_HZ) / (BANDS + 1)  # the bands' peaks are so far apart
    point = {
        "url": _png(mel),
        "begin": 0,
        "end": mel.levels_db.shape[1] * mel.column_s,
        "low": step / 2,
        "high": _mel(TOP_HZ) - step / 2,
        "level": -RANGE_DB,
    }
    return filled(_chart(round(length_s, 3)), [point])


@lru_cache(maxsize=8)
def _chart(length_s: float) -> Spec:
    seconds = alt.Scale(domain=[0, length_s], nice=False)
    frequency = alt.Scale(domain=[0, _mel(TOP_HZ)], nice=False)
    base = alt.Chart(TABLE)
    picture = base.mark_image(aspect=False, clip=True).encode(
        x=alt.X("begin:Q", title="Time, s", scale=seconds, axis=alt.Axis(grid=False, tickCount=8)),
        x2="end:Q",
        y=alt.Y(
            "high:Q",
            title="Frequency, Hz",
            scale=frequency,
            axis=alt.Axis(
                grid=False,
                labelOverlap=False,
                values=[_mel(hz) for hz in TICKS_HZ],
                labelExpr="format(round(700 * (pow(10, datum.value / 2595) - 1)), 'd')",
            ),
        ),
        y2="low:Q",
        url="url:N",
    )
    legend = base.mark_point(opacity=0).encode(
        x="begin:Q",
        y="low:Q",
        color=alt.Color(
            "level:Q",
            title=_TITLE,
            scale=alt.Scale(domain=[-RANGE_DB, 0], range=list(COLOURS), interpolate="rgb"),
            legend=alt.Legend(
                orient="top", gradientLength=200, gradientThickness=10, tickCount=5, titleLimit=400, gradientOpacity=1
            ),
        ),
    )
    chart = (picture + legend).properties(
        height=360,
        width="container",
        view=alt.ViewBackground(fill=COLOURS[0]),
        description="Mel spectrogram",
    )
    spec: Spec = chart.to_dict()
    return spec


def _mel(hz: float) -> float:
    """A frequency on the mel scale of HTK, which librosa's `htk=True` takes."""
    return 2595 * math.log10(1 + hz / 700)


def _png(mel: Mel) -> str:
    """The levels as a PNG in an address, with a palette: row 0, the top, is the highest band."""
    shares = 1 + np.flipud(mel.levels_db) / RANGE_DB
    image = Image.fromarray(np.rint(255 * shares).astype(np.uint8)).convert("P")
    image.putpalette(_palette().tobytes())
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@lru_cache(maxsize=1)
def _palette() -> npt.NDArray[np.uint8]:
    """(256, 3): COLOURS with straight lines between them, as Vega draws the legend."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])
    places = np.linspace(0, len(COLOURS) - 1, 256)
    channels = [np.interp(places, np.arange(len(COLOURS)), anchors[:, channel]) for channel in range(3)]
    colours: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return colours
