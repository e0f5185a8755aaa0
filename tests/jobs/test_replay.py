"""Recorded runs on a busy machine, replayed through the runner's clock: how near its forecasts came."""

from __future__ import annotations

from collections import Counter

import pytest
import timelines
from timelines import Timeline

from bench.core import stats
from bench.core.stats import StopRule
from bench.jobs.rounds import Tally

AT, WITHIN = 0.2, 1 / 3
RUNS = timelines.load()
JUDGED = [run for run in RUNS if run.use == "judge"]


def test_there_are_enough_runs_and_half_of_them_judge() -> None:
    assert len(RUNS) >= 20 and abs(len(RUNS) - 2 * len(JUDGED)) <= 1
    assert len({(run.spec.sizes, run.spec.variants) for run in JUDGED}) > 5, "they are not all alike"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_recorded_groups_ended_by_the_rule(run: Timeline) -> None:
    """The data are whole: where the rule ends a group, the recording ends."""
    rule = StopRule(run.spec.precision_target, run.spec.repeats)
    for group in run.groups:
        tally = Tally(group.variants[0], group.variants)
        for i, (variant, number, _, end_s, kept_s) in enumerate(group.visits):
            tally.add(variant, number, kept_s)
            if i + 1 == len(group.visits) or group.visits[i + 1][1] != number:
                tally.end_round(group.variants)
                elapsed_s = end_s - group.visits[0][2]
                ended = rule.ended(tally.rounds, tally.passes, elapsed_s, tally.intervals())
                last = i + 1 == len(group.visits)
                # The recorded times are rounded, so the 120 s may seem to have passed a moment later or earlier.
                near_cap = abs(elapsed_s - rule.max_s) < 1
                assert bool(ended) == last or near_cap, (group.size, tally.rounds, ended)
        assert tally.rounds >= min(stats.FEWEST_LOOKED_AT, run.spec.repeats)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_time_left_never_runs_away(run: Timeline) -> None:
    moments = list(timelines.replay(run))
    assert all(0 <= m.remaining.quiet_s <= m.remaining.likely_s <= m.remaining.most_s for m in moments[1:])
    limit_s = 1.35 * max(run.end_s, moments[0].remaining.most_s)
    assert max(m.at_s + m.remaining.likely_s for m in moments) < limit_s
    assert moments[-1].remaining.likely_s == 0


def test_a_fifth_into_a_run_the_forecast_is_near() -> None:
    """The goal, nine of ten judging runs, is not reached where noise differs from earlier runs'.

    This guards what is reached, for the time left and for the total time; see `tests/perf/forecast.py`.
    """
    left, total = Counter[str](), Counter[str]()
    for run in RUNS:
        at_s = AT * run.end_s
        forecast_s = next(m.remaining.likely_s for m in timelines.replay(run, (at_s,)) if m.at_s == at_s)
        error_s = abs(forecast_s - (run.end_s - at_s))
        left[run.use] += error_s <= WITHIN * (run.end_s - at_s)
        total[run.use] += error_s <= WITHIN * run.end_s
    assert left["tune"] >= 11 and total["tune"] >= 11, (left, total)  # of 13
    assert left["judge"] >= 6 and total["judge"] >= 9, (left, total)  # of 13
