"""What a run may be, the sentences for what it may not, and that nothing is lost on the way to JSON and back."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.core import specs
from bench.core.codec import from_json, to_json
from bench.core.records import Coverage, Device, Part, Pass, Visit
from bench.core.specs import LENGTH, Axis, Placement, RunSpec, SpecError, Variant

FP32, INT8 = Variant("m", "torch-fp32", Placement("cpu", 2)), Variant("m", "torch-int8-dynamic", Placement("cpu", 2))

SIDE = Axis("side", "px", "Image side", 32, 1024, (224.0,), (224.0, 384.0))
TOKENS = Axis("tokens", "", "Input tokens", 1, 512, (8.0, 16.0), (8.0, 16.0, 32.0))


def spec(**change: Any) -> RunSpec:
    return RunSpec(**{"variants": (FP32, INT8), "sizes": (1.0, 5.0), **change})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"variants": ()}, "No variants given; allowed: at least one model and mode."),
        ({"sizes": ()}, "No input length given; allowed: seconds from 0.1 to 60."),
        ({"sizes": (1.0, 0.05)}, "Input length: got 0.05; allowed: seconds from 0.1 to 60."),
        ({"sizes": (60.1,)}, "Input length: got 60.1; allowed: seconds from 0.1 to 60."),
        ({"sizes": (math.nan,)}, "Input length: got nan; allowed: seconds from 0.1 to 60."),
        ({"sizes": (math.inf,)}, "Input length: got inf; allowed: seconds from 0.1 to 60."),
        ({"sizes": (-5.0,)}, "Input length: got -5.0; allowed: seconds from 0.1 to 60."),
        ({"batches": ()}, "No batch sizes given; allowed: whole numbers from 1 to 64."),
        ({"batches": (0,)}, "Batch sizes: got 0; allowed: whole numbers from 1 to 64."),
        ({"batches": (65,)}, "Batch sizes: got 65; allowed: whole numbers from 1 to 64."),
        ({"batches": (1.5,)}, "Batch sizes: got 1.5; allowed: whole numbers from 1 to 64."),
        (
            {"variants": (Variant("m", "a", Placement("cpu", 0)),)},
            "Threads: got 0; allowed: whole numbers from 1 to 256.",
        ),
        (
            {"variants": (Variant("m", "a", Placement("cpu", 257)),)},
            "Threads: got 257; allowed: whole numbers from 1 to 256.",
        ),
        ({"repeats": 1}, "Repeats: got 1; allowed: a whole number from 2 to 1000."),
        ({"repeats": 1001}, "Repeats: got 1001; allowed: a whole number from 2 to 1000."),
        ({"repeats": 10.5}, "Repeats: got 10.5; allowed: a whole number from 2 to 1000."),
        ({"precision_target": 0.0}, "Precision target: got 0.0; allowed: a fraction from 0.001 to 1."),
        ({"precision_target": 2.0}, "Precision target: got 2.0; allowed: a fraction from 0.001 to 1."),
        ({"seed": -1}, "Seed: got -1; allowed: a whole number from 0 to 2^32 - 1."),
        ({"seed": 2**32}, "Seed: got 4294967296; allowed: a whole number from 0 to 2^32 - 1."),
        ({"input_kind": "music"}, "Input: got music; allowed: speech or noise."),
    ],
)
def test_sentences(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as e:
        spec(**change)
    assert str(e.value) == sentence


@pytest.mark.parametrize(
    ("text", "placement", "written"),
    [
        ("cpu/2", Placement("cpu", 2), "cpu/2"),
        ("4", Placement("cpu", 4), "cpu/4"),
        (" cuda:0/1 ", Placement("cuda:0", 1), "cuda:0/1"),
    ],
)
def test_a_placement_is_read_as_it_is_written(text: str, placement: Placement, written: str) -> None:
    assert Placement.parse(text) == placement
    assert str(placement) == written and Placement.parse(written) == placement


@pytest.mark.parametrize("text", ["", "cpu", "cpu/", "cpu/two", "cpu/1.5", "2/cpu", "/2", "cpu/2/3", "two"])
def test_a_placement_that_is_none(text: str) -> None:
    with pytest.raises(SpecError) as e:
        Placement.parse(text)
    assert str(e.value) == f"Placement: got “{text}”. Allowed: DEVICE/THREADS, such as cpu/2, or a number."


def test_a_placement_in_words() -> None:
    labels = [Placement(*x).label for x in (("cpu", 1), ("cpu", 2), ("cuda:0", 1))]
    assert labels == ["1 thread", "2 threads", "cuda:0, 1 thread"]


@pytest.mark.parametrize(
    ("axis", "column", "title", "plural", "units", "shown"),
    [
        (LENGTH, "length_s", "Input length, s", "Input lengths", "seconds", "2.5 s"),
        (SIDE, "side_px", "Image side, px", "Image sides", "pixels", "2.5 px"),
        (TOKENS, "tokens", "Input tokens", "Input tokens", "tokens", "2.5 tokens"),
    ],
)
def test_what_an_axis_says_of_sizes(axis: Axis, column: str, title: str, plural: str, units: str, shown: str) -> None:
    assert (axis.column, axis.title, axis.plural) == (column, title, plural)
    assert (axis.units, axis.show(2.5)) == (units, shown)
    assert axis.show(16.0) == f"16 {axis.unit or axis.name}"


@pytest.mark.parametrize(
    ("axis", "sizes", "sentence"),
    [
        (SIDE, (224.0, 31.0), "Image side: got 31.0; allowed: pixels from 32 to 1024."),
        (SIDE, (1025.0,), "Image side: got 1025.0; allowed: pixels from 32 to 1024."),
        (SIDE, (), "No image side given; allowed: pixels from 32 to 1024."),
        (TOKENS, (0.5,), "Input tokens: got 0.5; allowed: tokens from 1 to 512."),
    ],
)
def test_sizes_on_another_axis(axis: Axis, sizes: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(SpecError) as e:
        spec(axis=axis, sizes=sizes)
    assert str(e.value) == sentence
    assert spec(axis=SIDE, sizes=(32.0, 1024.0)).axis == SIDE  # over 60, which no length may be


def test_the_limits_themselves_are_allowed() -> None:
    s = spec(sizes=(0.1, 60.0), batches=(1, 64), repeats=2, precision_target=1.0, seed=2**32 - 1)
    assert s.repeats == 2 and s.sizes == (0.1, 60.0)
    assert spec(variants=(Variant("m", "a", Placement("cpu", 256)),), precision_target=0.001, repeats=1000, seed=0)


def test_grid_crosses_sorts_and_drops_doubles() -> None:
    s = RunSpec.grid(
        ["a", "b"],
        ["x", "y", "x"],
        [5, 1, 5.0],
        batches=[8, 1, 8],
        placements=[Placement("cpu", 2), Placement("cpu", 1)],
        seed=7,
    )
    assert s.variants == (
        Variant("a", "x", Placement("cpu", 2)),
        Variant("a", "y", Placement("cpu", 2)),
        Variant("a", "x", Placement("cpu", 1)),
        Variant("a", "y", Placement("cpu", 1)),
        Variant("b", "x", Placement("cpu", 2)),
        Variant("b", "y", Placement("cpu", 2)),
        Variant("b", "x", Placement("cpu", 1)),
        Variant("b", "y", Placement("cpu", 1)),
    )
    assert (s.sizes, s.batches, s.seed) == ((1.0, 5.0), (1, 8), 7)
    two, one = Placement("cpu", 2), Placement("cpu", 1)
    assert s.comparisons == {("a", two): [0, 1], ("a", one): [2, 3], ("b", two): [4, 5], ("b", one): [6, 7]}
    # seconds of audio in a pass: 1, 5, 8, 40
    assert s.shapes == [(1, 1.0), (1, 5.0), (8, 1.0), (8, 5.0)]


def test_a_spec_survives_json() -> None:
    settings: tuple[tuple[str, specs.Setting], ...] = (("skip", "head"), ("clips", 8), ("ratio", 0.1), ("fast", True))
    s = spec(
        variants=(FP32, Variant("folder/é", "torch-int8-dynamic", Placement("cpu", 2), settings)),
        sizes=(0.1 + 0.2, 5.0),
        batches=(1, 3),
        repeats=12,
        precision_target=0.031,
        seed=99,
        input_kind="noise",
    )
    back = from_json(to_json(s), RunSpec)
    assert back == s
    assert [type(v) for _, v in back.variants[1].settings] == [str, int, float, bool]
    assert back.axis == LENGTH
    images = spec(axis=SIDE, sizes=(224.0,))
    assert from_json(to_json(images), RunSpec) == images


def test_other_records_survive_json() -> None:
    c = Coverage((Part("head", 8, 8, 10, 20), Part("attention products", None, 32, 0, 60)))
    assert from_json(to_json(c), Coverage) == c
    d = Device("id", "n", "cpu", 4, ("avx2", "fma"), 10**9, "os", "x86_64", {"torch": "2"}, None, True)
    assert from_json(to_json(d), Device) == d


def test_coverage_shares() -> None:
    c = Coverage((Part("head", 8, 8, 10, 20), Part("conv", 32, 32, 30, 20), Part("products", None, 32, 0, 60)))
    assert c.macs_ratio(8) == pytest.approx(0.2)  # 20 of 100
    assert c.macs_ratio(32) == pytest.approx(0.8)
    assert c.parameters_ratio(8) == pytest.approx(0.25)  # 10 of 40
    assert c.parameters_ratio(4) == 0
    assert Coverage(()).macs_ratio(8) is None and Coverage(()).parameters_ratio(8) is None


def test_a_visit_keeps_apart_what_counts() -> None:
    v = Visit(0, 0, 0, 0.0, (Pass("cold", 9.0), Pass("discarded", 2.0), Pass("kept", 1.0), Pass("kept", 1.5)))
    assert v.kept_s == [1.0, 1.5]
