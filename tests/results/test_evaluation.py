"""Evaluations as read: errors, intervals, times and the worst clips, by hand on a store filled by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.records import Artefact, ClipRecord, Failure, Prediction, Transcription
from bench.core.specs import EvaluationSpec, Placement, Variant
from bench.core.store import Store
from bench.device.host import device
from bench.results import evaluation, tables
from bench.results.evaluation import Result

BASE, FP32, BF16, INT8 = "wav2vec2-base-random", "torch-fp32", "torch-bf16", "torch-int8-dynamic"
SAID = ["one two three four", "five six", "seven eight nine ten", "=one"]
HEARD = {
    FP32: ["one two three four", "five sex", "seven eight nine ten", "=one"],  # 1 S
    INT8: ["one too four", "five six", "seven eight nine ten oh", "=one"],  # 1 S, 1 D, 1 I
    BF16: ["one two three four", "five sex", "seven eight nine ten", "=one"],
}
LENGTH_S, SECONDS = 2.0, {FP32: 0.5, BF16: 0.75, INT8: 0.25}
SIZES = {FP32: 400, BF16: 400, INT8: 100}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "earbench.db")


def filled(store: Store, modes: tuple[str, ...] = (FP32, BF16, INT8), skip: tuple[str, int] = ("", 0)) -> str:
    """Four clips of 2 s, 11 words, heard by every mode but those of `skip`: (mode, from this clip on)."""
    spec = EvaluationSpec(tuple(Variant(BASE, m, Placement("cpu", 2)) for m in modes), "/clips")
    run_id = store.create_run(spec, device())
    store.set_clips(run_id, [ClipRecord(i, f"{i}.wav", f"/clips/{i}.wav", text) for i, text in enumerate(SAID)])
    for p, mode in enumerate(modes):
        store.set_variant(run_id, p, artefact=Artefact("d", "seed 0", SIZES[mode] * 10**6, 1.0, None, False))
    for i in range(len(SAID)):
        predictions = [
            Prediction(p, i, SECONDS[mode], Transcription(HEARD[mode][i], ()))
            for p, mode in enumerate(modes)
            if mode != skip[0] or i < skip[1]
        ]
        store.add_predictions(run_id, LENGTH_S, predictions)
    store.set_state(run_id, "done")
    return run_id


def result(store: Store, run_id: str, normaliser: str | None = None) -> Result:
    result_of_run = evaluation.result(store, run_id, normaliser)
    assert result_of_run
    return result_of_run


def test_the_csv_has_what_a_lab_asks_for_and_where_it_was_measured(store: Store) -> None:
    r = result(store, filled(store))
    columns = "mode words wer wer_low wer_high wer_delta wer_delta_low wer_delta_high cer substitutions deletions "
    columns += "insertions rtf mean_s"
    for row in evaluation.summary_rows(r):
        assert [name for name in row if name in columns.split()] == columns.split()
    for row in (*evaluation.summary_rows(r), *evaluation.clip_rows(r)):
        assert (row["device_id"], row["python_version"]) == (device().id, device().versions["python"])


def test_clips_of_another_time_are_told_but_not_where_there_is_nothing_to_compare(store: Store) -> None:
    def doubts(run_id: str) -> str:
        return " ".join(evaluation.doubts(result(store, run_id)))

    run_id = filled(store)
    assert "another time" not in doubts(run_id)
    apart = Prediction(2, 1, 0.25, Transcription("five six", ()), paired=False)
    store.add_predictions(run_id, LENGTH_S, [apart])
    assert apart in store.predictions(run_id)
    assert "torch-int8-dynamic transcribed some of the clips at another time" in doubts(run_id)
    alone = filled(store, skip=(FP32, 0))
    store.add_predictions(alone, LENGTH_S, [apart])
    assert "another time" not in doubts(alone)


def test_figures_by_hand(store: Store) -> None:
    original, _, int8 = result(store, filled(store)).scores
    assert original.is_baseline and not int8.is_baseline
    w = int8.words
    assert (w.reference_count, w.substitutions, w.deletions, w.insertions) == (11, 1, 1, 1)
    assert int8.comparison.wer == pytest.approx(3 / 11) and original.comparison.wer == pytest.approx(1 / 11)
    assert int8.comparison.delta == pytest.approx(2 / 11) and original.comparison.delta == 0
    assert int8.comparison.no_worse_ratio == 2 / 4  # clips 1 and 3
    assert int8.comparison.delta_low is not None and int8.comparison.delta_high is not None
    assert int8.comparison.delta_low <= 2 / 11 <= int8.comparison.delta_high
    assert (int8.rtf, int8.mean_s, int8.size_bytes) == (0.125, 0.25, 100 * 10**6)
    # "five six" has i -> e; 18 + 8 + 20 + 3 characters with spaces, "=" is no punctuation
    assert original.characters.count == 1 and original.characters.reference_count == 18 + 8 + 20 + 4


def test_the_worst_clips_are_those_that_lost_most(store: Store) -> None:
    original, _, int8 = result(store, filled(store)).scores
    assert [c.clip.position for c in int8.worst(10)] == [0, 2]  # 2 errors more, 1 more; clip 1 is better
    assert [c.clip.position for c in int8.worst(1)] == [0]
    assert [c.clip.position for c in original.worst(10)] == [1]  # of the original, those with errors


def test_what_nothing_beats(store: Store) -> None:
    r = result(store, filled(store))
    # bf16 transcribes and weighs as fp32 does and is slower; int8 makes more errors and is the fastest
    assert [s.record.variant.mode for s in evaluation.unbeaten(r.scores)] == [FP32, INT8]


def test_rows_of_both_files(store: Store) -> None:
    r = result(store, filled(store))
    rows = evaluation.summary_rows(r)
    assert [row["mode"] for row in rows] == [FP32, BF16, INT8]
    row = rows[2]
    assert row["wer"] == pytest.approx(3 / 11) and row["wer_delta"] == pytest.approx(2 / 11)
    assert [row[k] for k in ("words", "substitutions", "deletions", "insertions", "clips")] == [11, 1, 1, 1, 4]
    assert (row["rtf"], row["mean_s"], row["audio_s"], row["size_bytes"]) == (0.125, 0.25, 8.0, 10**8)
    clips = evaluation.clip_rows(r)
    assert len(clips) == 3 * 4 and clips[8]["text"] == "one too four" and clips[8]["deletions"] == 1
    assert "'=one" in tables.to_csv(clips), "a text that a spreadsheet would run is made inert"
    assert '"summary"' in evaluation.to_json(r)


def test_another_normaliser_counts_anew(store: Store) -> None:
    run_id = filled(store)
    loud = [t.upper() for t in HEARD[INT8]]
    for i, text in enumerate(loud):
        store.add_predictions(run_id, LENGTH_S, [Prediction(2, i, 0.25, Transcription(text, ()))])
    assert result(store, run_id).scores[2].words.count == 3
    strict = result(store, run_id, "none")
    assert strict.normaliser == "none" and strict.scores[2].words.count == 11 + 1  # all, and one inserted


def test_without_intervals_it_is_cheap(store: Store) -> None:
    quick = evaluation.result(store, filled(store), intervals=False)
    assert quick
    c = quick.scores[2].comparison
    assert c.wer == pytest.approx(3 / 11) and c.delta == pytest.approx(2 / 11)
    assert c.wer_low is c.wer_high is c.delta_low is c.delta_high is None


def test_a_variant_that_died_is_compared_on_the_clips_it_heard(store: Store) -> None:
    r = result(store, filled(store, skip=(INT8, 2)))
    int8 = r.scores[2]
    assert len(int8.clips) == 2 and int8.words.reference_count == 6
    assert int8.comparison.delta == pytest.approx((2 - 1) / 6)
    assert "33.3 % against 16.7 % of the original on the 2 clips that it transcribed" in evaluation.headline(r)
    assert [s.record.variant.mode for s in evaluation.unbeaten(r.scores)] == [FP32], "int8 heard other clips"


def test_variants_have_a_wer_though_the_original_failed(store: Store) -> None:
    r = result(store, filled(store, skip=(FP32, 0)))
    assert [s.record.variant.mode for s in r.scores] == [BF16, INT8]
    assert r.scores[1].comparison.wer == pytest.approx(3 / 11)
    assert r.scores[1].comparison.delta is None and r.scores[1].comparison.no_worse_ratio is None
    assert evaluation.headline(r) == ""
    assert [c.clip.position for c in r.scores[1].worst(10)] == [0, 2]


def test_headline_names_the_fastest(store: Store) -> None:
    sentence = evaluation.headline(result(store, filled(store)))
    assert sentence.startswith(
        "torch-int8-dynamic: WER 27.3 % against 9.1 % of the original: 3 of 4 clips differ, too few"
    )
    same = evaluation.headline(result(store, filled(store, (FP32, BF16))))
    assert same.endswith("of the original: as many errors in every clip.")
    assert evaluation.headline(result(store, filled(store, (FP32,)))) == ""


def test_an_original_that_gets_most_wrong_is_doubted(store: Store) -> None:
    assert evaluation.doubts(result(store, filled(store))) == []
    run_id = filled(store)
    for i in range(4):
        store.add_predictions(run_id, LENGTH_S, [Prediction(0, i, 0.5, Transcription("no idea", ()))])
    (sentence,) = evaluation.doubts(result(store, run_id))
    assert "random weights" in sentence and f"{BASE} itself gets most words wrong" in sentence


def test_nothing_heard_has_no_scores(store: Store) -> None:
    run_id = store.create_run(EvaluationSpec((Variant(BASE, FP32, Placement("cpu", 2)),), "/clips"), device())
    store.add_failure(run_id, Failure(0, "open", "killed", "It was killed."))
    r = result(store, run_id)
    assert r.scores == () and len(r.failures) == 1 and evaluation.headline(r) == "" and evaluation.doubts(r) == []
    assert evaluation.result(store, "20000101-000000-dead") is None


def test_headline_names_every_mode_that_hears_worse_the_worst_first(store: Store) -> None:
    texts = [f"one two three four {word}" for word in ["five", "six", "seven", "eight", "nine", "ten", "go", "stop"]]
    transcribe_by_mode = {
        FP32: lambda t: t,
        BF16: lambda t: t.replace("two", "too"),
        INT8: lambda t: "",
        "onnx-fp32": lambda t: t,
    }
    seconds = {FP32: 0.5, BF16: 0.75, INT8: 0.6, "onnx-fp32": 0.25}
    spec = EvaluationSpec(tuple(Variant(BASE, m, Placement("cpu", 2)) for m in transcribe_by_mode), "/clips")
    run_id = store.create_run(spec, device())
    store.set_clips(run_id, [ClipRecord(i, f"{i}.wav", f"/clips/{i}.wav", text) for i, text in enumerate(texts)])
    for i, text in enumerate(texts):
        predictions = [
            Prediction(p, i, seconds[m], Transcription(transcribe(text), ()))
            for p, (m, transcribe) in enumerate(transcribe_by_mode.items())
        ]
        store.add_predictions(run_id, LENGTH_S, predictions)
    assert evaluation.headline(result(store, run_id)) == (
        "onnx-fp32: WER 0.0 % against 0.0 % of the original: as many errors in every clip. "
        "These make more errors: torch-int8-dynamic (+100.0 points), torch-bf16 (+20.0 points)."
    )
