"""Device page: what this device can do, what is missing and how to fix it, and the artefacts that were built here."""

import streamlit as st

from bench.artefacts import cache
from bench.ui import artefacts as ui_artefacts
from bench.ui import device, page

jobs = page.begin("Device")
st.title("Device")
device.facts()
st.subheader("Quantization modes")
device.mode_table()
st.subheader("Sound")
device.sound()
st.subheader("Network")
st.markdown(device.network())
st.subheader("Artefacts")
st.markdown(
    "A model in a mode is built once into an artefact, and opened from it from then on. It can be carried to another "
    "device, which then does not need to build it."
)
kept = cache.kept()
busy = jobs.busy("packing, clearing or importing artefacts")
if busy:
    st.info(busy, icon=":material/hourglass_top:")
if kept:
    ui_artefacts.table(kept)
    ui_artefacts.take_home(jobs, kept, busy)
    ui_artefacts.clear(jobs, kept, busy)
else:
    st.info(
        "Nothing is built yet. A benchmark builds what it needs; without one: `python -m bench artefacts build`. Or "
        "bring what another device has built:"
    )
ui_artefacts.bring(jobs, busy)
