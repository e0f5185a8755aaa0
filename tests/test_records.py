"""What a run may be, the sentences for what it may not, and that nothing is lost on the way to JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bench import records
from bench.records import Coverage, Device, Part, Pass, RunSpec, SpecError, Variant, Visit

FP32, INT8 = Variant("m", "torch-fp32", 2), Variant("m", "torch-int8-dynamic", 2)


def spec(**change: Any) -> RunSpec:
    return RunSpec(**{"variants": (FP32, INT8), "lengths_s": (1.0, 5.0), **change})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"variants": ()}, "No variants given; allowed: at least one model and mode."),
        ({"lengths_s": ()}, "No lengths given; allowed: seconds from 0.1 to 60."),
        ({"lengths_s": (1.0, 0.05)}, "Lengths: got 0.05; allowed: seconds from 0.1 to 60."),
        ({"lengths_s": (60.1,)}, "Lengths: got 60.1; allowed: seconds from 0.1 to 60."),
        ({"lengths_s": (math.nan,)}, "Lengths: got nan; allowed: seconds from 0.1 to 60."),
        ({"lengths_s": (math.inf,)}, "Lengths: got inf; allowed: seconds from 0.1 to 60."),
        ({"lengths_s": (-5.0,)}, "Lengths: got -5.0; allowed: seconds from 0.1 to 60."),
        ({"batches": ()}, "No batch sizes given; allowed: whole numbers from 1 to 64."),
        ({"batches": (0,)}, "Batch sizes: got 0; allowed: whole numbers from 1 to 64."),
        ({"batches": (65,)}, "Batch sizes: got 65; allowed: whole numbers from 1 to 64."),
        ({"batches": (1.5,)}, "Batch sizes: got 1.5; allowed: whole numbers from 1 to 64."),
        ({"variants": (Variant("m", "a", 0),)}, "Threads: got 0; allowed: whole numbers from 1 to 256."),
        ({"variants": (Variant("m", "a", 257),)}, "Threads: got 257; allowed: whole numbers from 1 to 256."),
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


def test_the_limits_themselves_are_allowed() -> None:
    s = spec(lengths_s=(0.1, 60.0), batches=(1, 64), repeats=2, precision_target=1.0, seed=2**32 - 1)
    assert s.repeats == 2 and s.lengths_s == (0.1, 60.0)
    assert spec(variants=(Variant("m", "a", 256),), precision_target=0.001, repeats=1000, seed=0)


def test_grid_crosses_sorts_and_drops_doubles() -> None:
    s = RunSpec.grid(["a", "b"], ["x", "y", "x"], [5, 1, 5.0], batches=[8, 1, 8], threads=[2, 1], seed=7)
    assert s.variants == (
        Variant("a", "x", 2),
        Variant("a", "y", 2),
        Variant("a", "x", 1),
        Variant("a", "y", 1),
        Variant("b", "x", 2),
        Variant("b", "y", 2),
        Variant("b", "x", 1),
        Variant("b", "y", 1),
    )
    assert (s.lengths_s, s.batches, s.seed) == ((1.0, 5.0), (1, 8), 7)
    assert s.families == {("a", 2): [0, 1], ("a", 1): [2, 3], ("b", 2): [4, 5], ("b", 1): [6, 7]}
    # seconds of audio in a pass: 1, 5, 8, 40
    assert s.shapes == [(1, 1.0), (1, 5.0), (8, 1.0), (8, 5.0)]


def test_a_spec_survives_json() -> None:
    settings: tuple[tuple[str, records.Setting], ...] = (("skip", "head"), ("clips", 8), ("ratio", 0.1), ("fast", True))
    s = spec(
        variants=(FP32, Variant("folder/é", "torch-int8-dynamic", 2, settings)),
        lengths_s=(0.1 + 0.2, 5.0),
        batches=(1, 3),
        repeats=12,
        precision_target=0.031,
        seed=99,
        input_kind="noise",
    )
    back = RunSpec.from_dict(json.loads(records.to_json(s)))
    assert back == s
    assert [type(v) for _, v in back.variants[1].settings] == [str, int, float, bool]


def test_other_records_survive_json() -> None:
    c = Coverage((Part("head", 8, 8, 10, 20), Part("attention products", None, 32, 0, 60)))
    assert records.coverage_from(json.loads(records.to_json(c))) == c
    d = Device("id", "n", "cpu", 4, ("avx2", "fma"), 10**9, "os", "x86_64", {"torch": "2"}, None, True)
    assert records.device_from(json.loads(records.to_json(d))) == d


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
