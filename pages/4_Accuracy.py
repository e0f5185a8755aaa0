"""Accuracy page: evaluate on a data set; then WER against time and size, and the worst clips."""

import pandas as pd
import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.results import bundles, evaluation, report
from bench.ui import evaluation_form, live, page
from bench.ui.button import pressed

jobs = page.begin("Accuracy", banner=False)
st.title("Accuracy")
st.markdown(
    "The original and its quantized variants transcribe the same clips. The words that each gets wrong are compared "
    "with its time and its size."
)
evaluations = {e.id: jobs.current(e) for e in jobs.store.evaluations()}
job = jobs.live
running = job.id if job and job.kind == "evaluation" else None
ended = {i: e for i, e in evaluations.items() if i != running}
requested = st.query_params.get("evaluation")
imported = jobs.store.imported()
if running:
    live.card(jobs, "evaluation")
else:
    live.banner(jobs)
    with st.expander("New evaluation", expanded=not ended, icon=":material/add:"):
        evaluation_form.form(jobs)
page.tell_damaged(jobs.store)
if not evaluations:
    st.caption("Press Start above: word error rates, charts and the worst clips fill in here.")
    st.stop()

if requested and requested not in evaluations:
    st.error(f"There is no evaluation {plain(requested)} here: it was deleted, or made on another device.")
if ended and (not running or requested in ended):
    ids = list(ended)
    chosen = st.selectbox(
        "Evaluation",
        ids,
        index=ids.index(requested) if requested in ended else 0,
        format_func=lambda i: f"{evaluation.title(ended[i])} · {ended[i].state}",
        help="The address of this page leads back to the evaluation that is shown.",
    )
    st.query_params["evaluation"] = chosen
    from bench.ui import accuracy, best, results

    if ended[chosen] != jobs.store.evaluation(chosen):  # its process died, and nothing was started since
        results.ending(ended[chosen])
    result = accuracy.figures(jobs.store, chosen)
    if result and result.evaluation.state == "done":
        best.panel(jobs, result)
    with st.container(horizontal=True):
        if bundles.resumable(ended[chosen], imported.get(chosen)) and pressed(
            "Resume",
            key="resume",
            about=chosen,
            icon=":material/play_arrow:",
            disabled=bool(jobs.busy()),
            help="Continue where it stopped; clips that are done are kept.",
        ):
            try:
                jobs.resume(chosen)
            except EarbenchError as e:
                live.refused(jobs, e)
            else:
                live.started(jobs.live)
                st.rerun()
        page.offer_deletion(
            jobs.store,
            chosen,
            "evaluation",
            "This removes the evaluation and all its transcriptions, for good. The clips stay.",
        )

st.subheader("All evaluations")
st.dataframe(
    pd.DataFrame(
        {
            "Evaluation": f"?evaluation={e.id}",
            "When": report.when(e.created_s),
            "State": report.state(e.state),
            "Clips of": e.spec.dataset,
            "Models": ", ".join(dict.fromkeys(v.model for v in e.spec.variants)),
            "Modes": ", ".join(dict.fromkeys(v.spelled for v in e.spec.variants)),
            "Device": bundles.device_name(e, imported.get(e.id)),
        }
        for e in evaluations.values()
    ),
    hide_index=True,
    width="stretch",
    column_config={"Evaluation": st.column_config.LinkColumn(display_text=r"\?evaluation=(.*)")},
)
