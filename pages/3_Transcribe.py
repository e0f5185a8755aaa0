"""Transcribe page: a recording or live speech as text, by two or more variants side by side."""

import streamlit as st

from bench.ui import captions, history, page, source, transcribe

jobs = page.begin("Transcribe")
st.title("Transcribe")
st.session_state.setdefault("t_how", "A recording")
how = st.segmented_control(
    "What",
    ["A recording", "Live captions"],
    required=True,
    key="t_how",
    label_visibility="collapsed",
)
if how == "Live captions":
    captions.panel(jobs)
else:
    chosen = source.choose()
    transcribe.form(jobs, chosen)
    transcribe.result(jobs, chosen)
st.divider()
history.panel(jobs.store)
