"""Home: this device, the newest result in one sentence, and the way in."""

import streamlit as st

from bench.core.units import size
from bench.device import cpu, host
from bench.results import report, sentences
from bench.ui import page

jobs = page.begin("Home")
st.title("What do you gain when you quantize?")
st.markdown(
    "Earbench measures speech models on **this device**, original against quantized: size on disk, latency of the "
    "forward pass, memory, and how sure one can be of each figure."
)
with st.container(horizontal=True):
    if st.button("Start a benchmark", type="primary", icon=":material/speed:"):
        st.switch_page("pages/1_Benchmark.py")
    if st.button("See results", icon=":material/monitoring:"):
        st.switch_page("pages/2_Results.py")

st.subheader("Newest result")
newest = next((run for run in jobs.store.runs() if run.state == "done"), None)
found = report.report(jobs.store, newest.id) if newest else None
if newest and found:
    st.markdown(f"**{sentences.headline(found) or 'There is nothing to compare in it: see what was measured.'}**")
    st.page_link(
        "pages/2_Results.py",
        label=report.title(newest),
        icon=":material/arrow_forward:",
        query_params={"run": newest.id},
    )
else:
    st.info(
        "Nothing has been measured here yet. Open Benchmark and press Start: the defaults give a first result in a "
        "minute or two, without a network."
    )

st.subheader("This device")
d = host.device()
one, two, three = st.columns(3)
one.metric("Processor", f"{cpu.default_threads()} of {d.cores} cores")
one.caption(d.cpu)
two.metric("Memory", size(d.ram_bytes))
two.caption(f"{size(cpu.available_memory_bytes())} free now")
three.metric("Device", d.name)
three.caption(d.os)
st.caption("Instructions that matter for quantization: " + (", ".join(d.isa) or "not told by this device"))
