"""Bundles in the browser: import several at once, and download one."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from bench.core.bundle import MAX_BYTES
from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.records import LIVE_STATES, Evaluation, Run
from bench.core.store import Store
from bench.jobs.manager import Jobs
from bench.results import bundles


def upload(jobs: Jobs) -> None:
    """Draw the upload; what was imported is told by `tell` at the next rerun, and the newest run of it is selected."""
    number = st.session_state.setdefault("bundles_number", 0)
    busy = _busy(jobs)
    st.file_uploader(
        "Bundles of other devices",
        type="json",
        accept_multiple_files=True,
        key=f"bundles_{number}",  # a new key after each import: an upload stays in memory as long as its widget
        max_upload_size=MAX_BYTES // 1_000_000,
        on_change=_import,
        args=(jobs, f"bundles_{number}"),
        disabled=bool(busy),
        help="What “Bundle” among the downloads, or `python -m bench export RUN --bundle FILE`, wrote on any device. "
        "Importing a file twice changes nothing.",
    )
    if busy:
        st.caption(f"{busy} Nothing is imported beside it: that would disturb its times.")


def tell() -> None:
    """Draw what became of the last upload."""
    for sentence in st.session_state.pop("bundles_refused", ()):
        st.error(plain(sentence))
    if sentences := st.session_state.pop("bundles_imported", ()):
        st.success("  \n".join(map(plain, sentences)))
    for run_id in st.session_state.pop("bundles_evaluations", ()):
        st.page_link(
            "pages/4_Accuracy.py",
            label=f"Look at evaluation {run_id}",
            icon=":material/grading:",
            query_params={"evaluation": run_id},
        )


def _busy(jobs: Jobs) -> str:
    """What runs on this device now, as a sentence, or "" if nothing does."""
    return f"{job.noun} is under way." if (job := jobs.live) else jobs.holder() or ""


def _import(jobs: Jobs, key: str) -> None:
    if not (uploads := st.session_state[key]):
        return
    st.session_state["bundles_number"] += 1
    if busy := _busy(jobs):  # it began after the page was drawn
        st.session_state["bundles_refused"] = [
            f"{busy} Nothing was imported: it would disturb the times. Wait for it to end, and choose the files again."
        ]
        return
    store = jobs.store
    imported: list[bundles.Imported] = []
    refused: list[str] = []
    for file in uploads:
        try:
            imported.append(bundles.take_in(store, file.getvalue(), file.name))
        except EarbenchError as e:
            refused.append(str(e))
    if runs := [x.record for x in imported if isinstance(x.record, Run)]:
        st.query_params["run"] = max(runs, key=lambda run: run.created_s).id
    st.session_state["bundles_imported"] = [x.sentence for x in imported]
    st.session_state["bundles_evaluations"] = [x.record.id for x in imported if isinstance(x.record, Evaluation)]
    st.session_state["bundles_refused"] = refused


def origin(store: Store, record: Run | Evaluation) -> None:
    """Draw where an imported run or evaluation was measured; nothing for one that was measured here."""
    if sentence := bundles.origin(record, store.imported().get(record.id)):
        st.caption(f":material/input: {plain(sentence)}")


def download(store: Store, record: Run | Evaluation) -> tuple[tuple[str, str, Callable[[], str]], ...]:
    """The download of a bundle, for `results.offer`; none while the record is live."""
    if record.state in LIVE_STATES:
        return ()
    return (("Bundle", f"earbench-{record.id}.bundle.json", lambda: _text(store, record.id)),)


def _text(store: Store, run_id: str) -> str:
    """The bundle, or the sentence that says why there is none: a download has no other place for it."""
    try:
        return bundles.text(store, run_id)
    except EarbenchError as e:
        return f"{e}\n"
