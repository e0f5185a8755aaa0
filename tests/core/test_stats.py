"""Statistics and the stop rule, against arithmetic done by hand and printed tables of Student's t."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.core import stats
from bench.core.stats import Interval, StopRule

WIDE = Interval(2.0, 1.9, 2.1, 10)  # reaches 5 %
NARROW = Interval(2.0, 1.99, 2.02, 10)  # reaches 1 %


def test_summary_of_five_passes() -> None:
    # Sorted 1 2 3 4 10. Mean 20/5 = 4. Deviations -3 -2 -1 0 6: squares 9 4 1 0 36 = 50, over 4 = 12.5.
    # Percentiles at position p/100 * 4, linear between neighbours: 25 -> 2, 50 -> 3, 75 -> 4,
    # 5 -> 0.2, so 1 + 0.2 * (2 - 1) = 1.2; 95 -> 3.8, so 4 + 0.8 * (10 - 4) = 8.8.
    # Fences: 2 - 1.5 * 2 = -1 and 4 + 1.5 * 2 = 7, so the 10 is beyond.
    s = stats.summarise([10, 2, 3, 4, 1])
    assert s is not None
    assert s.passes == 5
    assert s.mean_s == 4
    assert s.std_s == pytest.approx(math.sqrt(12.5), rel=1e-12)
    assert (s.p25_s, s.median_s, s.p75_s) == (2, 3, 4)
    assert (s.p5_s, s.p95_s) == pytest.approx((1.2, 8.8), rel=1e-12)
    assert s.outliers == 1
    assert s.iqr_ratio == pytest.approx(2 / 3, rel=1e-12)
    assert s.noisy


def test_an_outlier_below_counts_too_and_the_fence_itself_is_inside() -> None:
    low = stats.summarise([7.9, 10, 11, 12, 12, 13, 14, 16])
    # positions 0.25 * 7 = 1.75 -> 10 + 0.75 * 1 = 10.75; 5.25 -> 13 + 0.25 * 1 = 13.25; fences 7 and 17
    assert low is not None and low.outliers == 0
    fence = stats.summarise([8, 11, 11, 12, 13, 13, 16])  # positions 1.5 and 4.5: quartiles 11 and 13, fences 8 and 16
    assert fence is not None and fence.outliers == 0
    beyond = stats.summarise([7.9, 11, 11, 12, 13, 13, 16.1])
    assert beyond is not None and beyond.outliers == 2


def test_summary_without_spread_and_without_passes() -> None:
    one = stats.summarise([0.25])
    assert one is not None
    assert (one.passes, one.mean_s, one.std_s, one.median_s, one.p5_s, one.p95_s) == (1, 0.25, None, 0.25, 0.25, 0.25)
    assert one.iqr_ratio == 0 and not one.noisy and one.outliers == 0
    assert stats.summarise([]) is None


@pytest.mark.parametrize(("third", "noisy"), [(1.15, False), (1.25, True)])
def test_noisy_is_a_spread_of_more_than_a_tenth(third: float, noisy: bool) -> None:
    # Of 1, 1.05, x the quartiles are 1.025 and (1.05 + x) / 2: IQR 0.075 (7 % of 1.05) and 0.125 (12 %).
    s = stats.summarise([1.0, 1.05, third])
    assert s is not None and s.noisy is noisy


# Two-sided 95 % quantiles of Student's t as printed in textbooks.
@pytest.mark.parametrize(
    ("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (20, 2.093), (30, 2.045), (40, 2.023)]
)
def test_the_interval_reaches_t_standard_errors(n: int, t: float) -> None:
    # Logarithms that alternate between +a and -a around m: mean m for even n.
    a, m = 0.01, math.log(2.0)
    logs = [m + (a if i % 2 else -a) for i in range(n)]
    mean = sum(logs) / n
    std = math.sqrt(sum((x - mean) ** 2 for x in logs) / (n - 1))
    mean_interval = stats.geometric_mean([math.exp(x) for x in logs])
    assert mean_interval is not None and mean_interval.low is not None and mean_interval.high is not None
    assert mean_interval.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert math.log(mean_interval.high) - mean == pytest.approx(t * std / math.sqrt(n), rel=3e-4)
    assert mean - math.log(mean_interval.low) == pytest.approx(t * std / math.sqrt(n), rel=3e-4)
    assert mean_interval.rounds == n


def test_speedup_by_hand() -> None:
    # Ratios 2 and 8: geometric mean 4. Logs ln 2 and 3 ln 2: mean 2 ln 2, std sqrt(2) ln 2, standard error ln 2.
    # t(0.975, 1) = 12.706: the interval is 4 * 2^(+-12.706).
    ratio = stats.speedup({0: 0.2, 1: 0.8}, {0: 0.1, 1: 0.1})
    assert ratio is not None and ratio.low is not None and ratio.high is not None
    assert ratio.value == pytest.approx(4, rel=1e-12)
    assert ratio.high == pytest.approx(4 * 2**12.7062, rel=1e-4)
    assert ratio.low == pytest.approx(4 * 2**-12.7062, rel=1e-4)
    assert ratio.half_width_ratio == pytest.approx(2**12.7062 - 1, rel=1e-4)


def test_speedup_pairs_by_round_and_leaves_out_what_only_one_has() -> None:
    # Rounds 1 and 3 are shared: ratios 3 and 3, whatever the others hold.
    ratio = stats.speedup({0: 9, 1: 3, 3: 6}, {3: 2, 1: 1, 7: 100})
    assert ratio is not None
    assert ratio.value == pytest.approx(3, rel=1e-12)
    assert ratio.low == pytest.approx(3, rel=1e-9) and ratio.high == pytest.approx(3, rel=1e-9)
    assert ratio.rounds == 2
    assert stats.speedup({0: 1.0}, {1: 1.0}) is None


def test_one_round_has_no_interval_and_never_reaches_a_target() -> None:
    ratio = stats.speedup({4: 0.3}, {4: 0.1})
    assert ratio is not None and ratio.value == pytest.approx(3, rel=1e-12)
    assert (ratio.low, ratio.high, ratio.rounds, ratio.half_width_ratio) == (None, None, 1, math.inf)
    assert stats.geometric_mean([]) is None


def test_drift_that_hits_both_leaves_the_speedup_alone() -> None:
    slower = [1.0, 1.3, 1.9, 2.7]
    ratio = stats.speedup({i: 0.4 * f for i, f in enumerate(slower)}, {i: 0.1 * f for i, f in enumerate(slower)})
    assert ratio is not None and ratio.value == pytest.approx(4, rel=1e-12) and ratio.half_width_ratio < 1e-9


def ended(rule: StopRule, rounds: int, **change: Any) -> str | None:
    arguments: dict[str, Any] = {"passes": 1000, "elapsed_s": 1.0, "intervals": [NARROW]}
    return rule.ended(rounds, **{**arguments, **change})


def test_never_before_ten_rounds() -> None:
    assert ended(StopRule(), 9) is None
    assert ended(StopRule(), 9, elapsed_s=1e6) is None
    assert ended(StopRule(), 10) == "target reached"


def test_looks_every_five_rounds() -> None:
    assert [n for n in range(1, 40) if ended(StopRule(), n)] == [10, 15, 20, 25, 30, 35]


def test_every_interval_must_be_narrow() -> None:
    assert ended(StopRule(), 10, intervals=[NARROW, WIDE]) is None
    assert ended(StopRule(), 10, intervals=[NARROW, None]) is None
    assert ended(StopRule(), 10, intervals=[NARROW, Interval(2.0, None, None, 1)]) is None
    assert ended(StopRule(0.05), 10, intervals=[NARROW, Interval(2.0, 1.91, 2.0999, 10)]) == "target reached"


def test_the_pass_count_must_be_met_too() -> None:
    rule = StopRule(repeats=60)
    assert ended(rule, 10, passes=59) is None
    assert ended(rule, 10, passes=60) == "target reached"
    assert ended(rule, 40, passes=59) is None  # asked for is asked for, whatever the limits
    assert ended(rule, 12, passes=59, elapsed_s=1e6) is None


def test_limits_are_told_as_not_reached() -> None:
    assert ended(StopRule(), 39, intervals=[WIDE]) is None
    assert ended(StopRule(), 40, intervals=[WIDE]) == "target not reached in 40 rounds"
    assert ended(StopRule(), 12, intervals=[WIDE], elapsed_s=119.9) is None
    assert ended(StopRule(), 12, intervals=[WIDE], elapsed_s=130.4) == "target not reached in 130 s"
    assert ended(StopRule(), 40, intervals=[NARROW]) == "target reached"


def test_fewer_than_ten_asked_for_is_a_fixed_number_of_rounds() -> None:
    rule = StopRule(repeats=3)
    assert rule.min_rounds == 3
    assert ended(rule, 2) is None
    assert ended(rule, 3, intervals=[NARROW]) == "target reached"
    assert ended(rule, 3, intervals=[WIDE]) == "target not reached in 3 rounds"
    assert StopRule(repeats=10).min_rounds == StopRule(repeats=500).min_rounds == 10
