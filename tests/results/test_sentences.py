"""The sentences that a run is summed up in."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.records import Artefact, Coverage, Device, Part, Pass, Visit
from bench.core.specs import LENGTH, Axis, Placement, RunSpec, Variant
from bench.core.stats import Interval
from bench.core.store import Store
from bench.results import report, sentences
from bench.results.report import Report

FP32, INT8 = "torch-fp32", "torch-int8-dynamic"
DEVICE = Device("d1", "board", "cpu", 4, (), 2**30, "os", "x86_64", {})
Times = dict[tuple[int, float], list[tuple[float | None, float | None]]]  # (batch, length): (baseline, int8) by round


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


def measured(store: Store, times: Times, sizes: tuple[int | None, int] = (500, 200), axis: Axis = LENGTH) -> Report:
    batches, lengths = zip(*times, strict=True)
    spec = RunSpec(
        (Variant("tiny", FP32, Placement("cpu", 2)), Variant("tiny", INT8, Placement("cpu", 2))),
        tuple(set(lengths)),
        tuple(set(batches)),
        axis=axis,
    )
    run_id = store.create_run(spec, DEVICE)
    for position, size in enumerate(sizes):
        if size:
            store.set_variant(run_id, position, artefact=Artefact("d", "seed 0", size, 1.0, None, False))
    for (batch, length_s), rounds in times.items():
        present = [p for p in (0, 1) if rounds[0][p] is not None]
        group = store.start_group(run_id, "tiny", Placement("cpu", 2), batch, length_s, present)
        for number, pair in enumerate(rounds):
            for position, seconds in enumerate(pair):
                if seconds:
                    store.add_visit(group, Visit(position, number, position, 0.0, (Pass("kept", seconds),)))
    run_report = report.report(store, run_id)
    assert run_report
    return run_report


SAME: list[tuple[float | None, float | None]] = [(0.5, 0.25)] * 3  # twice as fast, every time


def test_headline_of_a_faster_mode_is_that_of_the_longest_input(store: Store) -> None:
    r = measured(store, {(1, 5.0): SAME, (1, 1.0): [(0.5, 0.1)] * 3})
    assert sentences.headline(r) == (
        "On board, torch-int8-dynamic makes tiny 2.50 times smaller and 2.00 times as fast "
        "(95 % interval 2.00 to 2.00) as torch-fp32 on 5 s of audio."
    )


def test_what_was_measured_side_by_side_is_not_told_apart(store: Store) -> None:
    assert sentences.apart(measured(store, {(1, 5.0): SAME, (1, 1.0): [(0.5, None)]})) == []


def test_headline_counts_the_audio_of_the_batch(store: Store) -> None:
    r = measured(store, {(1, 2.0): [(0.5, 0.1)] * 3, (4, 2.0): SAME})
    assert "2.00 times as fast" in str(sentences.headline(r))
    assert str(sentences.headline(r)).endswith("on 2 s of audio in batches of 4.")


def test_headline_on_another_axis(store: Store) -> None:
    side = Axis("side", "px", "Image side", 32, 1024, (224.0,), (224.0, 384.0))
    assert str(sentences.headline(measured(store, {(2, 224.0): SAME}, axis=side))).endswith(
        "2.00 times as fast (95 % interval 2.00 to 2.00) as torch-fp32 on 224 px in batches of 2."
    )


def test_headline_of_a_slower_mode_says_so(store: Store) -> None:
    r = measured(store, {(1, 5.0): [(0.2, 0.4)] * 3})
    assert "2.50 times smaller and 0.50 times as fast (95 % interval 0.50 to 0.50) as torch-fp32" in str(
        sentences.headline(r)
    )


def test_headline_where_the_interval_spans_one(store: Store) -> None:
    # Ratios 2 and 1/2: the estimate is 1, the logs +-ln 2 with standard error ln 2, t(0.975, 1) = 12.7062: 2^+-12.7062,
    # which is 0.00015 to 6682.9
    headline = str(sentences.headline(measured(store, {(1, 5.0): [(0.4, 0.2), (0.2, 0.4)]})))
    assert headline == (
        "On board, torch-int8-dynamic makes tiny 2.50 times smaller; whether it is faster than torch-fp32 on 5 s of "
        "audio is not clear (95 % interval under 0.01 to over 100)."
    )


def test_headline_after_one_round_claims_no_interval(store: Store) -> None:
    headline = str(sentences.headline(measured(store, {(1, 5.0): [(0.5, 0.25)]})))
    assert headline.endswith("2.00 times as fast as torch-fp32 on 5 s of audio.") and "interval" not in headline


@pytest.mark.parametrize(
    ("sizes", "words"), [((500, 500), "no smaller and"), ((200, 500), "2.50 times larger and")], ids=["same", "larger"]
)
def test_headline_of_a_mode_that_is_not_smaller(store: Store, sizes: tuple[int, int], words: str) -> None:
    assert f"makes tiny {words} 2.00 times as fast" in str(sentences.headline(measured(store, {(1, 5.0): SAME}, sizes)))


def test_without_a_baseline_nothing_is_claimed(store: Store) -> None:
    for sizes in ((None, 200), (500, 200)):
        r = measured(store, {(1, 5.0): [(None, 0.25)] * 3}, sizes)
        assert sentences.headline(r) is None and sentences.size_against_latency(r) == []


def test_without_anything_to_compare_nothing_is_claimed(store: Store) -> None:
    r = measured(store, {(1, 5.0): [(0.5, None)] * 3})
    assert sentences.headline(r) is None and sentences.size_against_latency(r) == []


# --- size against latency


def test_a_sentence_a_mode(store: Store) -> None:
    r = measured(store, {(1, 1.0): [(0.3, 0.2)] * 3, (1, 5.0): SAME})
    assert sentences.size_against_latency(r) == [
        "**torch-int8-dynamic** is 2.50 times smaller and 1.50 to 2.00 times as fast. Smaller and faster, as "
        "expected, but the speed-up is less than the size ratio: latency follows size only in part."
    ]


def test_equal_speeds_are_no_span_and_equal_sizes_no_test(store: Store) -> None:
    r = measured(store, {(1, 1.0): SAME, (1, 5.0): SAME}, (500, 510))
    assert sentences.size_against_latency(r) == [
        "**torch-int8-dynamic** is as large as the baseline, and 2.00 times as fast."
    ]


AGREES = "These figures agree with a latency that follows size."
IN_PART = "latency follows size only in part."
NOT_IN_PROPORTION = "the speed does not follow the size in proportion."
NO_GAIN = "No gain in speed can be shown"
DEPENDS = "depends on the input"
TOO_WIDE = "too wide to judge"


@pytest.mark.parametrize(
    ("smaller", "intervals", "words"),
    [
        (2.5, [(2.4, 2.6), (2.0, 2.5)], AGREES),
        (0.5, [(0.46, 0.54)], AGREES),  # larger, and slower by as much
        (0.5, [(0.4, 0.6)], TOO_WIDE),
        (4.0, [(1.1, 1.3), (2.0, 3.9)], IN_PART),
        (4.0, [(1.1, 1.3), (3.9, 4.1)], NOT_IN_PROPORTION),  # less at one input, by as much at the other
        (2.0, [(2.8, 3.2)], NOT_IN_PROPORTION),  # more than in proportion
        (4.0, [(0.5, 0.7), (0.9, 1.1)], NO_GAIN),
        (4.0, [(0.4, 0.5)], NO_GAIN),
        (4.0, [(0.7, 0.9), (1.5, 1.7)], DEPENDS),
    ],
)
def test_verdicts(smaller: float, intervals: list[tuple[float, float]], words: str) -> None:
    verdict = sentences._verdict(smaller, [Interval((low * high) ** 0.5, low, high, 10) for low, high in intervals])
    assert words in verdict
    assert sum(w in verdict for w in (AGREES, IN_PART, NOT_IN_PROPORTION, NO_GAIN, DEPENDS, TOO_WIDE)) == 1


def test_the_verdict_on_larger_and_faster() -> None:
    assert DEPENDS not in sentences._verdict(0.5, [Interval(1.6, 1.5, 1.7, 10), Interval(1.8, 1.7, 1.9, 10)])


def covered(store: Store, mode: str, *parts: Part) -> list[str]:
    run_id = store.create_run(
        RunSpec((Variant("tiny", FP32, Placement("cpu", 2)), Variant("tiny", mode, Placement("cpu", 2))), (1.0,)),
        DEVICE,
    )
    store.set_variant(run_id, 0, coverage=Coverage((Part("linears", 32, 32, 100, 1000),)))
    store.set_variant(run_id, 1, coverage=Coverage(parts))
    run_report = report.report(store, run_id)
    assert run_report
    return sentences.false_claims(run_report)


def test_a_mode_that_claims_int8_and_does_not_run_it_is_told(store: Store) -> None:
    stored, runs = Part("linears", 8, 32, 100, 1000), Part("linears", 8, 8, 100, 1000)
    assert covered(store, INT8, runs) == []
    assert covered(store, INT8, stored) == [
        f"**{INT8}** stores int8 weights, but runs all of its work in floating point on this device."
    ]
    assert covered(store, "torchao-int8-weight-only", stored) == []  # it never said more
    assert covered(store, INT8, Part("linears", 32, 32, 100, 1000)) == [
        f"**{INT8}** stores no weight in 8 bits, so nothing is quantized in it."
    ]
    assert covered(store, "onnx-int4", stored) == [
        "**onnx-int4** stores no weight in 4 bits, so nothing is quantized in it."
    ]
