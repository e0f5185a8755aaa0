"""Charts as specifications: colours, values, units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import pytest
from jsonschema import ValidationError

from bench import modes
from bench.core.specs import Axis
from bench.results.charts import accuracy, signals, speed, style
from bench.results.charts import size as charts_size
from bench.results.tables import Row

FP32, BF16, INT8, ONNX = "torch-fp32", "torch-bf16", "torch-int8-dynamic", "onnx-fp32"


def row(mode: str, length_s: float, mean_s: float, speedup: float | None, size: int) -> Row:
    return {
        "mode": mode,
        "length_s": length_s,
        "batch": 1,
        "threads": 2,
        "model": "tiny",
        "passes": 30,
        "mean_s": mean_s,
        "std_s": mean_s / 50,
        "median_s": mean_s,
        "p5_s": mean_s * 0.875,
        "p95_s": mean_s * 1.125,
        "speedup_ratio": speedup,
        "speedup_low": speedup and speedup * 0.9,
        "speedup_high": speedup and speedup * 1.1,
        "size_bytes": size,
        "size_ratio": 400_000_000 / size,
        "rtf": mean_s / length_s,
        "engine_ratio": speedup and (2.0 if mode == ONNX else 1.0),
        "precision_ratio": speedup and (speedup / 2 if mode == ONNX else speedup),
    }


ROWS = [
    row(FP32, 1.0, 0.125, 1.0, 400_000_000),
    row(INT8, 1.0, 0.0625, 2.0, 100_000_000),
    row(FP32, 5.0, 0.75, 1.0, 400_000_000),
    row(INT8, 5.0, 0.25, 3.0, 100_000_000),
    row(BF16, 5.0, 0.5, None, 200_000_000),
]


def part(mode: str, name: str, bits: int | None, parameters: int, macs: int) -> Row:
    return {
        "model": "tiny",
        "mode": mode,
        "name": name,
        "weight_bits": bits,
        "activation_bits": bits or 32,
        "parameters": parameters,
        "macs": macs,
    }


PARTS = [
    part(FP32, "linears", 32, 100, 1000),
    part(INT8, "linears", 8, 60, 500),
    part(INT8, "head", 8, 20, 100),
    part(INT8, "conv", 32, 20, 200),
    part(INT8, "attention products", None, 0, 200),
]


def score_row(mode: str, wer: float, delta: float, mean_s: float, size: int, unbeaten: bool) -> Row:
    return {
        "mode": mode,
        "model": "tiny",
        "label": mode,
        "wer": wer,
        "wer_low": wer - 0.01,
        "wer_high": wer + 0.01,
        "wer_delta": delta,
        "wer_delta_low": delta - 0.005,
        "wer_delta_high": delta + 0.005,
        "mean_s": mean_s,
        "rtf": mean_s / 4,
        "size_bytes": size,
        "unbeaten": unbeaten,
        "is_baseline": mode == FP32,
    }


EVALUATED = [
    score_row(FP32, 0.05, 0.0, 0.5, 400_000_000, True),
    score_row(BF16, 0.0625, 0.0125, 0.75, 200_000_000, False),
    score_row(INT8, 0.075, 0.025, 0.25, 100_000_000, True),
]
ALL = {
    "tradeoff": accuracy.tradeoff(EVALUATED),
    "deltas": accuracy.deltas(EVALUATED, FP32),
    "latency": speed.latency(ROWS),
    "log latency": speed.latency(ROWS, log=True),
    "speedup": speed.speedup(ROWS, FP32),
    "size": charts_size.size(ROWS),
    "weights": charts_size.weights(PARTS),
    "work": charts_size.work(PARTS),
    "loss": signals.loss([{"mode": INT8, "step": step, "loss": 1 / step} for step in (1, 2, 4)]),
}


def walk(spec: Any) -> Iterator[dict[str, Any]]:
    if isinstance(spec, dict):
        yield spec
        for value in spec.values():
            yield from walk(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from walk(value)


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every row of data in the chart, without doubles."""
    values = [v for d in walk(spec) if isinstance(d.get("values"), list) for v in d["values"] if isinstance(v, dict)]
    values += [v for rows in spec.get("datasets", {}).values() for v in rows]
    return [dict(x) for x in {tuple(v.items()): None for v in values}]


def encodings(spec: dict[str, Any], *channels: str) -> list[dict[str, Any]]:
    return [e for d in walk(spec) for e in (d.get("encoding", {}).get(c) for c in channels) if e]


def mode_colours(spec: dict[str, Any]) -> dict[str, str]:
    scales = [e["scale"] for e in encodings(spec, "color", "fill") if e.get("field") == "mode"]
    assert scales
    colours = {tuple(zip(s["domain"], s["range"], strict=True)) for s in scales}
    assert len(colours) == 1, "layers disagree"
    return dict(colours.pop())


@pytest.mark.parametrize("name", ALL)
def test_altair_takes_the_spec(name: str) -> None:
    spec = ALL[name]
    (alt.LayerChart if "layer" in spec else alt.Chart).from_dict(spec)
    with pytest.raises(ValidationError):  # the check is one
        alt.Chart.from_dict({"mark": "bar", "encoding": {"x": {"field": 1, "type": "none"}}})


def test_a_mode_has_one_colour_whoever_else_is_shown() -> None:
    colour_of = {m: style.mode_colour(m) for m in modes.modes()}
    assert len(set(colour_of.values())) == len(colour_of), "two modes of one colour"
    for name in ("latency", "speedup", "size", "tradeoff"):
        drawn = mode_colours(ALL[name])
        assert drawn == {m: colour_of[m] for m in drawn}, name
    assert mode_colours(ALL["latency"]).keys() == {FP32, BF16, INT8}
    alone = [r for r in ROWS if r["mode"] == INT8]
    for spec in (speed.latency(alone), speed.speedup(alone, FP32), charts_size.size(alone)):
        assert mode_colours(spec) == {INT8: colour_of[INT8]}


def test_the_split_shows_engine_and_precision_end_to_end() -> None:
    assert speed.split(ROWS) is None  # one engine: there is nothing to split
    spec = speed.split([*ROWS, row(ONNX, 5.0, 0.125, 6.0, 400_000_000), row(ONNX, 1.0, 0.1, 9.0, 400_000_000)])
    assert spec
    assert values(spec) == [
        {"mode": INT8, "of": "engine", "from": 1.0, "to": 1.0, "ratio": 1.0},
        {"mode": INT8, "of": "precision", "from": 1.0, "to": 3.0, "ratio": 3.0},
        {"mode": ONNX, "of": "engine", "from": 1.0, "to": 2.0, "ratio": 2.0},
        {"mode": ONNX, "of": "precision", "from": 2.0, "to": 6.0, "ratio": 3.0},
    ]
    alt.LayerChart.from_dict(spec)


def test_sizes_on_another_axis_are_drawn_in_its_words() -> None:
    axis = Axis("tokens", "", "Input tokens", 1, 512, (8.0,), (8.0, 16.0))
    rows: list[Row] = [
        {("tokens" if name == "length_s" else name): value for name, value in r.items()}
        for r in (*ROWS, row(ONNX, 5.0, 0.125, 6.0, 400_000_000))
    ]
    latency, speedup, split = speed.latency(rows, axis), speed.speedup(rows, FP32, axis), speed.split(rows, axis)
    assert split and "5 tokens of input" in str(split)
    for spec in (latency, speedup):
        assert {v["tokens"] for v in values(spec) if "mode" in v} == {1.0, 5.0}
        assert "length" not in str(spec).lower()
        alt.LayerChart.from_dict(spec)
    assert "Latency against input tokens" in str(latency)
    assert "Input tokens" in {e.get("title") for e in encodings(latency, "x")}
    assert {v["input"] for v in values(speedup) if "mode" in v} == {"1 tokens", "5 tokens"}


def test_a_mode_that_is_gone_has_a_colour() -> None:
    rows = [{**r, "mode": "gone"} if r["mode"] == BF16 else r for r in ROWS]
    colours = mode_colours(speed.latency(rows))
    assert list(colours) == [FP32, INT8, "gone"] and colours["gone"].startswith("#")


@pytest.mark.parametrize("name", ["latency", "log latency"])
def test_every_latency_is_drawn(name: str) -> None:
    drawn = {(v["mode"], v["length_s"]): v for v in values(ALL[name])}
    assert len(drawn) == len(ROWS)
    for r in ROWS:
        v = drawn[r["mode"], r["length_s"]]
        for key in ("mean", "p5", "p95"):
            assert v[f"{key}_ms"] == pytest.approx(1000 * r[f"{key}_s"])  # type: ignore[operator]
    assert drawn[FP32, 5.0]["mean_ms"] == 750.0


def test_a_single_pass_has_no_spread() -> None:
    spec = speed.latency([{**ROWS[0], "std_s": None}])
    (v,) = values(spec)
    assert v.get("std_ms") is None and v["mean_ms"] == 125.0


def test_every_known_speed_up_is_drawn_with_its_interval() -> None:
    drawn = {(v["mode"], v["length_s"]): v for v in values(ALL["speedup"]) if "mode" in v}
    for r in ROWS:
        if r["mode"] == INT8:
            v = drawn[r["mode"], r["length_s"]]
            assert all(v[k] == r[k] for k in ("speedup_ratio", "speedup_low", "speedup_high"))
    assert not any(mode == BF16 for mode, _ in drawn), "what is not known is not drawn"


def test_every_size_is_drawn_and_labelled() -> None:
    drawn = {v["mode"]: v for v in values(ALL["size"])}
    assert {m: v["size_mb"] for m, v in drawn.items()} == {FP32: 400.0, INT8: 100.0, BF16: 200.0}
    assert drawn[FP32]["label"] == "400.0 MB" and drawn[INT8]["label"].endswith("4.00×")


def test_shares_by_hand() -> None:
    def shares(name: str) -> dict[tuple[str, str], float]:
        return {(v["mode"], v["bits"]): v["share"] for v in values(ALL[name])}

    assert shares("weights") == pytest.approx({(FP32, "32 bit"): 1, (INT8, "8 bit"): 0.8, (INT8, "32 bit"): 0.2})
    # 600 of 1000; the attention's products have no weights, but they are work
    assert shares("work") == pytest.approx({(FP32, "32 bit"): 1, (INT8, "8 bit"): 0.6, (INT8, "32 bit"): 0.4})


def test_the_switch_gives_logarithmic_scales() -> None:
    def kinds(name: str) -> set[str]:
        scale_specs = [e["scale"] for e in encodings(ALL[name], "x", "y") if "scale" in e]
        assert len({e.get("field") for e in encodings(ALL[name], "x", "y") if "scale" in e}) >= 2
        return {s.get("type", "linear") for s in scale_specs}

    assert kinds("latency") == {"linear"} and kinds("log latency") == {"log"}
    assert not any(s.get("zero") for s in walk(ALL["log latency"]) if s.get("type") == "log"), "no log of zero"


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("latency", {"Input length, s", "One forward pass, ms"}),
        ("speedup", {f"Times as fast as {FP32}"}),
        ("size", {"On disk, MB (10⁶ bytes)"}),
        ("tradeoff", {"WER, %", "Mean time of a clip, ms"}),
        ("deltas", {"Difference in WER, points"}),
    ],
)
def test_axes_have_titles_with_units(name: str, titles: set[str]) -> None:
    assert titles <= {e.get("title") for e in encodings(ALL[name], "x", "y")}


@pytest.mark.parametrize("name", ALL)
def test_charts_say_what_they_are(name: str) -> None:
    title = ALL[name]["title"]
    assert title["text"] and title["subtitle"]
    assert ALL[name]["width"] == "container" and ALL[name]["height"] > 0


def test_every_variant_is_traded_off_with_its_interval() -> None:
    drawn = {v["mode"]: v for v in values(ALL["tradeoff"])}
    assert {m: (v["wer_percent"], v["time"], v["size_mb"]) for m, v in drawn.items()} == {
        FP32: (5.0, 500.0, 400.0),
        BF16: (6.25, 750.0, 200.0),
        INT8: (7.5, 250.0, 100.0),
    }
    assert drawn[INT8]["wer_low_percent"] == pytest.approx(6.5) and drawn[INT8]["wer_high_percent"] == pytest.approx(
        8.5
    )
    assert {m for m, v in drawn.items() if v["unbeaten"]} == {FP32, INT8}
    # areas grow in proportion to the size, from 60 on
    assert (drawn[INT8]["area"] - 60) * 4 == pytest.approx(drawn[FP32]["area"] - 60)
    rtf = {v["mode"]: v["time"] for v in values(accuracy.tradeoff(EVALUATED, "rtf"))}
    assert rtf == {FP32: 0.125, BF16: 0.1875, INT8: 0.0625}


def test_models_differ_in_shape_where_there_are_several() -> None:
    assert not encodings(ALL["tradeoff"], "shape")
    both = [*EVALUATED, *({**r, "model": "other"} for r in EVALUATED)]
    assert {e["field"] for e in encodings(accuracy.tradeoff(both), "shape")} == {"model"}


def test_differences_are_points_about_zero_without_the_original() -> None:
    drawn = {v["mode"]: v for v in values(ALL["deltas"]) if "mode" in v}
    assert {m: v["delta"] for m, v in drawn.items()} == pytest.approx({BF16: 1.25, INT8: 2.5})
    assert drawn[INT8]["delta_low"] == pytest.approx(2.0) and drawn[INT8]["delta_high"] == pytest.approx(3.0)
    (low, high) = next(e["scale"]["domain"] for e in encodings(ALL["deltas"], "x") if "scale" in e)
    assert -low == high > 3.0
    unknown = accuracy.deltas([{**r, "wer_delta_low": None, "wer_delta_high": None} for r in EVALUATED], FP32)
    assert len([v for v in values(unknown) if "mode" in v]) == 2, "one clip has no interval"


def test_shares_are_told_in_percent() -> None:
    for name in ("weights", "work"):
        assert {e["axis"]["format"] for e in encodings(ALL[name], "x")} == {"%"}


def test_nothing_measured_is_still_a_chart() -> None:
    for spec in (
        *(
            speed.latency([]),
            speed.speedup([], FP32),
            charts_size.size([]),
            charts_size.weights([]),
            charts_size.work([]),
        ),
        *(accuracy.tradeoff([]), accuracy.deltas([], FP32)),
    ):
        (alt.LayerChart if "layer" in spec else alt.Chart).from_dict(spec)
