"""Transcribe page: a recording or live speech as text, by two or more variants side by side."""

import streamlit as st

from bench.ui import captions, history, live, page, source, transcribe

jobs = page.begin("Transcribe", banner=False)
st.title("Transcribe")
st.session_state.setdefault("t_how", "A recording")
how = st.segmented_control(
    "What",
    ["A recording", "Live captions"],
    required=True,
    key="t_how",
    label_visibility="collapsed",
)
job = jobs.live
if not (job and job.kind == "transcription" and how == "A recording"):  # whose progress is below
    live.banner(jobs)
if how == "Live captions":
    captions.panel(jobs)
else:
    chosen = source.choose()
    transcribe.form(jobs, chosen)
    transcribe.result(jobs, chosen)
st.divider()
history.panel(jobs.store)
