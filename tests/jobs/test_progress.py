"""How long the rest takes, with a clock that the test moves and a model whose work is its input's size."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from bench.core import stats
from bench.core.specs import Placement, RunSpec
from bench.core.stats import StopRule
from bench.jobs import predictor, progress, rounds
from bench.jobs.history import History
from bench.jobs.predictor import Measured
from bench.jobs.progress import Clock
from bench.jobs.rounds import Tally

MODEL = "wav2vec2-base-random"
PLACEMENT = Placement("cpu", 2)
ONE, FIVE = (MODEL, PLACEMENT, 1, 1.0), (MODEL, PLACEMENT, 1, 5.0)
SPEC = RunSpec.grid([MODEL], ["torch-fp32", "torch-int8-dynamic"], [1, 5], placements=[PLACEMENT])
FP32, INT8 = SPEC.variants
# A pass of 1 s at 1 s of input and 5 s at 5 s; starting takes no time. Rounds that hardly differ end at the first look.
CALM = History((Measured(FP32, 1, 1.0, 1.0, None), Measured(INT8, 1, 1.0, 1.0, 0.001)), 0.0, 0.0)
LOUD = History((Measured(FP32, 1, 1.0, 1.0, None), Measured(INT8, 1, 1.0, 1.0, 10.0)), 0.0, 0.0)
VISIT_S = 4 * 1.0 + predictor.VISIT_OVERHEAD_S  # one discarded pass and three kept ones
LONG_VISIT_S = 2 * 5.0 + predictor.VISIT_OVERHEAD_S  # over 2 s: one kept pass


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(predictor, "work", lambda model, batch, size: batch * size)
    # Arithmetic by hand: times grow with the work, this run counts at once, and no group ends by luck.
    for module, name, value in (
        (predictor, "GROWTH", 1.0),
        (predictor, "DOUBT_ROUNDS", 0.0),
        (progress, "LUCK", 1.0),
    ):
        monkeypatch.setattr(module, name, value)
    return SimpleNamespace(s=1000.0)


def clock(now: SimpleNamespace, history: History | None = None, spec: RunSpec = SPEC, **rule: float) -> Clock:
    return Clock(spec, StopRule(**rule), history, now=lambda: now.s)  # type: ignore[arg-type]


def measure(c: Clock, t: Tally, now: SimpleNamespace, count: int, round_s: float, ratios: tuple[float, ...]) -> None:
    """Rounds in which fp32 takes 1 s a pass, and int8 that over the ratio."""
    for number in range(t.rounds, t.rounds + count):
        now.s += round_s
        t.add(0, number, [1.0] * 3)
        t.add(1, number, [1.0 / ratios[number % len(ratios)]] * 3)
        t.end_round([0, 1])
        c.round_done()


def begin(c: Clock, key: tuple[str, Placement, int, float] = ONE) -> Tally:
    c.opening(key[:2], [0, 1])
    tally = Tally(0, [0, 1])
    c.begin(key, tally)
    return tally


def test_without_earlier_runs_nothing_is_shown_before_the_second_round(now: SimpleNamespace) -> None:
    c = clock(now)
    assert (c.groups, c.groups_done) == (2, 0)
    assert c.eta_s() is None and c.done_ratio(None) == 0.0
    t = begin(c)
    measure(c, t, now, 1, 4.0, (2.0,))
    assert c.eta_s() is None
    measure(c, t, now, 1, 4.0, (2.0,))
    assert c.eta_s() is not None


def test_earlier_runs_say_how_long_it_takes_before_the_start(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    # Ten rounds of two visits; at 5 s a visit keeps one pass, and ten passes are ten rounds.
    calm_s = 10 * 2 * VISIT_S + 10 * 2 * LONG_VISIT_S
    assert c.eta_s() == pytest.approx(calm_s)
    left = c.remaining()
    assert left.quiet_s == left.likely_s == pytest.approx(calm_s)
    # At worst half as slow again: 12.18 s a round exceed 120 s with the tenth, and 30.18 s take ten rounds.
    assert left.most_s == pytest.approx(1.5 * calm_s)


def test_a_loud_device_takes_as_long_as_the_rule_allows(now: SimpleNamespace) -> None:
    # 8.12 s a round: 15 of them exceed 120 s. 20.12 s a round: ten, which are always measured.
    assert clock(now, LOUD).eta_s() == pytest.approx(15 * 2 * VISIT_S + 10 * 2 * LONG_VISIT_S)
    # Of 40 rounds, where they take less than 120 s together.
    short = RunSpec.grid([MODEL], ["torch-fp32", "torch-int8-dynamic"], [0.1], placements=[PLACEMENT])
    assert clock(now, LOUD, short).eta_s() == pytest.approx(40 * 2 * (4 * 0.1 + predictor.VISIT_OVERHEAD_S))


def test_starting_counts_as_earlier_runs_say_and_is_counted_down(now: SimpleNamespace) -> None:
    c = clock(now, History(CALM.measured, prepare_s=3.0, open_s=7.0))
    rest_s = clock(now, CALM).eta_s()
    assert rest_s is not None
    assert c.eta_s() == pytest.approx(2 * 3 + 2 * 7 + rest_s)
    now.s += 5
    assert c.eta_s() == pytest.approx(1 + 2 * 7 + rest_s)
    c.opening((MODEL, PLACEMENT), [0, 1])
    assert c.eta_s() == pytest.approx(2 * 7 + rest_s)
    now.s += 100  # overdue: a tenth of what it took so far
    assert c.eta_s() == pytest.approx(10 + rest_s)
    c.begin(ONE, Tally(0, [0, 1]))
    assert c.eta_s() == pytest.approx(rest_s)


def test_the_pace_of_this_run_replaces_the_predicted_one(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    t = begin(c)
    measure(c, t, now, 1, 50.0, (2.0,))  # the first round has the cold passes
    measure(c, t, now, 4, 2.0, (2.0,))
    # The other group: int8 is twice as fast as was predicted, so 2.5 s a pass.
    other_s = 10 * (LONG_VISIT_S + 2 * 2.5 + predictor.VISIT_OVERHEAD_S)
    assert c.eta_s() == pytest.approx(5 * 2 + other_s)
    c.end()
    assert c.eta_s() == pytest.approx(other_s)


def test_rounds_that_differ_need_more_of_them(now: SimpleNamespace) -> None:
    one = RunSpec.grid([MODEL], ["torch-fp32", "torch-int8-dynamic"], [1], placements=[PLACEMENT])
    c = clock(now, CALM, one)
    t = begin(c)
    measure(c, t, now, 10, 2.0, (2.0, 2.2))  # the target is not reached at the first look
    measured_spread = math.log(1.1) / 2 * math.sqrt(10 / 9)
    assert t.spreads() == {1: pytest.approx(measured_spread)}
    spread = math.sqrt((4 * 0.001**2 + 9 * measured_spread**2) / 13)
    last_round = next(
        n for n in range(15, 41, 5) if n == 40 or stats.student_t(n - 1) * spread / math.sqrt(n) <= math.log(1.02)
    )
    assert 15 < last_round < 40 and c.eta_s() == pytest.approx((last_round - 10) * 2)


def test_time_left_falls_within_a_round_and_never_below_nothing(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    t = begin(c)
    measure(c, t, now, 3, 2.0, (2.0,))
    before_s = c.eta_s()
    now.s += 1.5
    assert before_s is not None and c.eta_s() == pytest.approx(before_s - 1.5)
    now.s += 500  # a round that hangs
    assert c.eta_s() == pytest.approx(before_s - 0.9 * 2)


def test_the_cap_of_a_group_bounds_the_rest_however_slow_the_device_becomes(now: SimpleNamespace) -> None:
    one = RunSpec.grid([MODEL], ["torch-fp32", "torch-int8-dynamic"], [1], placements=[PLACEMENT])
    c = clock(now, LOUD, one)
    t = begin(c)
    measure(c, t, now, 12, 5.0, (1.0, 9.0))
    assert c.eta_s() == pytest.approx(12 * 5)  # 60 s have passed; the round that exceeds 120 s ends it
    measure(c, t, now, 4, 15.0, (1.0, 9.0))
    # 120 s have passed, the pace is 7.67 s a round, and the next round is the last.
    assert c.eta_s() == pytest.approx((11 * 5 + 4 * 15) / 15)


def test_passes_that_come_one_a_round_take_as_many_rounds_as_repeats(now: SimpleNamespace) -> None:
    c = clock(now, CALM, repeats=30)
    # At 1 s three passes a round: ten rounds. At 5 s one: thirty rounds.
    assert c.eta_s() == pytest.approx(10 * 2 * VISIT_S + 30 * 2 * LONG_VISIT_S)
    assert clock(now, LOUD, repeats=30).most_rounds == 40
    few = clock(now, LOUD, repeats=3)  # fewer passes than ten: one round brings them, and three are measured
    assert few.eta_s() == pytest.approx(3 * 2 * VISIT_S + 3 * 2 * LONG_VISIT_S)


def test_the_most_rounds_are_those_of_the_rule(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    t = begin(c)
    assert c.most_rounds == 40
    measure(c, t, now, 5, 2.0, (2.0,))
    assert c.most_rounds == 40
    many = clock(now, CALM, repeats=300)
    measure(many, begin(many), now, 2, 2.0, (2.0,))
    assert many.most_rounds == 100  # three passes a round


def test_skipped_groups_take_no_time_and_count_once(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    c.skip(FIVE)
    c.skip(FIVE)
    assert (c.groups, c.groups_done) == (2, 1)
    assert c.eta_s() == pytest.approx(10 * 2 * VISIT_S)
    c.skip(ONE)
    assert c.eta_s() == 0 and c.done_ratio(0.0) == 0
    now.s += 1
    assert c.done_ratio(0.0) == 1


def test_a_group_that_memory_split_is_one_more(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    begin(c)
    c.end()
    begin(c)
    assert (c.groups, c.groups_done) == (3, 1)


def test_variants_that_fail_leave_the_forecast_standing(now: SimpleNamespace) -> None:
    c = clock(now, CALM)
    t = begin(c)
    measure(c, t, now, 3, 2.0, (2.0,))
    t.end_round([0])
    c.round_done()
    assert c.eta_s() is not None
    t.end_round([])
    c.round_done()
    c.end()
    assert c.eta_s() is not None and c.groups_done == 1


@pytest.mark.parametrize("repeats", [2, 10, 50])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.05, 0.5])
def test_the_needed_rounds_are_those_after_which_the_rule_ends(spread: float, repeats: int) -> None:
    """A group whose spread is the same at every look ends when it was forecast to end."""
    rule = StopRule(repeats=repeats)
    for round_s, passes in ((1.0, 3), (7.0, 3), (30.0, 1)):
        number = 0
        ended = None
        while ended is None:
            number += 1
            high = math.exp(stats.student_t(number - 1) * spread / math.sqrt(number)) if number > 1 else None
            interval = stats.Interval(1.0, None if high is None else 1 / high, high, number)
            ended = rule.ended(number, passes * number, round_s * number, [interval])
        for done in range(number):
            assert rounds.needed(rule, spread, round_s, passes, done, done * round_s) == number
        assert number <= rounds.last_round(rule, round_s, passes)


def test_a_mode_that_compiles_is_charged_for_it(now: SimpleNamespace) -> None:
    compiled = RunSpec.grid([MODEL], ["torch-int8-static"], [1], placements=[PLACEMENT])
    plain = RunSpec.grid([MODEL], ["torch-int8-dynamic"], [1], placements=[PLACEMENT])
    more_s = progress.start_s(compiled.variants, compiled.variants, History()) - progress.start_s(
        plain.variants, plain.variants, History()
    )
    examples_s = 94_270_464 * progress.EXAMPLES_S_PER_PARAMETER
    assert more_s == pytest.approx(2 * progress.COMPILE_S + examples_s)
