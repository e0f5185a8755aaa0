"""Transcribing one recording: the model, the modes, the button, and the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.records import Transcript
from bench.core.specs import Variant
from bench.core.store import StoreError
from bench.device import kinds
from bench.families import catalogue
from bench.jobs.manager import Jobs
from bench.results import transcripts
from bench.ui import diff, menus, texts
from bench.ui.button import pressed
from bench.ui.source import Chosen
from bench.workers.client import Cancelled


@dataclass(frozen=True, slots=True)
class _Result:
    """The last transcript, and the key of its sound."""

    key: str
    transcript: Transcript


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
            f"{checkpoint.name} has random weights, so its text is meaningless: it shows size and latency only.",
            icon=":material/casino:",
        )
    if not chosen:
        st.error("No quantization mode is chosen. Choose at least one; two can be compared.")
    return [Variant.parse(checkpoint.name, mode, kinds.default()) for mode in chosen]


def refused(jobs: Jobs) -> str:
    """Return why nothing can be transcribed now, or "" if it can."""
    job = jobs.live
    if job is None:
        return ""
    return f"{job.what} is under way, and a transcription beside it would spoil its times. Wait for it, or cancel it."


def form(jobs: Jobs, chosen: Chosen | None) -> None:
    """Draw the options beside the sound, and the button."""
    chosen_variants = variants(jobs)
    key = chosen.key if chosen else ""
    reference = st.text_input(
        "What is said in it (optional)",
        value=chosen.reference if chosen else "",
        key=f"t_reference {key}",
        placeholder="Type it in, and word errors are counted.",
    )
    keep = st.checkbox("Keep the audio with it", key="t_keep", help="Else only the texts stay on this device.")
    if refusal := refused(jobs):
        st.caption(f":material/block: {refusal}")
    ready = chosen is not None and bool(chosen_variants) and not refusal
    if pressed("Transcribe", type="primary", icon=":material/notes:", key="t_start", disabled=not ready) and chosen:
        _transcribe(jobs, chosen, chosen_variants, reference, keep)
    last: _Result | None = st.session_state.get("t_result")
    if last and last.key == key and last.transcript.reference != reference.strip():
        t = replace(last.transcript, reference=reference.strip())
        try:
            if t.id is not None:
                jobs.store.set_reference(t.id, t.reference)
        except StoreError as e:
            st.warning(f"The words that were said can't be kept in the history: {e}")
        st.session_state["t_result"] = replace(last, transcript=t)


def result(jobs: Jobs, chosen: Chosen | None) -> None:
    """Draw the last transcript, its texts side by side."""
    last: _Result | None = st.session_state.get("t_result")
    if last is None:
        if chosen:
            st.caption("The texts of all chosen modes appear here, side by side.")
        return
    t = last.transcript
    st.subheader("What was heard")
    model = ", ".join(dict.fromkeys(x.variant.model for x in t.texts))
    st.caption(f"{t.source} · {t.length_s:.1f} s · {model}")
    if not chosen or chosen.key != last.key:
        st.caption(":material/info: This is of an earlier sound: press Transcribe for the one above.")
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


def _transcribe(jobs: Jobs, chosen: Chosen, chosen_variants: list[Variant], reference: str, keep: bool) -> None:
    sound = chosen.sound
    with st.status("Starting …") as status:
        try:
            variant_texts = jobs.transcriber.transcribe(
                sound.samples, chosen_variants, lambda text: status.update(label=f"{text[:1].upper()}{text[1:]} …")
            )
        except EarbenchError as e:
            problem = str(e)
        except Cancelled:
            problem = "It was cancelled, because a measurement began or the program ends. Press Transcribe again."
        except OSError as e:
            problem = f"The sound can't be handed to the models ({e.strerror}). Free some space, then try again."
        else:
            problem = ""
            status.update(label="Done", state="complete")
        if problem:
            status.update(label="Nothing was transcribed", state="error")
    if problem:
        st.error(problem)
        return
    t = Transcript(time.time(), chosen.name, sound.duration_s, reference.strip(), tuple(variant_texts))
    try:
        t = transcripts.keep(jobs.store, t, sound.samples if keep else None)
    except OSError as e:
        st.warning(f"It can't be kept in the history ({e.strerror}). Free some space, then try again.")
    except StoreError as e:
        st.warning(f"It can't be kept in the history: {e}")
    st.session_state["t_result"] = _Result(chosen.key, t)
