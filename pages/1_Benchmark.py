"""Choose, start, cancel, watch live."""

import streamlit as st

from bench.ui import benchmark_form, live, page

jobs = page.begin("Benchmark", banner=False)
st.title("Benchmark")
if jobs.live and jobs.live.kind == "benchmark":
    live.card(jobs, "benchmark")
else:
    live.banner(jobs)
    benchmark_form.form(jobs)
    shown = st.session_state.get("run")
    if shown and jobs.store.run(shown):
        st.divider()
        st.subheader("The run just measured")
        from bench.ui import results  # altair and pandas: not before there is something to draw

        results.figures(jobs.store, shown)
    else:
        st.caption("Size and latency charts fill in here while the benchmark runs. Earlier runs are under Results.")
