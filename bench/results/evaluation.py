"""An evaluation read from the store: errors, intervals, times and the worst clips, computed from the raw texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from bench.core import scoring
from bench.core.records import ClipRecord, Evaluation, Failure, Prediction, VariantRecord
from bench.core.scoring import Comparison, Errors
from bench.core.specs import Variant
from bench.core.store import Store
from bench.families import catalogue
from bench.families.tasks.task import Counts, Task
from bench.results import report, tables
from bench.results.tables import Row

FEW_CLIPS = 6  # that differ: with fewer, a sign test shows nothing at 5 %, and a bootstrap claims too much
MOSTLY_WRONG = 0.5  # an original's WER above which the reader is warned
WORSE = "more errors than the original"
RESAMPLES = 10_000  # for intervals


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip's prediction by one variant, beside its model's baseline."""

    clip: ClipRecord
    prediction: Prediction
    words: Errors
    baseline: Errors  # no errors if the baseline has no prediction


@dataclass(frozen=True, slots=True)
class Score:
    """One variant's errors and times over the clips that both it and its baseline transcribed."""

    position: int
    record: VariantRecord
    is_baseline: bool
    clips: tuple[ClipScore, ...]
    words: Errors  # by the deciding metric
    others: Mapping[str, Errors]  # by name of the task's further metrics
    comparison: Comparison
    audio_s: float
    compute_s: float  # of the forward passes alone

    @property
    def characters(self) -> Errors:
        """Errors in characters."""
        return self.others.get("cer", Errors())

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of computing per second of audio."""
        return self.compute_s / self.audio_s if self.audio_s else None

    @property
    def mean_s(self) -> float | None:
        """Mean seconds of a clip's forward passes."""
        return self.compute_s / len(self.clips) if self.clips else None

    @property
    def size_bytes(self) -> int | None:
        """Size of the artefact on disk."""
        return self.record.artefact.size_bytes if self.record.artefact else None

    @property
    def unpaired(self) -> int:
        """Number of clips transcribed at another time than by the original: their times are less comparable."""
        return sum(not c.prediction.paired for c in self.clips)

    def worst(self, count: int) -> list[ClipScore]:
        """The clips with the most errors beyond the baseline's; for the baseline itself, those with the most errors."""
        lost_words = {
            c.clip.position: c.words.count - (0 if self.is_baseline else c.baseline.count) for c in self.clips
        }
        ranked = sorted(self.clips, key=lambda c: (-lost_words[c.clip.position], -c.words.count, c.clip.position))
        return [c for c in ranked if lost_words[c.clip.position] > 0][:count]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything computed from an evaluation so far."""

    evaluation: Evaluation
    clips: tuple[ClipRecord, ...]
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]
    normaliser: str


def result(store: Store, run_id: str, normaliser: str | None = None, *, intervals: bool = True) -> Result | None:
    """Score an evaluation with the normaliser it was started with, or another one; None if there is no such evaluation.

    Without intervals it is cheap enough to call at every refresh of a live evaluation.
    """
    return result_at(store, run_id, normaliser, intervals, store.revision())


@lru_cache(maxsize=4)
def result_at(store: Store, run_id: str, normaliser: str | None, intervals: bool, revision: int) -> Result | None:
    """The scores as first computed at this revision, even if the store has a newer one by now."""
    with store.snapshot():
        evaluation = store.evaluation(run_id)
        if evaluation is None:
            return None
        task = catalogue.task(evaluation.spec.task)
        clips, failures = store.clips(run_id), store.failures(run_id)
        predictions = store.predictions(run_id, task.output_from)
        variants = store.variants(evaluation)
    normaliser_name = normaliser or evaluation.spec.normaliser
    deciding, *further = (metric.name for metric in task.METRICS)
    by_variant: dict[int, dict[int, Prediction]] = {p: {} for p in range(len(variants))}
    for prediction in predictions:
        by_variant[prediction.variant][prediction.clip] = prediction
    counts = {(p.variant, p.clip): _counts(task, clips[p.clip].text, p.output, normaliser_name) for p in predictions}
    scores = []
    for positions in evaluation.spec.comparisons.values():
        baseline = positions[0]
        for p in positions:
            baseline_failed = not by_variant[baseline]  # the others still have errors to count
            clip_positions = sorted(
                by_variant[p].keys() if baseline_failed else by_variant[p].keys() & by_variant[baseline].keys()
            )
            if not clip_positions:
                continue
            clip_scores = tuple(
                ClipScore(
                    clips[i],
                    by_variant[p][i],
                    counts[p, i][deciding],
                    counts[baseline, i][deciding] if (baseline, i) in counts else Errors(),
                )
                for i in clip_positions
            )
            word_errors = [c.words for c in clip_scores]
            baseline_errors = word_errors if baseline_failed else [c.baseline for c in clip_scores]
            comparison = scoring.bootstrap(
                baseline_errors, word_errors, evaluation.spec.seed, RESAMPLES if intervals else 1
            )
            if not intervals:
                comparison = replace(comparison, wer_low=None, wer_high=None, delta_low=None, delta_high=None)
            if baseline_failed:
                comparison = replace(comparison, delta=None, delta_low=None, delta_high=None, no_worse_ratio=None)
            scores.append(
                Score(
                    position=p,
                    record=variants[p],
                    is_baseline=p == baseline,
                    clips=clip_scores,
                    words=sum(word_errors, Errors()),
                    others={
                        metric: sum((counts[p, i][metric] for i in clip_positions), Errors()) for metric in further
                    },
                    comparison=comparison,
                    audio_s=sum(c.clip.length_s or 0.0 for c in clip_scores),
                    compute_s=sum(c.prediction.seconds for c in clip_scores),
                )
            )
    return Result(
        evaluation, tuple(clips), tuple(sorted(scores, key=lambda s: s.position)), tuple(failures), normaliser_name
    )


@lru_cache(maxsize=100_000)  # a live page reads again after every clip; each prediction is counted once
def _counts(task: Task, target: str, output: Any, normaliser: str) -> Counts:
    return task.count(target, output, normaliser)


def summary_rows(r: Result) -> list[Row]:
    """One row per variant; rates are fractions, differences are variant minus baseline."""
    main_metric, *_ = (metric.name for metric in catalogue.task(r.evaluation.spec.task).METRICS)
    return [
        {
            "run_id": r.evaluation.id,
            "dataset": r.evaluation.spec.dataset,
            "split": r.evaluation.spec.split,
            "normaliser": r.normaliser,
            "model": s.record.variant.model,
            "mode": s.record.variant.spelled,
            "threads": s.record.variant.placement.threads,
            "clips": len(s.clips),
            "words": s.words.reference_count,
            main_metric: s.comparison.wer,
            f"{main_metric}_low": s.comparison.wer_low,
            f"{main_metric}_high": s.comparison.wer_high,
            f"{main_metric}_delta": s.comparison.delta,
            f"{main_metric}_delta_low": s.comparison.delta_low,
            f"{main_metric}_delta_high": s.comparison.delta_high,
            "no_worse_ratio": s.comparison.no_worse_ratio,
            **{name: errors.rate for name, errors in s.others.items()},
            "substitutions": s.words.substitutions,
            "deletions": s.words.deletions,
            "insertions": s.words.insertions,
            "audio_s": s.audio_s,
            "rtf": s.rtf,
            "mean_s": s.mean_s,
            "unpaired_clips": s.unpaired,
            "size_bytes": s.size_bytes,
            **tables.device_columns(r.evaluation.device),
            "placement": str(s.record.variant.placement),
        }
        for s in r.scores
    ]


def clip_rows(r: Result) -> list[Row]:
    """One row per clip and variant, with the raw texts."""
    return [
        {
            "run_id": r.evaluation.id,
            "clip": c.clip.id,
            "length_s": c.clip.length_s,
            "model": s.record.variant.model,
            "mode": s.record.variant.spelled,
            "seconds": c.prediction.seconds,
            "reference": c.clip.text,
            "text": c.prediction.output.text,
            "words": c.words.reference_count,
            "substitutions": c.words.substitutions,
            "deletions": c.words.deletions,
            "insertions": c.words.insertions,
            "paired": c.prediction.paired,
            **tables.device_columns(r.evaluation.device),
        }
        for s in r.scores
        for c in s.clips
    ]


def unbeaten(scores: Sequence[Score]) -> list[Score]:
    """The scores that no other one of the evaluation beats in WER, latency and size at once (the Pareto front).

    A variant that failed partway transcribed other clips than the rest, and is left out.
    """

    def objectives(s: Score) -> tuple[float, float, float]:
        return (s.comparison.wer or 0.0, s.compute_s / s.audio_s, float(s.size_bytes or 0))

    most_clips = max((len(s.clips) for s in scores), default=0)
    comparable = [s for s in scores if s.audio_s and s.comparison.wer is not None and len(s.clips) == most_clips]
    return [
        s for s in comparable if not any(_dominates(objectives(o), objectives(s)) for o in comparable if o is not s)
    ]


def to_json(r: Result) -> str:
    """The whole evaluation: spec, device, failures, the summary, and every clip with its texts."""
    document = {
        "evaluation": asdict(r.evaluation),
        "failures": [asdict(f) for f in r.failures],
        "summary": summary_rows(r),
        "clips": clip_rows(r),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def transcribed(r: Result) -> str:
    """How many clips were transcribed: all, or how many of them so far."""
    count = max((len(s.clips) for s in r.scores), default=0)
    return f"{len(r.clips)} clips" if count == len(r.clips) else f"{count} of {len(r.clips)} clips"


def headline(r: Result) -> str:
    """The evaluation in a few sentences: the fastest mode against the original, and all others with a worse WER.

    "" if there is nothing to say yet.
    """
    others = [s for s in r.scores if not s.is_baseline and s.comparison.delta is not None]
    if not others:
        return ""
    fastest = min(others, key=lambda s: s.rtf or 0.0)
    worse = {
        label(r.evaluation, s.record.variant): 100 * (s.comparison.delta or 0.0)
        for s in others
        if s is not fastest and _verdict(s) == WORSE
    }
    text = _against_original(r, fastest)
    if worse:
        worst_first = sorted(worse.items(), key=lambda item: -item[1])
        too = " too" if _verdict(fastest) == WORSE else ""
        listed = ", ".join(f"{name} ({delta:+.1f} points)" for name, delta in worst_first)
        text += f" These make more errors{too}: {listed}."
    return text


def _verdict(s: Score) -> str:
    """What the evaluation shows about a variant against the original."""
    comparison = s.comparison
    if comparison.delta_low is None or comparison.delta_high is None:
        return "one clip is too few to say more"
    if 0 < (differing := sum(x.words.count != x.baseline.count for x in s.clips)) < FEW_CLIPS:
        return f"{differing} of {len(s.clips)} clips differ, too few for the interval to be trusted"
    if comparison.delta_low > 0:
        return WORSE
    if comparison.delta_high < 0:
        return "fewer errors than the original"
    if comparison.delta_low == comparison.delta_high == 0:
        return "as many errors in every clip"
    return f"{s.words.reference_count} words are too few to show a difference"


def _against_original(r: Result, s: Score) -> str:
    comparison = s.comparison
    assert comparison.delta is not None and comparison.wer is not None
    name = label(r.evaluation, s.record.variant)
    # The original's WER is over the clips that both transcribed.
    text = (
        f"{name}: WER {_percent(comparison.wer)} against {_percent(comparison.wer - comparison.delta)} of the original"
    )
    if len(s.clips) < max(len(x.clips) for x in r.scores):
        text += f" on the {len(s.clips)} clips that it transcribed"
    text += f": {_verdict(s)}"
    if (
        comparison.delta_low is not None
        and comparison.delta_high is not None
        and (comparison.delta_low, comparison.delta_high) != (0, 0)
    ):
        text += f" (95 % interval {100 * comparison.delta_low:+.1f} to {100 * comparison.delta_high:+.1f} points)"
    return f"{text}."


def doubts(r: Result) -> list[str]:
    """What a reader must know before trusting a difference in words or in times, as sentences."""
    warnings = []
    if unpaired := [s for s in r.scores if s.unpaired and s.comparison.delta is not None]:
        names = ", ".join(label(r.evaluation, s.record.variant) for s in unpaired)
        warnings.append(
            f"{names} transcribed {'some of the' if any(s.unpaired < len(s.clips) for s in unpaired) else 'the'} "
            "clips at another time than the original, because not all fit into memory at once or the evaluation was "
            "resumed. Words are compared as always; compare times with care, or measure them with a benchmark."
        )
    for s in r.scores:
        if s.is_baseline and s.comparison.wer is not None and s.comparison.wer > MOSTLY_WRONG:
            model = s.record.variant.model
            has_random_weights = catalogue.exists(model) and catalogue.find(model).source == "random"
            reason = (
                "It has random weights, so its texts mean nothing: choose a trained model."
                if has_random_weights
                else "It may have been trained on another language or vocabulary, or the references do not fit the "
                "clips: look at the worst clips below, or choose another normaliser."
            )
            warnings.append(
                f"{model} itself gets most words wrong (WER {_percent(s.comparison.wer)}). {reason} Differences "
                "between its variants mean little."
            )
    return warnings


def title(evaluation: Evaluation) -> str:
    """One line that names an evaluation: when and what."""
    spec = evaluation.spec
    count = len(dict.fromkeys(v.spelled for v in spec.variants))
    name = spec.dataset.rstrip("/").rsplit("/", 1)[-1]
    models = ", ".join(dict.fromkeys(v.model for v in spec.variants))
    return f"{report.when(evaluation.created_s)} · {name} · {models} · {count} mode{'s' if count > 1 else ''}"


def label(evaluation: Evaluation, variant: Variant) -> str:
    """A variant's name within its evaluation."""
    several = len({v.model for v in evaluation.spec.variants}) > 1
    return f"{variant.spelled}, {variant.model}" if several else variant.spelled


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _dominates(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b
