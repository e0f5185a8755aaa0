"""Statistics of raw pass times, and the rule that ends a group.

All statistics are computed when read; only raw passes are stored. Inputs and outputs are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NOISY_IQR_RATIO = 0.1
CONFIDENCE = 0.95
NOT_REACHED = "target not reached"  # prefix of a group's end reason if its intervals stayed wider than the target
FEWEST_LOOKED_AT = 10  # rounds before the first look at the intervals


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of the kept passes of one cell."""

    passes: int
    mean_s: float
    std_s: float | None  # sample standard deviation, ddof=1; None for a single pass
    median_s: float
    p5_s: float
    p25_s: float
    p75_s: float
    p95_s: float
    outliers: int  # beyond 1.5 IQR from the quartiles (Tukey 1977); included in every statistic

    @property
    def iqr_ratio(self) -> float:
        """Interquartile range over the median."""
        return (self.p75_s - self.p25_s) / self.median_s

    @property
    def noisy(self) -> bool:
        """Whether the IQR exceeds NOISY_IQR_RATIO of the median; tables mark such cells."""
        return self.iqr_ratio > NOISY_IQR_RATIO


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval; low and high are None for fewer than two rounds."""

    value: float
    low: float | None
    high: float | None
    rounds: int

    def __str__(self) -> str:
        """The estimate, followed by the interval, if there is one, as shown to users."""
        return f"{self.value:.2f}" + (f" [{self.span(', ')}]" if self.span() else "")

    def span(self, between: str = " to ") -> str:
        """The interval as shown to users, "" if unknown. Ends are capped: two unlike rounds can span many decades."""
        if self.low is None or self.high is None:
            return ""
        return f"{_bound(self.low)}{between}{_bound(self.high)}"

    @property
    def half_width_ratio(self) -> float:
        """Upper end over estimate, minus 1 (0.02 is 2 %); infinite if the interval is unknown."""
        return math.inf if self.high is None else self.high / self.value - 1


SAME = Interval(1.0, 1.0, 1.0, 0)  # the speed-up of a variant over itself


def summarise(seconds: Sequence[float]) -> Summary | None:
    """Statistics of the kept passes, in seconds; None if there are none."""
    if not seconds:
        return None
    x = np.asarray(seconds, dtype=float)
    p5, p25, p50, p75, p95 = (float(p) for p in np.percentile(x, [5, 25, 50, 75, 95]))
    whisker_s = 1.5 * (p75 - p25)
    return Summary(
        passes=len(x),
        mean_s=float(x.mean()),
        std_s=float(x.std(ddof=1)) if len(x) > 1 else None,
        median_s=p50,
        p5_s=p5,
        p25_s=p25,
        p75_s=p75,
        p95_s=p95,
        outliers=int(((x < p25 - whisker_s) | (x > p75 + whisker_s)).sum()),
    )


def geometric_mean(values: Sequence[float]) -> Interval | None:
    """Geometric mean with Student's t interval over the logarithms of the values, one per round; None if empty."""
    if not values:
        return None
    logs = np.log(np.asarray(values, dtype=float))
    mean, n = float(logs.mean()), len(logs)
    if n < 2:
        return Interval(math.exp(mean), None, None, n)
    half_width = student_t(n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Interval(math.exp(mean), math.exp(mean - half_width), math.exp(mean + half_width), n)


def speedup(baseline_s: Mapping[int, float], variant_s: Mapping[int, float]) -> Interval | None:
    """The speed-up, baseline time over variant time, paired by round.

    Both arguments map a round to the median of its visit's kept passes, in seconds. Rounds that are not in both are
    ignored. The estimate is exp of the mean over rounds of log(baseline / variant). The interval is Student's t over
    rounds, because passes within a visit are not independent of one another (Kalibera and Jones 2013).
    """
    rounds = sorted(baseline_s.keys() & variant_s.keys())
    return geometric_mean([baseline_s[r] / variant_s[r] for r in rounds])


@dataclass(frozen=True, slots=True)
class StopRule:
    """The rule that decides when a group has been measured enough.

    Stopping at a look whose interval happens to be narrow costs coverage (Anscombe 1952). With looks every five rounds
    from the tenth on, a 95 % interval covers the true value in 93 to 97 % of runs, least where the target is met near
    round 25. With the first look at five rounds the coverage is 92.5 %, at two rounds 90 %. So a run that asks for
    fewer than ten passes gets a fixed number of rounds and no further look. These figures come from the simulation in
    `tests/perf/interval.py`.
    """

    target_ratio: float = 0.02
    repeats: int = 10
    look_every: int = 5
    max_rounds: int = 40
    max_s: float = 120.0

    @property
    def min_rounds(self) -> int:
        """Rounds that are always measured: ten, or fewer if fewer passes are requested."""
        return min(FEWEST_LOOKED_AT, self.repeats)

    def ended(self, rounds: int, passes: int, elapsed_s: float, intervals: Sequence[Interval | None]) -> str | None:
        """The reason to end the group after this number of whole rounds, or None to continue.

        `passes` is the smallest number of kept passes among the group's cells. `intervals` are the speed-ups of all
        variants but the baseline, or the interval of the only variant.
        """
        if rounds < self.min_rounds or passes < self.repeats:
            return None
        is_look = (rounds - self.min_rounds) % self.look_every == 0
        if is_look and all(i is not None and i.half_width_ratio <= self.target_ratio for i in intervals):
            return "target reached"
        if rounds >= self.max_rounds or self.repeats < FEWEST_LOOKED_AT:
            return f"{NOT_REACHED} in {rounds} rounds"
        if elapsed_s >= self.max_s:
            return f"{NOT_REACHED} in {elapsed_s:.0f} s"
        return None


@lru_cache(maxsize=256)
def student_t(degrees_of_freedom: int) -> float:
    """The two-sided Student's t quantile at CONFIDENCE."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))


def _bound(ratio: float) -> str:
    return "under 0.01" if ratio < 0.01 else "over 100" if ratio > 100 else f"{ratio:.2f}"
