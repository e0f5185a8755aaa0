"""How long the rest takes, with a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.core.specs import Placement, RunSpec
from bench.core.stats import StopRule
from bench.jobs import progress
from bench.jobs.progress import Clock

MODEL = "wav2vec2-base-random"
PLACEMENT = Placement("cpu", 2)
ONE, FIVE = (MODEL, PLACEMENT, 1, 1.0), (MODEL, PLACEMENT, 1, 5.0)
SPEC = RunSpec.grid([MODEL], ["torch-fp32", "torch-int8-dynamic"], [1, 5], placements=[PLACEMENT])


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    at = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: at.s))
    monkeypatch.setattr(progress, "work", lambda model, batch, size: batch * size)
    return at


def test_nothing_is_told_before_the_second_round(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    assert (clock.groups, clock.groups_done) == (2, 0)
    assert clock.eta_s() is None and clock.done_ratio(None) == 0.0
    clock.begin(ONE)
    now.s += 4
    clock.round_done(1, 3)
    assert clock.eta_s() is None
    now.s += 4
    clock.round_done(2, 6)
    # 4 s a round; ten rounds as the rule asks, eight of them to come: 32 s. The group of 5 s has five times the work.
    assert clock.expected_rounds == 10
    assert clock.eta_s() == pytest.approx(8 * 4 + 10 * 20)
    assert clock.done_ratio(232.0) == pytest.approx(8 / 240)


def test_passes_that_come_one_a_round_take_as_many_rounds_as_repeats(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule(repeats=30))
    clock.begin(ONE)
    now.s += 6
    clock.round_done(2, 2)
    assert clock.expected_rounds == 30
    assert clock.eta_s() == pytest.approx(28 * 3 + 30 * 15)
    clock.round_done(2, 6)  # three a round instead: 30 passes are ten rounds
    assert clock.expected_rounds == 10


def test_rounds_of_groups_before_are_expected_again(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    clock.begin(ONE)
    now.s += 30
    clock.round_done(15, 45)
    assert clock.expected_rounds == 15 and clock.eta_s() == pytest.approx(1 * 2 + 15 * 10)  # at least one more
    clock.end(15)
    assert clock.groups_done == 1
    assert clock.expected_rounds == 15
    assert clock.eta_s() == pytest.approx(15 * 10)
    clock.begin(FIVE)
    clock.end(15)
    assert clock.eta_s() == 0 and clock.done_ratio(0.0) == 1.0


def test_a_short_visit_takes_its_shortest_time(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    clock.begin(ONE)
    now.s += 0.02
    clock.round_done(2, 6)
    # Work alone would say 0.05 s a round for the other group; two visits of 0.4 s are 0.8 s.
    assert clock.eta_s() == pytest.approx(8 * 0.01 + 10 * 0.8)


def test_skipped_groups_take_no_time_and_count_once(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    clock.skip(FIVE)
    clock.skip(FIVE)
    assert (clock.groups, clock.groups_done) == (2, 1)
    clock.begin(ONE)
    now.s += 8
    clock.round_done(2, 6)
    assert clock.eta_s() == pytest.approx(32)


def test_a_group_that_memory_split_is_one_more(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    clock.begin(ONE)
    clock.end(10)
    clock.begin(ONE)
    assert (clock.groups, clock.groups_done) == (3, 1)


def test_the_share_that_is_done_stays_a_share(now: SimpleNamespace) -> None:
    clock = Clock(SPEC, StopRule())
    seen = []
    for key in (ONE, FIVE):
        clock.begin(key)
        for number in range(1, 21):  # more rounds than were expected
            now.s += 1
            clock.round_done(number, 3 * number)
            seen.append(clock.done_ratio(clock.eta_s()))
        clock.end(20)
    assert seen[0] == 0.0 and all(0 < x <= 1 for x in seen[1:])
    # 40 s have passed, and one round of 1 s is still expected
    assert seen[-1] == pytest.approx(40 / 41)
