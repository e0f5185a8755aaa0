"""The job that is under way: one line on every page, the whole card on the page that started it.

Fragments poll while a job is live and not otherwise.
"""

from __future__ import annotations

import gc
from functools import lru_cache

import streamlit as st

from bench.core.units import duration
from bench.jobs.manager import Job, Jobs
from bench.ui.button import pressed

_PAGES = {"benchmark": "pages/1_Benchmark.py", "evaluation": "pages/4_Accuracy.py"}
POLL_S = 3.0  # every poll of every browser takes CPU time from what is being measured


def banner(jobs: Jobs) -> None:
    """A line about the live run with a link, or about another process that holds the device; else nothing."""
    if jobs.live:
        _banner(jobs)
    elif held := jobs.holder():
        st.info(
            f"{held} It was started outside this dashboard; what it stores appears under Results or Accuracy.",
            icon=":material/lock:",
        )


@st.fragment(run_every=POLL_S)
def _banner(jobs: Jobs) -> None:
    job = jobs.live
    if job is None:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        doing = "Measuring " if job.progress.round else "Evaluating " if job.progress.clip else ""
        st.markdown(f":material/timer: {doing}{_where(job)}")
        st.page_link(_PAGES[job.kind], label="Watch", icon=":material/arrow_forward:")


@st.fragment(run_every=POLL_S)
def card(jobs: Jobs, kind: str) -> None:
    """Progress, cancel, and everything measured so far. Reruns the page when the job of this kind ends."""
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
            st.progress(min(1.0, p.done_ratio), text=_where(job))
        else:
            st.markdown(_where(job))
        st.caption(
            "Closing the browser changes nothing: it goes on, and any browser can watch and cancel it. "
            "Figures are provisional until " + ("a length is finished." if kind == "benchmark" else "it has ended.")
        )
    # They bring altair and pandas, which a page that draws nothing need not wait for.
    if kind == "benchmark":
        from bench.ui import results

        st.session_state["run"] = job.run_id  # whoever watched it sees its results when it ends
        results.figures(jobs.store, job.run_id, live=True)
    else:
        from bench.ui import accuracy

        accuracy.figures(jobs.store, job.run_id, live=True)
    _spare_the_collector(job.run_id)


@lru_cache(maxsize=1)
def _spare_the_collector(_run_id: str) -> None:
    """Once a run: Streamlit collects garbage after every poll, and would look through all imported modules each time,
    which took more than the rest of a poll.
    """
    gc.collect()
    gc.freeze()


def _where(job: Job) -> str:
    p = job.progress
    if not p.measuring:
        return f"{p.stage[:1].upper()}{p.stage[1:]} …"
    if p.clip:
        left = f"about {duration(p.eta_s)} left" if p.eta_s is not None else "time left is known from the third clip on"
        return f"clip {p.clip} of {p.clips} · {left}"
    left = f"about {duration(p.eta_s)} left" if p.eta_s is not None else "time left is known from the second round on"
    done = f"group {p.group + 1} of {p.groups}, round {p.round} of at least {p.rounds}"
    return f"{p.stage}: {p.cell} · {done} · {left}"
