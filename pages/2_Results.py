"""Results page: the results of one run, all runs in a table, and downloads."""

import pandas as pd
import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.results import bundles as results_bundles
from bench.results import report
from bench.ui import bundles, live, page, results
from bench.ui.button import pressed

jobs = page.begin("Results")
st.title("Results")
runs = {run.id: jobs.current(run) for run in jobs.store.runs()}
page.tell_damaged(jobs.store)
bundles.tell()
if not runs:
    st.info("No runs yet. Measure something first; every run is then listed here with its charts and files.")
    st.page_link("pages/1_Benchmark.py", label="Start a benchmark", icon=":material/speed:")
    st.markdown("Or import what was measured on another device:")
    bundles.upload(jobs)
    st.stop()

requested = st.query_params.get("run")
if requested and requested not in runs:
    st.error(
        f"There is no run {plain(requested)} here: it was deleted, or measured on another device. The newest one is "
        "shown."
    )
ids = list(runs)
chosen = st.selectbox(
    "Run",
    ids,
    index=ids.index(requested) if requested in runs else 0,
    format_func=lambda i: f"{report.title(runs[i])} · {report.state(runs[i].state)}",
    help="The address of this page leads back to the run that is shown.",
)
st.query_params["run"] = chosen
job = jobs.live
if job and job.id == chosen:
    st.info("This run is under way; figures are provisional. The Benchmark page follows it live.")
if runs[chosen] != jobs.store.run(chosen):  # its process died, and nothing was started since
    results.ending(runs[chosen])
results.figures(jobs.store, chosen)
imported = jobs.store.imported()

with st.container(horizontal=True):
    if results_bundles.resumable(runs[chosen], imported.get(chosen)) and pressed(
        "Resume",
        key="resume",
        about=chosen,
        icon=":material/play_arrow:",
        help="Go on where it stopped: finished lengths are kept, one that was under way begins anew.",
        disabled=bool(jobs.busy()),
    ):
        try:
            st.session_state["run"] = jobs.resume(chosen)
        except EarbenchError as e:
            live.refused(jobs, e)
        else:
            live.started(jobs.live)
            st.switch_page("pages/1_Benchmark.py")
    page.offer_deletion(
        jobs.store, chosen, "run", "This removes the run and everything that was measured in it, for good."
    )

st.subheader("All runs")
st.dataframe(
    pd.DataFrame(
        {
            "Run": run.id,
            "When": report.when(run.created_s),
            "State": report.state(run.state),
            "Device": results_bundles.device_name(run, imported.get(run.id)),
            "Models": ", ".join(dict.fromkeys(v.model for v in run.spec.variants)),
            "Modes": ", ".join(dict.fromkeys(v.spelled for v in run.spec.variants)),
            "Inputs": f"{', '.join(f'{s:g}' for s in run.spec.sizes)} {run.spec.axis.unit or run.spec.axis.name}",
        }
        for run in runs.values()
    ),
    hide_index=True,
    width="stretch",
)
with st.expander("Import runs and evaluations of other devices", icon=":material/upload_file:"):
    bundles.upload(jobs)
