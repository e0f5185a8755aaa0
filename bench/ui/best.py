"""The best mode, by an evaluation and the newest run of the same variants, and the button that measures them."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.specs import RunSpec
from bench.device import host
from bench.families import catalogue
from bench.jobs.manager import Jobs
from bench.results import best, report
from bench.results.best import Choice, Goal
from bench.results.evaluation import Result
from bench.results.report import Report
from bench.ui.button import pressed

LENGTH_S = 5.0
_AMOUNTS: dict[Goal, tuple[str, float, str]] = {
    "latency": ("Times as fast", 1.0, "%.2f"),
    "size": ("On disk, MB", 1e-6, "%.1f"),
    "memory": ("Peak memory, MB", 1e-6, "%.0f"),
}


def panel(jobs: Jobs, r: Result) -> None:
    """Draw the goal, the limit and the answer; nothing if there is nothing to choose from."""
    trained = [
        m
        for m in dict.fromkeys(s.record.variant.model for s in r.scores)
        if catalogue.exists(m) and catalogue.find(m).source != "random"
    ]
    if not trained or len(r.scores) < 2:
        return
    device, here = r.evaluation.device, r.evaluation.device.id == host.device().id
    st.subheader("The best mode here" if here else f"The best mode on {plain(device.name)}")
    one, two, three = st.columns(3)
    model = one.selectbox("Model", trained, key=f"best-model-{r.evaluation.id}")
    goals: list[Goal] = ["latency", "size", "memory"]
    goal = two.selectbox("Least", goals, format_func=str.capitalize, key=f"best-goal-{r.evaluation.id}")
    points = three.number_input(
        "WER lost at most, points",
        0.0,
        100.0,
        100 * best.LIMIT,
        0.5,
        key=f"best-limit-{r.evaluation.id}",
        help="Against the original. A mode whose 95 % interval spans the limit is neither within nor over it.",
    )
    run_report = _newest_report(jobs, r, model) if goal != "size" else None
    choice = best.choose(r, run_report, model, goal, points / 100)
    if goal != "size" and run_report is None:
        place = "on this device" if here else f"in a run of {plain(device.name)} that is stored here"
        st.info(f"These variants were not measured together {place} yet: the accuracy is known, the rest is not.")
    else:
        for sentence in choice.sentences:
            st.markdown(plain(sentence))
        _table(choice)
    if goal != "size" and here:  # a run of this device says nothing about another one
        _measure(jobs, r, model, choice)


def _newest_report(jobs: Jobs, r: Result, model: str) -> Report | None:
    """Return the newest finished run on the evaluation's device that measured at least two of its variants."""
    variants = {v for v in r.evaluation.spec.variants if v.model == model}
    for run in jobs.store.runs():
        comparable = run.state == "done" and run.device.id == r.evaluation.device.id and 1 in run.spec.batches
        if comparable and len(variants & set(run.spec.variants)) >= min(2, len(variants)):
            return report.report(jobs.store, run.id)
    return None


def _table(choice: Choice) -> None:
    name, scale, number_format = _AMOUNTS[choice.goal]
    rows = []
    for c in choice.candidates:
        amount = None if c.amount is None else 1 / c.amount if choice.goal == "latency" else c.amount * scale
        low, high = (None if x is None else 100 * x for x in (c.delta_low, c.delta_high))
        rows.append(
            {
                "Mode": c.name,
                name: amount,
                "WER lost, points": 100 * c.delta,
                "95 % interval": "–" if low is None or high is None else f"{low:+.1f} to {high:+.1f}",
                "Limit": c.loss,
            }
        )
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        width="stretch",
        placeholder="–",
        column_config={name: number(format=number_format), "WER lost, points": number(format="%+.2f")},
    )


def _measure(jobs: Jobs, r: Result, model: str, choice: Choice) -> None:
    """Draw the button that benchmarks the modes that are not surely over the limit."""
    remaining = {c.variant for c in choice.candidates if c.loss != "over"}
    variants = tuple(v for v in r.evaluation.spec.variants if v in remaining)
    busy = jobs.busy()
    if pressed(
        f"Measure {len(variants)} of them at {LENGTH_S:g} s",
        icon=":material/speed:",
        disabled=bool(busy) or len(variants) < 2,
        help=busy or f"{plain(model)} in every mode that is not surely over the limit, in turn, in one run.",
        key=f"best-measure-{r.evaluation.id}",
    ):
        try:
            st.session_state["run"] = jobs.start(RunSpec(variants, (LENGTH_S,)))
        except EarbenchError as e:
            st.error(str(e))
        else:
            st.switch_page("pages/1_Benchmark.py")
