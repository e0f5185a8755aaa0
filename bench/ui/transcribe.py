"""Transcribing one recording: the model, the modes, the button, and the result."""

from __future__ import annotations

import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.specs import Variant
from bench.core.store import StoreError
from bench.device import kinds
from bench.families import catalogue
from bench.jobs.manager import Jobs
from bench.jobs.transcribing import Recording, Transcribing
from bench.ui import diff, live, menus, texts
from bench.ui.button import pressed
from bench.ui.source import Chosen

POLL_S = 1.0
SHORT_S = 0.8  # how long to wait for a transcription before its progress is drawn


def variants(jobs: Jobs) -> list[Variant]:
    """Draw the choice of model and modes. Return the variants; none, with the reason drawn, if something is missing."""
    left, right = st.columns(2)
    with left:
        model = _model()
    with right:
        chosen = menus.pick_modes("t_modes")
    try:
        checkpoint = catalogue.find(model)
    except EarbenchError as e:
        st.error(str(e))
        return []
    if checkpoint.source == "random":
        st.info(
            f"{plain(checkpoint.name)} has random weights, so its text is meaningless: it shows size and latency only.",
            icon=":material/casino:",
        )
    if not chosen:
        st.error("No quantization mode is chosen. Choose at least one; two can be compared.")
    return [Variant.parse(checkpoint.name, mode, kinds.default()) for mode in chosen]


def form(jobs: Jobs, chosen: Chosen | None) -> None:
    """Draw the options beside the sound, the button, and the transcription while it runs."""
    chosen_variants = variants(jobs)
    key = chosen.key if chosen else ""
    reference = st.text_input(
        "What is said in it (optional)",
        value=chosen.reference if chosen else "",
        key=f"t_reference {key}",
        placeholder="Type it in, and word errors are counted.",
        on_change=_reference_changed,
        args=(jobs, key),
    )
    keep = st.checkbox("Keep the audio with it", key="t_keep", help="Else only the texts stay on this device.")
    refusal = jobs.busy("a transcription")
    job = jobs.live
    if refusal and not isinstance(job, Transcribing):
        st.caption(f":material/block: {refusal}")
    ready = chosen is not None and bool(chosen_variants) and not refusal
    last = _shown(jobs)
    if (
        pressed(
            "Transcribe",
            type="primary",
            icon=":material/notes:",
            key="t_start",
            about=last.id if last else None,  # a second press must not start another once this one has ended
            disabled=not ready,
        )
        and chosen
    ):
        recording = Recording(key, chosen.name, chosen.sound.samples, reference.strip(), keep)
        try:
            job = st.session_state["t_job"] = jobs.transcribe(recording, chosen_variants)
        except EarbenchError as e:
            live.refused(jobs, e)
        else:
            live.started(job)
            job.wait(SHORT_S)  # a warm model needs no progress bar
            st.rerun()
    if isinstance(job, Transcribing):
        st.session_state["t_job"] = job  # a browser that opens the page meanwhile shows its texts when it ends
        _card(jobs, job)


@st.fragment(run_every=POLL_S)
def _card(jobs: Jobs, job: Transcribing) -> None:
    """Draw progress and a cancel button. Reruns the page when the transcription ends."""
    if not job.live:
        st.rerun()
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"#### {'Cancelling' if job.cancelled else 'Transcribing'} {plain(job.recording.source)}")
            if pressed("Cancel", icon=":material/stop_circle:", key="t_cancel", about=job.id, disabled=job.cancelled):
                jobs.cancel()
        st.progress(min(1.0, job.progress.done_ratio), text=live.progress_text(job))
        st.caption("It goes on when you leave or close this page; any browser can watch and cancel it here.")


def result(jobs: Jobs, chosen: Chosen | None) -> None:
    """Draw the last transcript, its texts side by side."""
    last = _shown(jobs)
    if last is None:
        if chosen and not jobs.live:
            st.caption("The texts of all chosen modes appear here, side by side.")
        return
    if last.problem:
        (st.warning if last.transcript or last.cancelled else st.error)(last.problem)
    t = last.transcript
    if t is None:
        return
    st.subheader("Transcriptions")
    model = ", ".join(dict.fromkeys(x.variant.model for x in t.texts))
    st.caption(f"{plain(t.source)} · {t.length_s:.1f} s · {plain(model)}")
    if not chosen or chosen.key != last.recording.key:
        st.caption(":material/info: This is of another recording: press Transcribe for the one above.")
    shade = st.toggle(
        "Shade by confidence", key="t_shade", help="The fainter a word, the less sure the model is of it."
    )
    if shade:
        st.caption("The fainter a word, the less sure the model is of it. Point at a word for the figure.")
    else:
        st.markdown(texts.compared(t))
        st.html(diff.LEGEND)
    texts.side_by_side(t, shade=shade)
    st.caption(
        "Times are of the forward passes alone, once each: for figures with intervals, run a benchmark. "
        "Real-time factor: time over the sound's length; under 1 is faster than it is spoken."
    )


def _shown(jobs: Jobs) -> Transcribing | None:
    """Return the ended transcription to show: the one that this browser started or watched, else the newest here."""
    job: Transcribing | None = st.session_state.get("t_job") or jobs.transcription
    return job if job and not job.live else None


def _reference_changed(jobs: Jobs, key: str) -> None:
    """Score the last transcript against what was just typed."""
    last, reference = _shown(jobs), st.session_state[f"t_reference {key}"].strip()
    if last and last.recording.key == key:
        try:
            last.set_reference(jobs.store, reference)
        except StoreError as e:
            st.warning(f"The words that were said can't be kept in the history: {e}")


def _model() -> str:
    labels = {c.name: f"{c.name} ({c.note})" for c in catalogue.catalogue()}
    st.session_state.setdefault("t_model", catalogue.default())
    current = st.session_state["t_model"]
    options = [*labels, *([current] if current and current not in labels else [])]
    chosen: str | None = st.selectbox(
        "Model",
        options,
        format_func=lambda name: labels.get(name, name),
        key="t_model",
        accept_new_options=True,
        help=f"Or type the path of a folder on this device that holds {catalogue.accepted()}.",
    )
    return chosen or ""
