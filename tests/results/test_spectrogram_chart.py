"""The chart of a mel spectrogram: the picture in it shows the levels, at the places that the axes say."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from bench.results.charts import spectrogram
from bench.results.charts.spectrogram import COLOURS, TICKS_HZ
from bench.sound.mel import BANDS, RANGE_DB, Mel


def picture(spec: dict[str, object]) -> np.ndarray:
    """The pixels of a chart's picture, (rows, columns, 3), the highest frequency first."""
    (point,) = spec["data"]["values"]  # type: ignore[index]
    kind, data = point["url"].split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def test_levels_become_colours_from_the_bottom_up() -> None:
    levels = np.full((BANDS, 3), -RANGE_DB, np.float32)
    levels[0, 1] = 0.0  # the lowest band, in the second column
    levels[-1, 2] = -RANGE_DB / 2
    pixels = picture(spectrogram.spectrogram(Mel(levels, 0.01), 0.03))
    assert pixels.shape == (BANDS, 3, 3)
    assert pixels[-1, 1].tolist() == rgb(COLOURS[-1]) and pixels[0, 0].tolist() == rgb(COLOURS[0])
    assert np.abs(pixels[0, 2].astype(int) - rgb(COLOURS[len(COLOURS) // 2])).max() <= 2


def test_the_louder_the_lighter() -> None:
    linear = (spectrogram._palette() / 255.0) ** 2.2
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


def test_axes_legend_and_length() -> None:
    spec = spectrogram.spectrogram(Mel(np.zeros((BANDS, 10), np.float32), 0.01), 0.095)
    image, legend = spec["layer"]
    (point,) = spec["data"]["values"]
    assert point["begin"] == 0 and point["end"] == pytest.approx(0.1)
    x, y, colour = image["encoding"]["x"], image["encoding"]["y"], legend["encoding"]["color"]
    assert (x["title"], y["title"]) == ("Time, s", "Frequency, Hz") and x["scale"]["domain"] == [0, 0.095]
    hertz = [round(700 * (10 ** (value / 2595) - 1)) for value in y["axis"]["values"]]
    assert hertz == list(TICKS_HZ)
    assert colour["scale"]["domain"] == [-RANGE_DB, 0] and colour["scale"]["range"] == list(COLOURS)
    assert "range 80 dB" in colour["title"]
