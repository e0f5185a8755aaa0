"""Home page: this device, the newest result in one sentence, and links to the other pages."""

import streamlit as st

from bench.core.markdown import plain
from bench.core.units import size
from bench.device import cpu, host
from bench.results import report, sentences
from bench.ui import page

jobs = page.begin("Home")
st.title("What do you gain when you quantize?")
st.markdown(
    "Earbench measures speech models on **this device**, original against quantized: size on disk, latency of the "
    "forward pass, memory, and how certain each figure is."
)
with st.container(horizontal=True):
    if st.button("Start a benchmark", type="primary", icon=":material/speed:"):
        st.switch_page("pages/1_Benchmark.py")
    if st.button("See results", icon=":material/monitoring:"):
        st.switch_page("pages/2_Results.py")

st.subheader("Newest result")
newest = next((run for run in jobs.store.runs() if run.state == "done"), None)
newest_report = report.report(jobs.store, newest.id) if newest else None
if newest and newest_report:
    headline = sentences.headline(newest_report) or "There is nothing to compare in it: see what was measured."
    st.markdown(f"**{plain(headline)}**")
    if doubt := sentences.doubt(newest_report):
        st.warning(doubt, icon=":material/group:")
    st.page_link(
        "pages/2_Results.py",
        label=plain(report.title(newest)),
        icon=":material/arrow_forward:",
        query_params={"run": newest.id},
    )
else:
    st.info(
        "Nothing has been measured here yet. Open Benchmark and press Start: on two quiet cores the defaults give a "
        "first result within three minutes, without a network."
    )

st.subheader("This device")
this_device = host.device()
one, two, three = st.columns(3)
one.metric("Processor", f"{cpu.default_threads()} of {this_device.cores} cores")
one.caption(plain(this_device.cpu))
two.metric("Memory", size(this_device.ram_bytes))
two.caption(f"{size(cpu.available_memory_bytes())} free now")
three.metric("Device", this_device.name)
three.caption(plain(this_device.os))
st.caption(
    "Instructions that matter for quantization: " + (", ".join(this_device.isa) or "not reported by this device")
)
