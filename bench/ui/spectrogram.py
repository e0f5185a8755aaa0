"""The switch for a sound's mel spectrogram on a page, and the spectrogram."""

from __future__ import annotations

import hashlib

import streamlit as st

from bench.core.lease import Refused
from bench.jobs import manager
from bench.results.charts import spectrogram, style
from bench.sound import mel
from bench.sound.audio import AudioError, Sound


def draw(key: str, sound: Sound) -> None:
    """Draw the switch and, if it is on, the spectrogram, or a sentence on why there is none. `key` names the sound."""
    shown = st.toggle(
        "Show the mel spectrogram",
        key="t_mel",
        help="Which frequencies sound when: what speech models work from. Computed on this device, in a few seconds.",
    )
    if not shown:
        if isinstance(st.session_state.get("t_mel_chart", ("", {}))[1], str):
            del st.session_state["t_mel_chart"]  # switched on again, it is tried again
        return
    cached = st.session_state.get("t_mel_chart")
    if not cached or cached[0] != key:
        try:
            with manager.jobs().hold("computing a spectrogram"):
                cached = st.session_state["t_mel_chart"] = (key, _chart_or_problem(sound))
        except Refused as e:
            st.caption(f":material/block: {e}")
            return
    chart_or_problem: style.Spec | str = cached[1]
    if isinstance(chart_or_problem, str):
        st.warning(chart_or_problem, icon=":material/graphic_eq:")
        return
    st.vega_lite_chart(chart_or_problem, width="stretch", key="t_spectrogram")
    st.caption(
        f"{mel.BANDS} mel bands up to {mel.TOP_HZ / 1000:g} kHz, windows of 25 ms. What is more than "
        f"{mel.RANGE_DB:g} dB below the loudest point is drawn as dark as {mel.RANGE_DB:g} dB below it."
    )


def _chart_or_problem(sound: Sound) -> style.Spec | str:
    try:
        return _chart(hashlib.sha256(sound.samples.tobytes()).hexdigest(), sound)
    except AudioError as e:
        return str(e)


@st.cache_data(max_entries=16, show_spinner="Computing the spectrogram …")
def _chart(digest: str, _sound: Sound) -> style.Spec:
    """Return the chart of a sound, kept for all sessions."""
    return spectrogram.spectrogram(mel.spectrogram(_sound.samples), _sound.duration_s)
