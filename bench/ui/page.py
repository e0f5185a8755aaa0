"""The beginning of every page: title, guard, links to the other pages, and the live run."""

from __future__ import annotations

import streamlit as st

from bench import families, modes
from bench.core import extras
from bench.core.extras import ExtraError
from bench.core.store import Store, StoreError
from bench.jobs import manager
from bench.jobs.manager import Jobs
from bench.ui import live
from bench.ui.guard import refuse_strangers

PAGES = (
    ("app.py", "Home", ":material/home:"),
    ("pages/1_Benchmark.py", "Benchmark", ":material/speed:"),
    ("pages/2_Results.py", "Results", ":material/monitoring:"),
    ("pages/3_Transcribe.py", "Transcribe", ":material/mic:"),
    ("pages/4_Accuracy.py", "Accuracy", ":material/grading:"),
    ("pages/5_Device.py", "Device", ":material/developer_board:"),
)
CHOICES = (
    *("models", "modes", "lengths", "batches", "threads", "repeats", "target", "kind", "seed"),
    *("source", "folder", "hub_name", "hub_split", "hub_limit", "split", "limit", "clips_seed"),
    *("accuracy_models", "accuracy_modes", "accuracy_threads", "normaliser"),
    *("t_how", "t_source", "t_clip", "t_model", "t_modes", "t_shade", "t_keep", "t_mel"),
)
# Charts need the width: by default, a sixth of a phone's width is margin.
_STYLE = """<style>
.block-container { padding-top: 4.5rem; padding-bottom: 3rem; max-width: 1180px; }
@media (max-width: 640px) { .block-container { padding-left: 1rem; padding-right: 1rem; } }
</style>"""


def begin(title: str, *, banner: bool = True) -> Jobs:
    """Set up a page and return the job manager.

    Strangers, a database that can't be opened, and extra modules that can't be used end the page here.
    """
    st.set_page_config(page_title=f"{title} · Earbench", page_icon=":material/hearing:", layout="wide")
    st.html(_STYLE)
    refuse_strangers()
    with st.sidebar:
        st.markdown("### Earbench")
        for path, label, icon in PAGES:
            st.page_link(path, label=label, icon=icon)
    try:
        extras.check()
        modes.modes(), families.families()  # their names may be in use
        jobs = manager.jobs()
    except (ExtraError, StoreError) as e:
        st.error(str(e))
        st.stop()
    for key in CHOICES:  # Streamlit drops the state of widgets that a page does not draw
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]
    live.refusal(jobs)
    if banner:
        live.banner(jobs)
    return jobs


def tell_damaged(store: Store) -> None:
    """Name the runs and evaluations that are in no list because they can't be read, and offer to delete them."""
    if not (damaged_ids := store.damaged()):
        return
    st.warning(
        f"{', '.join(damaged_ids)} can't be read: damaged in the database, or written by another Earbench. All others "
        "are as they were.",
        icon=":material/broken_image:",
    )
    if st.button("Delete what can't be read", icon=":material/delete:", key="delete_damaged"):
        try:
            for run_id in damaged_ids:
                store.delete_run(run_id)
        except StoreError as e:
            st.error(str(e))
        else:
            st.rerun()


def offer_deletion(store: Store, run_id: str, what: str, promise: str) -> None:
    """Draw a button that asks before it deletes what the address names: a "run" or an "evaluation"."""
    with st.popover("Delete …", icon=":material/delete:"):
        st.markdown(promise)
        if st.button(f"Delete this {what}", type="primary", key="delete"):
            try:
                store.delete_run(run_id)
            except StoreError as e:
                st.error(str(e))
            else:
                del st.query_params[what]
                st.rerun()
