"""The live job: one line on every page, and the whole card on the page that started it.

Fragments poll only while a job is live.
"""

from __future__ import annotations

import gc
from functools import lru_cache

import streamlit as st

from bench.core.units import duration
from bench.jobs.manager import Job, Jobs
from bench.ui.button import pressed

_PAGES = {"benchmark": "pages/1_Benchmark.py", "evaluation": "pages/4_Accuracy.py"}
POLL_S = 3.0  # every poll of every browser takes CPU time from the measurement


def banner(jobs: Jobs) -> None:
    """Draw a line with a link to the live job, or a line about another process that holds the device; else nothing."""
    if jobs.live:
        _banner(jobs)
    elif holder := jobs.holder():
        st.info(
            f"{holder} It was started outside this dashboard; what it stores appears under Results or Accuracy.",
            icon=":material/lock:",
        )


@st.fragment(run_every=POLL_S)
def _banner(jobs: Jobs) -> None:
    job = jobs.live
    if job is None:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        doing = "Measuring " if job.progress.round else "Evaluating " if job.progress.clip else ""
        st.markdown(f":material/timer: {doing}{_progress_text(job)}")
        st.page_link(_PAGES[job.kind], label="Watch", icon=":material/arrow_forward:")


@st.fragment(run_every=POLL_S)
def card(jobs: Jobs, kind: str) -> None:
    """Draw progress, a cancel button, and the results so far. Reruns the page when the job of this kind ends."""
    job = jobs.live
    if job is None or job.kind != kind:
        st.rerun()
    p, doing = job.progress, "Measuring" if kind == "benchmark" else "Evaluating"
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            cancelled = job.pool.cancelled
            st.markdown(f"#### {'Cancelling' if cancelled else doing if p.measuring else 'Preparing'}")
            if pressed("Cancel", icon=":material/stop_circle:", key="cancel", about=job.run_id, disabled=cancelled):
                jobs.cancel()
        if p.measuring:
            st.progress(min(1.0, p.done_ratio), text=_progress_text(job))
        else:
            st.markdown(_progress_text(job))
        st.caption(
            "Closing the browser changes nothing: it goes on, and any browser can watch and cancel it. "
            "Figures are provisional until " + ("a length is finished." if kind == "benchmark" else "it has ended.")
        )
    # These import altair and pandas, which a page without charts need not wait for.
    if kind == "benchmark":
        from bench.ui import results

        st.session_state["run"] = job.run_id  # a browser that follows the run shows its results when it ends
        results.figures(jobs.store, job.run_id, live=True)
    else:
        from bench.ui import accuracy

        accuracy.figures(jobs.store, job.run_id, live=True)
    _freeze_modules(job.run_id)


@lru_cache(maxsize=1)
def _freeze_modules(_run_id: str) -> None:
    """Exempt the imported modules from garbage collection, once per run.

    Streamlit collects garbage after every poll. Going through all imported modules each time took longer than the rest
    of a poll.
    """
    gc.collect()
    gc.freeze()


def _progress_text(job: Job) -> str:
    p = job.progress
    if not p.measuring:
        return f"{p.stage[:1].upper()}{p.stage[1:]} …"
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
