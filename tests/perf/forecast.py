"""How good the forecast of the time left is: recorded runs are replayed through the clock that the runner uses.

    python tests/perf/forecast.py [--at 0.2] [--use tune]
    python tests/perf/forecast.py --record FOLDER [--record FOLDER ...]

Prints for every run its length, the range before its start, and the forecast of the rest when a fifth of its time had
passed. Half of the runs were used to tune the forecast, the other half judges it: in 9 of 10 of these the forecast of
the time left is within a third of the truth, else the exit code is 1. The same count for the total time (what has
passed and what is forecast to be left) is printed beside it. `--use tune` prints only the half to look at while tuning.
`--record` writes the test data anew from the finished runs of data folders (EARBENCH_DATA), every other one for
judging.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timelines
from timelines import Timeline

from bench.core.store import Store
from bench.jobs import history

WITHIN = 1 / 3
ENOUGH = 0.9


def record(folders: list[Path]) -> None:
    """Write the finished runs of data folders as test data, in the order in which they began."""
    stores = [Store(folder / "earbench.db") for folder in folders]
    runs = [(run.created_s, run, store) for store in stores for run in store.runs() if run.state == "done"]
    described = []
    for number, (created_s, run, store) in enumerate(sorted(runs, key=lambda r: r[0])):
        earlier = history.of(store, before_s=created_s)
        described.append(timelines.record(store, run, f"run {number:02}", ("tune", "judge")[number % 2], earlier))
    timelines.dump(described)


def row(run: Timeline, at: float) -> tuple[str, bool, bool]:
    """A line of the table, and whether the forecasts of the time left and of the total are within a third."""
    at_s = at * run.end_s
    moments = list(timelines.replay(run, (at_s,)))
    before, moment = moments[0].remaining, next(m for m in moments if m.at_s == at_s)
    left_s, forecast_s = run.end_s - at_s, moment.remaining.likely_s
    good = abs(forecast_s - left_s) <= WITHIN * left_s
    total_good = abs(forecast_s - left_s) <= WITHIN * run.end_s
    highest = max(m.at_s + m.remaining.likely_s for m in moments) / run.end_s
    spec = run.spec
    modes = ",".join(dict.fromkeys(v.spelled for v in spec.variants))
    text = f"{forecast_s:5.0f} s ({forecast_s / left_s - 1:+.0%}){' not shown' if moment.eta_s is None else ''}"
    rounds = ",".join(str(1 + max(v[1] for v in g.visits)) for g in run.groups)
    return (
        (
            f"{run.name} {run.use:5} {run.end_s:5.0f} s | {before.quiet_s:4.0f} {before.likely_s:4.0f} "
            f"{before.most_s:5.0f} | {left_s:5.0f} s {text:15} {'' if good else 'MISS'} | highest total {highest:.2f} "
            f"| {spec.variants[0].model[:8]} {modes} {','.join(f'{s:g}' for s in spec.sizes)} s, rounds {rounds}"
        ),
        good,
        total_good,
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", type=float, default=0.2, help="share of the run's time that has passed")
    parser.add_argument("--use", action="append", choices=["tune", "judge"], help="print only this half")
    parser.add_argument("--record", type=Path, action="append", help="a data folder")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record)
    print(f"run, use, length | before: quiet, likely, most | left, forecast when {arguments.at:.0%} had passed")
    shares = {"judge": 1.0}
    for use in arguments.use or ("tune", "judge"):
        rows = [row(run, arguments.at) for run in timelines.load() if run.use == use]
        print("\n".join(text for text, _, _ in rows))
        left, total = (sum(flags) for flags in list(zip(*rows, strict=True))[1:])
        shares[use] = left / len(rows)
        print(f"{use}: time left {left} of {len(rows)} within a third, total time {total} of {len(rows)}\n")
    return 0 if shares["judge"] >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
