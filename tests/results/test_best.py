"""The automatic choice, on a store filled by hand: 10 clips of 10 words, so that a clip's word is 1 point."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.records import Artefact, ClipRecord, Pass, Prediction, Reading, Transcription, Visit
from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant
from bench.core.store import Store
from bench.device.host import device
from bench.results import best, evaluation, report
from bench.results.evaluation import Result
from bench.results.report import Report

MODES = ("torch-fp32", "torch-bf16", "torch-int8-dynamic", "onnx-fp32")
TEN = "one two three four five six seven eight nine ten"
SIZES = dict(zip(MODES, (400, 200, 120, 400), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


def evaluated(store: Store, wrong: dict[str, list[int]]) -> Result:
    """`wrong`: by mode, how many of each clip's ten words are lost."""
    variants = tuple(Variant("demo", m, Placement("cpu", 2)) for m in MODES if m == MODES[0] or m in wrong)
    run_id = store.create_run(EvaluationSpec(variants, "/clips"), device())
    store.set_clips(run_id, [ClipRecord(i, f"{i}.wav", f"/clips/{i}.wav", TEN) for i in range(10)])
    for p, v in enumerate(variants):
        store.set_variant(run_id, p, artefact=Artefact("d", "seed 0", SIZES[v.mode], 1.0, None, False))
    for i in range(10):
        words = TEN.split()
        texts = [" ".join(words[wrong.get(v.mode, [0] * 10)[i] :]) for v in variants]
        store.add_predictions(
            run_id, 5.0, [Prediction(p, i, 1.0, Transcription(text, ())) for p, text in enumerate(texts)]
        )
    store.set_state(run_id, "done")
    result = evaluation.result(store, run_id)
    assert result
    return result


def measured(store: Store, seconds: dict[str, tuple[float, ...]]) -> Report:
    """`seconds`: by mode, a round's pass each. Peak memory is 100 bytes a place in the list."""
    spec = RunSpec(tuple(Variant("demo", m, Placement("cpu", 2)) for m in seconds), (5.0,))
    made = store.create_run(spec, device())
    group = store.start_group(made, "demo", Placement("cpu", 2), 1, 5.0, list(range(len(seconds))))
    for p, times in enumerate(seconds.values()):
        for number, s in enumerate(times):
            reading = Reading(peak_rss_bytes=100 * (p + 1))
            store.add_visit(group, Visit(p, number, p, 0.0, (Pass("kept", s),), reading))
    store.end_group(group, "target reached")
    run_report = report.report(store, made)
    assert run_report
    return run_report


EVERY, NONE = [1] * 10, [0] * 10  # every clip loses a word: 10 points for sure; none does
SPANNING = [1, 1] + [0] * 8  # 2 points, by chance 0 to 5


def test_the_fastest_within_the_limit_wins(store: Store) -> None:
    r = evaluated(store, {"torch-bf16": NONE, "torch-int8-dynamic": EVERY})
    times = {"torch-fp32": (4.0, 4.0, 4.0), "torch-bf16": (2.0, 2.0, 2.0), "torch-int8-dynamic": (1.0, 1.0, 1.0)}
    choice = best.choose(r, measured(store, times), "demo", "latency")
    assert {c.name: c.loss for c in choice.candidates} == {
        "torch-int8-dynamic": "over",
        "torch-bf16": "within",
        "torch-fp32": "within",
    }
    assert [c.amount for c in choice.candidates] == pytest.approx([0.25, 0.5, 1.0])
    assert choice.winner and choice.winner.name == "torch-bf16" and not choice.undecided and not choice.tied
    assert choice.sentences == [
        "The fastest with at most 1 point of WER lost is torch-bf16: 2.00 [2.00, 2.00] times as fast as the "
        "original, WER +0.0 [+0.0, +0.0] points against the original."
    ]


def test_a_wider_limit_lets_the_lossy_one_win(store: Store) -> None:
    r = evaluated(store, {"torch-int8-dynamic": EVERY})
    times = {"torch-fp32": (4.0, 4.0), "torch-int8-dynamic": (1.0, 1.0)}
    choice = best.choose(r, measured(store, times), "demo", "latency", 0.1)
    assert choice.winner and choice.winner.name == "torch-int8-dynamic"
    assert choice.winner.delta == pytest.approx(0.1)


def test_an_interval_that_spans_the_limit_decides_nothing(store: Store) -> None:
    r = evaluated(store, {"torch-bf16": NONE, "torch-int8-dynamic": SPANNING})
    times = {"torch-fp32": (4.0, 4.0, 4.0), "torch-bf16": (2.0, 2.0, 2.0), "torch-int8-dynamic": (1.0, 1.0, 1.0)}
    choice = best.choose(r, measured(store, times), "demo", "latency")
    assert [c.name for c in choice.undecided] == ["torch-int8-dynamic"]
    low, high = choice.undecided[0].delta_low, choice.undecided[0].delta_high
    assert low is not None and high is not None and low <= 0.01 < high
    assert choice.winner and choice.winner.name == "torch-bf16"
    assert choice.sentences[0].startswith("Undecided: torch-int8-dynamic would be the fastest (4.00")
    assert "surely at most 1 point" in choice.sentences[1]


def test_what_can_not_be_told_apart_is_named(store: Store) -> None:
    r = evaluated(store, {"torch-bf16": NONE, "torch-int8-dynamic": NONE})
    times = {
        "torch-fp32": (4.0, 4.0, 4.0, 4.0),
        "torch-bf16": (1.0, 2.0, 1.0, 2.0),
        "torch-int8-dynamic": (2.0, 1.0, 2.1, 1.1),
    }
    choice = best.choose(r, measured(store, times), "demo", "latency")
    assert (
        choice.winner and choice.winner.name == "torch-bf16" and [c.name for c in choice.tied] == ["torch-int8-dynamic"]
    )


def test_size_and_memory(store: Store) -> None:
    r = evaluated(store, {"torch-bf16": NONE, "torch-int8-dynamic": EVERY, "onnx-fp32": NONE})
    smallest = best.choose(r, None, "demo", "size")
    assert smallest.winner and smallest.winner.name == "torch-bf16" and smallest.winner.amount == 200
    run = measured(store, {"torch-fp32": (4.0,), "onnx-fp32": (1.0,)})
    choice = best.choose(r, run, "demo", "memory")
    assert choice.winner and choice.winner.name == "torch-fp32" and choice.winner.amount == 100
    # What the run did not measure comes last, and can't win.
    assert [c.name for c in choice.candidates][:2] == ["torch-fp32", "onnx-fp32"]
    assert {c.name for c in choice.candidates if c.amount is None} == {"torch-bf16", "torch-int8-dynamic"}


def test_the_original_wins_where_all_else_loses(store: Store) -> None:
    choice = best.choose(evaluated(store, {"torch-int8-dynamic": EVERY}), None, "demo", "size")
    assert choice.winner and choice.winner.name == "torch-fp32"
    assert choice.sentences == [
        "The smallest with at most 1 point of WER lost is torch-fp32: 0 MB, WER +0.0 [+0.0, +0.0] points against "
        "the original."
    ]
