"""The live job: one line on every page, and the whole card on the page that started it.

Fragments poll only while a job is live.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache

import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.units import duration
from bench.jobs.job import Job
from bench.jobs.manager import Jobs
from bench.jobs.quiet import QUIET
from bench.ui import watching
from bench.ui.button import is_pressed, pressed, stray

_PAGES = {
    "benchmark": "pages/1_Benchmark.py",
    "evaluation": "pages/4_Accuracy.py",
    "transcription": "pages/3_Transcribe.py",
}
STARTS = ("start", "lab", "evaluate", "t_start", "resume")  # the buttons that start a job
WAIT_S = 0.5  # for timed passes to end, before a poll draws; after longer, Streamlit fades what is on the screen


def refused(jobs: Jobs, e: EarbenchError) -> None:
    """Say why nothing was started. If another job was quicker, the page is drawn anew and shows that job too."""
    if jobs.live:
        st.session_state["refused"] = str(e)
        st.rerun()
    st.error(str(e))


def refusal(jobs: Jobs) -> None:
    """Say once why a start was refused, also if its button was pressed on a page that was drawn before the job began.

    The second press of a double click is no other start: `session_state["started"]` is what this browser started.
    """
    sentence, job = st.session_state.pop("refused", ""), jobs.live
    if job and job.id != st.session_state.get("started") and stray(*STARTS):
        sentence = sentence or job.refusal
    if sentence:
        st.warning(sentence, icon=":material/block:")


def started(job: Job | None) -> None:
    """Remember that this browser started the job."""
    st.session_state["started"] = job.id if job else None


def banner(jobs: Jobs) -> None:
    """Draw a line with a link to the live job, or a line about another process that holds the device; else nothing."""
    if jobs.live:
        _poll(lambda: _banner(jobs))
    elif holder := jobs.holder():
        st.info(
            f"{holder} It was started outside this dashboard; what it stores appears under Results or Accuracy.",
            icon=":material/lock:",
        )


def card(jobs: Jobs, kind: str) -> None:
    """Draw progress, a cancel button, and the results so far. Reruns the page when the job of this kind ends."""
    _poll(lambda: _card(jobs, kind))


def _poll(draw: Callable[[], None]) -> None:
    """Draw now and at an interval: the more sessions watch, the longer. If possible, not beside timed passes."""
    interval = watching.interval_s(watching.viewers())
    drawn_with: list[list[object]] = []  # the viewer's choices at the last drawing

    @st.fragment(run_every=interval)
    def polled() -> None:
        if drawn_with and watching.outdated(interval, watching.viewers()):
            st.rerun()  # only a run of the whole page can change the interval
        if drawn_with[-1:] == [_choices()]:  # else somebody waits for what they chose
            QUIET.wait(WAIT_S)
        draw()
        drawn_with[:] = [_choices()]

    polled()


def _choices() -> list[object]:
    """What the viewer of this session chose or pressed on the card."""
    state = st.session_state
    chosen = [state[key] for key in sorted(map(str, state)) if key.startswith(("log-", "family-"))]
    return [*chosen, is_pressed("cancel")]


def _banner(jobs: Jobs) -> None:
    job = jobs.live
    if job is None:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        doing = "Measuring " if job.progress.round else "Evaluating " if job.progress.clip else f"{job.noun}: "
        st.markdown(f":material/timer: {doing}{progress_text(job)}")
        st.page_link(_PAGES[job.kind], label="Watch", icon=":material/arrow_forward:")


def _card(jobs: Jobs, kind: str) -> None:
    job = jobs.live
    if job is None or job.kind != kind:
        st.rerun()
    p, doing = job.progress, "Measuring" if kind == "benchmark" else "Evaluating"
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            cancelled = job.cancelled
            st.markdown(f"#### {'Cancelling' if cancelled else doing if p.measuring else 'Preparing'}")
            if pressed("Cancel", icon=":material/stop_circle:", key="cancel", about=job.id, disabled=cancelled):
                jobs.cancel()
        if p.measuring:
            st.progress(min(1.0, p.done_ratio), text=progress_text(job))
        else:
            st.markdown(progress_text(job))
        st.caption(
            "Closing the browser changes nothing: the job goes on, and any browser can watch and cancel it. "
            "Figures are provisional until " + ("their group is finished." if kind == "benchmark" else "it has ended.")
        )
    # These import altair and pandas, which a page without charts need not wait for.
    if kind == "benchmark":
        from bench.ui import results

        st.session_state["run"] = job.id  # a browser that follows the run shows its results when it ends
        results.figures(jobs.store, job.id, live=True)
    else:
        from bench.ui import accuracy

        accuracy.figures(jobs.store, job.id, live=True)
    _freeze_modules(job.id)


@lru_cache(maxsize=1)
def _freeze_modules(_run_id: str) -> None:
    """Exempt the imported modules from garbage collection, once per run: going through them takes long."""
    gc.unfreeze()  # what an earlier run exempted and is no longer in use
    gc.collect()
    gc.freeze()


def progress_text(job: Job) -> str:
    """The progress in a line: what is being done, how far it is, and the time left."""
    p = job.progress
    if not p.measuring:
        remaining = f" · about {duration(p.eta_s)} left" if p.eta_s is not None else ""
        return f"{p.stage[:1].upper()}{p.stage[1:]} …{remaining}"
    if p.clip:
        remaining = (
            f"about {duration(p.eta_s)} left" if p.eta_s is not None else "time left is known from the third clip on"
        )
        return f"clip {p.clip} of {p.clips} · {remaining}"
    remaining = (
        f"about {duration(p.eta_s)} left" if p.eta_s is not None else "time left is known from the second round on"
    )
    position = f"group {p.group + 1} of {p.groups}, round {p.round}, at most {p.rounds}"
    return f"{p.stage}: {p.cell} · {position} · {remaining}"
