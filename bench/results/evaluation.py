"""An evaluation as read from the store: errors, intervals, times and the worst clips, counted anew from raw texts."""

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

FEW_CLIPS = 6  # that differ: with fewer a sign test finds nothing at 5 %, and a bootstrap claims too much
MOSTLY_WRONG = 0.5  # WER of an original above which a reader is warned
WORSE = "it hears worse"
RESAMPLES = 10_000  # for intervals


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip's prediction by one variant, beside its model's baseline."""

    clip: ClipRecord
    prediction: Prediction
    words: Errors
    baseline: Errors  # none where the baseline has no prediction


@dataclass(frozen=True, slots=True)
class Score:
    """One variant over the clips that it and its baseline have transcribed."""

    position: int
    record: VariantRecord
    is_baseline: bool
    clips: tuple[ClipScore, ...]
    words: Errors  # by the metric that decides
    others: Mapping[str, Errors]  # by the names of the task's further metrics
    comparison: Comparison
    audio_s: float
    compute_s: float  # of the forward passes alone

    @property
    def characters(self) -> Errors:
        """Errors in characters."""
        return self.others.get("cer", Errors())

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of computing for a second of audio."""
        return self.compute_s / self.audio_s if self.audio_s else None

    @property
    def mean_s(self) -> float | None:
        """Mean seconds of a clip's forward passes."""
        return self.compute_s / len(self.clips) if self.clips else None

    @property
    def size_bytes(self) -> int | None:
        """The artefact on disk."""
        return self.record.artefact.size_bytes if self.record.artefact else None

    @property
    def unpaired(self) -> int:
        """Clips that it transcribed at another time than the original did, so that their times are less comparable."""
        return sum(not c.prediction.paired for c in self.clips)

    def worst(self, count: int) -> list[ClipScore]:
        """The clips that lost most against the baseline; of the baseline itself, those with most errors."""
        lost = {c.clip.position: c.words.count - (0 if self.is_baseline else c.baseline.count) for c in self.clips}
        found = sorted(self.clips, key=lambda c: (-lost[c.clip.position], -c.words.count, c.clip.position))
        return [c for c in found if lost[c.clip.position] > 0][:count]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that can be said of an evaluation so far."""

    evaluation: Evaluation
    clips: tuple[ClipRecord, ...]
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]
    normaliser: str


def result(store: Store, run_id: str, normaliser: str | None = None, *, intervals: bool = True) -> Result | None:
    """An evaluation, scored with the normaliser that it was started with or another one; None if it is not there.

    Without intervals it is cheap enough for every look at a live one.
    """
    return _result(store, run_id, normaliser, intervals, store.revision())


@lru_cache(maxsize=4)
def _result(store: Store, run_id: str, normaliser: str | None, intervals: bool, _revision: int) -> Result | None:
    with store.snapshot():
        evaluation = store.evaluation(run_id)
        if evaluation is None:
            return None
        task = catalogue.task(evaluation.spec.task)
        clips, failures = store.clips(run_id), store.failures(run_id)
        predictions = store.predictions(run_id, task.output_from)
        variants = store.variants(evaluation)
    name = normaliser or evaluation.spec.normaliser
    first, *others = (metric.name for metric in task.METRICS)
    by_variant: dict[int, dict[int, Prediction]] = {p: {} for p in range(len(variants))}
    for prediction in predictions:
        by_variant[prediction.variant][prediction.clip] = prediction
    counts = {(p.variant, p.clip): _counts(task, clips[p.clip].text, p.output, name) for p in predictions}
    scores = []
    for positions in evaluation.spec.comparisons.values():
        baseline = positions[0]
        for p in positions:
            alone = not by_variant[baseline]  # the baseline failed, yet the others have errors of their own
            both = sorted(by_variant[p].keys() if alone else by_variant[p].keys() & by_variant[baseline].keys())
            if not both:
                continue
            scored = tuple(
                ClipScore(
                    clips[i],
                    by_variant[p][i],
                    counts[p, i][first],
                    counts[baseline, i][first] if (baseline, i) in counts else Errors(),
                )
                for i in both
            )
            words = [c.words for c in scored]
            baselines = words if alone else [c.baseline for c in scored]
            comparison = scoring.bootstrap(baselines, words, evaluation.spec.seed, RESAMPLES if intervals else 1)
            if not intervals:
                comparison = replace(comparison, wer_low=None, wer_high=None, delta_low=None, delta_high=None)
            if alone:
                comparison = replace(comparison, delta=None, delta_low=None, delta_high=None, no_worse_ratio=None)
            scores.append(
                Score(
                    position=p,
                    record=variants[p],
                    is_baseline=p == baseline,
                    clips=scored,
                    words=sum(words, Errors()),
                    others={metric: sum((counts[p, i][metric] for i in both), Errors()) for metric in others},
                    comparison=comparison,
                    audio_s=sum(c.clip.length_s or 0.0 for c in scored),
                    compute_s=sum(c.prediction.seconds for c in scored),
                )
            )
    return Result(evaluation, tuple(clips), tuple(sorted(scores, key=lambda s: s.position)), tuple(failures), name)


@lru_cache(maxsize=100_000)  # a live page reads again after every clip; what was counted before is not counted anew
def _counts(task: Task, target: str, output: Any, normaliser: str) -> Counts:
    return task.count(target, output, normaliser)


def summary_rows(r: Result) -> list[Row]:
    """A row a variant; rates are fractions, differences are variant minus baseline."""
    decides, *_ = (metric.name for metric in catalogue.task(r.evaluation.spec.task).METRICS)
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
            decides: s.comparison.wer,
            f"{decides}_low": s.comparison.wer_low,
            f"{decides}_high": s.comparison.wer_high,
            f"{decides}_delta": s.comparison.delta,
            f"{decides}_delta_low": s.comparison.delta_low,
            f"{decides}_delta_high": s.comparison.delta_high,
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
    """A row a clip and variant, with the raw texts."""
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
    """Those that no other one of the same evaluation beats in WER, latency and size at once (the Pareto front).

    Who died on the way heard other clips than the rest, and is left out.
    """

    def marks(s: Score) -> tuple[float, float, float]:
        return (s.comparison.wer or 0.0, s.compute_s / s.audio_s, float(s.size_bytes or 0))

    most = max((len(s.clips) for s in scores), default=0)
    known = [s for s in scores if s.audio_s and s.comparison.wer is not None and len(s.clips) == most]
    return [s for s in known if not any(_dominates(marks(o), marks(s)) for o in known if o is not s)]


def to_json(r: Result) -> str:
    """The whole evaluation: spec, device, failures, the summary, and every clip with its texts."""
    whole = {
        "evaluation": asdict(r.evaluation),
        "failures": [asdict(f) for f in r.failures],
        "summary": summary_rows(r),
        "clips": clip_rows(r),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)


def heard(r: Result) -> str:
    """How many clips: all, or how many of them so far."""
    so_far = max((len(s.clips) for s in r.scores), default=0)
    return f"{len(r.clips)} clips" if so_far == len(r.clips) else f"{so_far} of {len(r.clips)} clips"


def headline(r: Result) -> str:
    """The evaluation in a few sentences: the fastest mode against the original, and all others that hear worse.

    "" before there is anything to say.
    """
    others = [s for s in r.scores if not s.is_baseline and s.comparison.delta is not None]
    if not others:
        return ""
    fastest = min(others, key=lambda s: s.rtf or 0.0)
    harmed = {
        label(r.evaluation, s.record.variant): 100 * (s.comparison.delta or 0.0)
        for s in others
        if s is not fastest and _verdict(s) == WORSE
    }
    said = _against_original(r, fastest)
    if harmed:
        worst_first = sorted(harmed.items(), key=lambda item: -item[1])
        too = " too" if _verdict(fastest) == WORSE else ""
        said += f" These hear worse{too}: {', '.join(f'{name} ({lost:+.1f} points)' for name, lost in worst_first)}."
    return said


def _verdict(s: Score) -> str:
    """What can be told of a variant against the original."""
    c = s.comparison
    if c.delta_low is None or c.delta_high is None:
        return "one clip is too few to say more"
    if 0 < (differ := sum(x.words.count != x.baseline.count for x in s.clips)) < FEW_CLIPS:
        return f"{differ} of {len(s.clips)} clips differ, too few for the interval to be trusted"
    if c.delta_low > 0:
        return WORSE
    if c.delta_high < 0:
        return "it hears better"
    if c.delta_low == c.delta_high == 0:
        return "as many errors in every clip"
    return f"{s.words.reference_count} words are too few to tell a difference"


def _against_original(r: Result, s: Score) -> str:
    c = s.comparison
    assert c.delta is not None and c.wer is not None
    name = label(r.evaluation, s.record.variant)
    # The original's figure is on the clips that both heard.
    said = f"{name}: WER {_percent(c.wer)} against {_percent(c.wer - c.delta)} of the original"
    if len(s.clips) < max(len(x.clips) for x in r.scores):
        said += f" on the {len(s.clips)} clips that it heard"
    said += f": {_verdict(s)}"
    if c.delta_low is not None and c.delta_high is not None and (c.delta_low, c.delta_high) != (0, 0):
        said += f" (95 % interval {100 * c.delta_low:+.1f} to {100 * c.delta_high:+.1f} points)"
    return f"{said}."


def doubts(r: Result) -> list[str]:
    """What a reader must know before trusting a difference: of words, and of times."""
    out = []
    if apart := [s for s in r.scores if s.unpaired and s.comparison.delta is not None]:
        names = ", ".join(label(r.evaluation, s.record.variant) for s in apart)
        out.append(
            f"{names} heard {'some of the' if any(s.unpaired < len(s.clips) for s in apart) else 'the'} clips at "
            "another time than the original, because not all fitted into memory at once or the evaluation was resumed. "
            "Words are compared as always; compare times with care, or measure them with a benchmark."
        )
    for s in r.scores:
        if s.is_baseline and s.comparison.wer is not None and s.comparison.wer > MOSTLY_WRONG:
            model = s.record.variant.model
            random = catalogue.exists(model) and catalogue.find(model).source == "random"
            why = (
                "It has random weights, so its texts mean nothing: choose a trained model."
                if random
                else "It may have been trained on another language or vocabulary, or the references do not fit the "
                "clips: look at the worst clips below, or choose another normaliser."
            )
            out.append(
                f"{model} itself gets most words wrong (WER {_percent(s.comparison.wer)}). {why} Differences between "
                "its variants tell little."
            )
    return out


def title(evaluation: Evaluation) -> str:
    """An evaluation in a line: when and what."""
    spec = evaluation.spec
    count = len(dict.fromkeys(v.spelled for v in spec.variants))
    name = spec.dataset.rstrip("/").rsplit("/", 1)[-1]
    heard = ", ".join(dict.fromkeys(v.model for v in spec.variants))
    return f"{report.when(evaluation.created_s)} · {name} · {heard} · {count} mode{'s' if count > 1 else ''}"


def label(evaluation: Evaluation, variant: Variant) -> str:
    """A variant's name within its evaluation."""
    several = len({v.model for v in evaluation.spec.variants}) > 1
    return f"{variant.spelled}, {variant.model}" if several else variant.spelled


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _dominates(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b
