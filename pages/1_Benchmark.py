"""Benchmark page: choose, start, cancel, and follow a run live."""

import streamlit as st

from bench.ui import benchmark_form, live, page

jobs = page.begin("Benchmark", banner=False)
st.title("Benchmark")
if jobs.live and jobs.live.kind == "benchmark":
    live.card(jobs, "benchmark")
else:
    live.banner(jobs)
    benchmark_form.form(jobs)
    run_id = st.session_state.get("run")
    if run_id and jobs.store.run(run_id):
        st.divider()
        st.subheader("The run just measured")
        from bench.ui import results  # imports altair and pandas: only when there is something to draw

        results.figures(jobs.store, run_id)
    else:
        st.caption("Size and latency charts fill in here while the benchmark runs. Earlier runs are under Results.")
