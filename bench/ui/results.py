"""Draw the results of a run: sentences, charts, tables, downloads. The same while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from bench.artefacts import snippet
from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.records import LIVE_STATES, Evaluation, Failure, Run
from bench.core.specs import Placement
from bench.core.store import Store
from bench.results import report, tables
from bench.results import sentences as results_sentences
from bench.results.charts import signals, size, speed, style
from bench.results.report import Report
from bench.results.tables import Row
from bench.ui import bundles, watching

Shown = tuple[str, Placement, int]  # model, placement, batch
_STATES = {"failed": st.error, "cancelled": st.warning, "interrupted": st.warning, "done": st.info}


def figures(store: Store, run_id: str, *, live: bool = False) -> Report | None:
    """Draw a run's results so far. Returns None if there is no such run; a missing model or mode raises nothing.

    While the run is live, what is drawn is computed once for all sessions, and moves at the pace of `watching`.
    """
    r, drawn_at = watching.figures(store, run_id, report.report_at) if live else (report.report(store, run_id), None)
    if r is None:
        st.error(f"There is no run {plain(run_id)} here. It may have been deleted; the list below has those that are.")
        return None
    if not live:
        bundles.origin(store, r.run)
        ending(r.run)
    if drawn_at:
        _live_notes(drawn_at, r)
    else:
        _notes(r, live=False)
    if not r.cells:
        if live:
            st.caption(
                "The first figures come after the first round. Preparing a model takes a while the first time only."
            )
        elif r.run.state not in LIVE_STATES:
            if not r.failures:
                st.info("Nothing was measured in this run.")
            offer(bundles.download(store, r.run))
        return r
    shown, log = _shown(r), _logarithmic(r)
    if drawn_at:
        _live_plots(drawn_at, f"{shown}", log, r, shown)
    else:
        _plots(r, shown, log, live=False)
        _more(store, r)
    return r


def _notes(r: Report, *, live: bool) -> None:
    """Draw what must be known before the figures: failures, the result in a sentence unless it still moves, doubts."""
    failures(r.failures, lambda position: report.label(r.run, position))
    if not live and r.cells and (sentence := results_sentences.headline(r)):
        st.markdown(f"##### {plain(sentence)}")
    for claim in results_sentences.false_claims(r):
        st.error(claim, icon=":material/error:")
    for sentence in results_sentences.apart(r):
        st.info(sentence, icon=":material/splitscreen:")
    if doubt := results_sentences.doubt(r):
        st.warning(doubt, icon=":material/group:")


def _plots(r: Report, shown: Shown, log: bool, *, live: bool) -> None:
    _charts(r, shown, log, live=live)
    _table(r)


# Streamlit records the elements that these draw, and sends the recorded ones to every other session.


@st.cache_resource(max_entries=4, show_spinner=False)
def _live_notes(drawn_at: watching.DrawnAt, _r: Report) -> None:
    _notes(_r, live=True)


@st.cache_resource(max_entries=16, show_spinner=False)
def _live_plots(drawn_at: watching.DrawnAt, shown_text: str, log: bool, _r: Report, _shown: Shown) -> None:
    _plots(_r, _shown, log, live=True)


def _shown(r: Report) -> Shown:
    """Draw the choice of what to chart: one model, placement and batch at a time, since charts compare modes."""
    options = list(dict.fromkeys((c.record.variant.model, c.record.variant.placement, c.batch) for c in r.cells))
    if len(options) == 1:
        return options[0]
    return st.selectbox(
        "Show",
        options,
        format_func=lambda f: f"{f[0]}, {f[1].label}, batch {f[2]}",
        key=f"family-{r.run.id}",
    )


def _logarithmic(r: Report) -> bool:
    """Draw the choice of axes."""
    return st.toggle(
        "Logarithmic axes", key=f"log-{r.run.id}", help="A straight line of slope 1 is latency in proportion to length."
    )


def _charts(r: Report, shown: Shown, log: bool, *, live: bool) -> None:
    specs = _specs(r, shown, log, live=live)
    left, right = st.columns([3, 2])
    with left:
        st.vega_lite_chart(specs["latency"], width="stretch", key=f"latency-{r.run.id}")
    with right:
        st.vega_lite_chart(specs["speedup"], width="stretch", key=f"speedup-{r.run.id}")
    # With many modes, the speed-up chart is as tall as the other two together.
    with left if len(r.run.spec.variants) > style.FEW else right:
        st.vega_lite_chart(specs["size"], width="stretch", key=f"size-{r.run.id}")
    if "split" in specs:
        st.vega_lite_chart(specs["split"], width="stretch", key=f"split-{r.run.id}")
    if "work" in specs:
        st.markdown("##### What is quantized")
        for column, name in zip(st.columns(2), ("weights", "work"), strict=True):
            with column:
                st.vega_lite_chart(specs[name], width="stretch", key=f"{name}-{r.run.id}")


def _specs(r: Report, shown: Shown, log: bool, *, live: bool) -> dict[str, style.Spec]:
    (model, placement, batch), axis = shown, r.run.spec.axis
    rows = [
        x for x in tables.summary_rows(r) if (x["model"], x["placement"], x["batch"]) == (model, str(placement), batch)
    ]
    parts = [x for x in tables.coverage_rows(r) if x["model"] == model]
    baseline = r.run.spec.variants[r.run.spec.comparisons[model, placement][0]].spelled
    specs = {
        "latency": speed.latency(rows, axis, log=log),
        "speedup": speed.speedup(rows, baseline, axis),
        "size": size.size(rows),
    }
    if not live and (split := speed.split(rows, axis)):
        specs["split"] = split
    return specs | ({"weights": size.weights(parts), "work": size.work(parts)} if parts and not live else {})


def _table(r: Report) -> None:
    axis = r.run.spec.axis
    size = f"Input, {axis.unit or axis.name}"
    rows = []
    for c in r.cells:
        s, artefact = c.summary, c.record.artefact
        rows.append(
            {
                "Model": c.record.variant.model,
                "Mode": c.record.variant.spelled,
                "Threads": c.record.variant.placement.threads,
                "Batch": c.batch,
                size: c.size,
                "Mean, ms": s.mean_s * 1e3,
                "Std, ms": None if s.std_s is None else s.std_s * 1e3,
                "k": s.passes,
                "Speed-up": 1.0 if c.is_baseline else c.speedup.value if c.speedup else None,
                "95 % interval": "the baseline" if c.is_baseline else (c.speedup and c.speedup.span()) or "–",
                "Engine": c.engine.value if c.engine else None,
                "Precision": c.precision.value if c.precision else None,
                "RTF": c.rtf,
                "Size, MB": artefact.size_bytes / 1e6 if artefact else None,
                "Peak memory, MB": c.peak_rss_bytes / 1e6 if c.peak_rss_bytes else None,
                "Cold pass, ms": c.cold_s * 1e3 if c.cold_s else None,
                "Remarks": _remarks(c),
            }
        )
    frame = pd.DataFrame(rows)
    for name in ("Model", "Threads", "Batch"):
        if frame[name].nunique() == 1:
            frame = frame.drop(columns=name)
    number = st.column_config.NumberColumn
    st.dataframe(
        frame,
        hide_index=True,
        width="stretch",
        placeholder="–",
        column_config={
            "Mode": st.column_config.TextColumn(width="medium", pinned=True),  # visible on a phone too
            size: number(format="%g"),
            "Mean, ms": number(format="%.1f", help="Mean of k forward passes; the first pass is not among them."),
            "Std, ms": number(format="%.1f", help="Sample standard deviation (n - 1)."),
            "k": number(help="Kept passes."),
            "Speed-up": number(format="%.2f", help="Original over this mode, paired by round."),
            "Engine": number(format="%.2f", help="Speed-up by the engine alone: its own fp32 against the original."),
            "Precision": number(
                format="%.2f", help="What the lower precision adds: this mode against its engine's fp32."
            ),
            "RTF": number(format="%.3f", help="Real-time factor: seconds of computing for a second of audio."),
            "Size, MB": number(format="%.1f", help="All files that opening the model needs; MB is 10⁶ bytes."),
            "Peak memory, MB": number(format="%.0f", help="Resident memory of the model's process during passes."),
            "Cold pass, ms": number(format="%.1f", help="The very first pass at this length; kept out of the mean."),
        },
    )


def _remarks(c: report.Cell) -> str:
    remarks = []
    if c.group.state != "done":
        remarks.append("provisional")
    elif c.group.ended and c.group.ended != "target reached" and not c.is_baseline:
        remarks.append(c.group.ended)
    if c.summary.noisy:
        remarks.append(f"noisy: the middle half spreads over {c.summary.iqr_ratio:.0%} of the median")
    if c.throttled_visits:
        remarks.append(f"the device throttled in {c.throttled_visits} of {c.visits} visits")
    if c.busy_visits:
        remarks.append(f"other programs were busy in {c.busy_visits} of {c.visits} visits")
    return "; ".join(remarks)


def _more(store: Store, r: Report) -> None:
    """Draw the details below the figures: the hypothesis, coverage by part, code, circumstances, downloads."""
    if sentences := results_sentences.size_against_latency(r):
        with st.expander("Does latency follow size?", expanded=True):
            for sentence in sentences:
                st.markdown(sentence)
    if loss_rows := tables.loss_rows(r):
        with st.expander("How fine-tuning went"):
            _tuning(r, loss_rows)
    with st.expander("What is quantized, part by part"):
        _coverage_table(tables.coverage_rows(r))
    with st.expander("Show code: a script without Earbench"):
        cell = st.selectbox(
            "Result",
            r.cells,
            format_func=lambda c: f"{report.label(r.run, c.position)}, {r.run.spec.axis.show(c.size)}, batch {c.batch}",
            key=f"code-{r.run.id}",
        )
        try:
            st.markdown(snippet.heading(cell.record))
            st.code(snippet.code(cell.record, cell.size, cell.batch), language="python")
        except EarbenchError as e:
            st.caption(f"There is no code to show any more. {plain(str(e))}")
    with st.expander("Device and circumstances"):
        _circumstances(r)
    downloads(store, r)


def _tuning(r: Report, rows: Sequence[Row]) -> None:
    """Draw the loss for each model, since each has its own clips and vocabulary."""
    for model in dict.fromkeys(str(x["model"]) for x in rows):
        model_rows = [x for x in rows if x["model"] == model]
        st.vega_lite_chart(signals.loss(model_rows), width="stretch", key=f"loss-{r.run.id}-{model}")
    for summary in dict.fromkeys(
        f"{v.variant.spelled} of {v.variant.model}: {v.artefact.details['tuning']}."
        for v in r.variants
        if v.artefact and "tuning" in v.artefact.details
    ):
        st.caption(plain(summary))


def ending(run: Run | Evaluation) -> None:
    """Draw the message with which a run or an evaluation ended."""
    if run.message and run.state in _STATES:
        _STATES[run.state](plain(run.message))


def downloads(store: Store, r: Report) -> None:
    """Draw the download buttons of a run."""
    offer(
        (
            ("Summary CSV", f"earbench-{r.run.id}.csv", lambda: tables.to_csv(tables.summary_rows(r))),
            ("Raw passes CSV", f"earbench-{r.run.id}-passes.csv", lambda: tables.to_csv(tables.raw_rows(r))),
            ("Whole run JSON", f"earbench-{r.run.id}.json", lambda: tables.to_json(r)),
            *bundles.download(store, r.run),
        )
    )


def offer(kinds: Sequence[tuple[str, str, Callable[[], str]]]) -> None:
    """Draw download buttons: (label, file name, function that makes the text on demand)."""
    with st.container(horizontal=True):
        for label, name, make in kinds:
            mime = "text/csv" if name.endswith("csv") else "application/json"
            st.download_button(
                label, make, file_name=name, mime=mime, on_click="ignore", icon=":material/download:", key=f"get-{name}"
            )


def _coverage_table(rows: Sequence[Row]) -> None:
    if not rows:
        st.caption("No variant was opened.")
        return
    frame = pd.DataFrame(rows).rename(
        columns={
            "model": "Model",
            "mode": "Mode",
            "name": "Part",
            "weight_bits": "Weight bits",
            "activation_bits": "Activation bits",
            "parameters": "Parameters, millions",
            "macs": "Multiply-accumulates at 5 s, millions",
        }
    )
    for name in ("Parameters, millions", "Multiply-accumulates at 5 s, millions"):
        frame[name] /= 1e6
    number = st.column_config.NumberColumn
    st.dataframe(
        frame,
        hide_index=True,
        width="stretch",
        placeholder="–",
        column_config={
            "Parameters, millions": number(format="%.2f"),
            "Multiply-accumulates at 5 s, millions": number(format="%.0f"),
        },
    )
    st.caption(
        "Counted from the opened model. Attention products multiply activations by activations: they have no weights."
    )


def _circumstances(r: Report) -> None:
    device, spec = r.run.device, r.run.spec
    temperatures = [c.temperature_c for c in r.cells if c.temperature_c is not None]
    facts: dict[str, str] = {
        "Device": f"{device.name}{' (virtual machine)' if device.virtual else ''}",
        "Processor": f"{device.cpu}, {device.cores} cores; {' '.join(device.isa)}",
        "Memory": f"{device.ram_bytes / 1e9:.1f} GB",
        "Governor": device.governor or "not reported by this device",
        "System": device.os,
        "Versions": ", ".join(f"{k} {v}" for k, v in device.versions.items()),
        "Input": f"{spec.input_kind}, seed {spec.seed}",
        "Asked for": f"at least {spec.repeats} passes, speed-up within ±{spec.precision_target:.1%}",
        "Hottest reading": f"{max(temperatures):.0f} °C" if temperatures else "no sensor here",
    }
    for position, record in enumerate(r.variants):
        artefact, opening = record.artefact, record.opening
        if artefact and opening:
            remark = f", {opening.remark}" if opening.remark else ""
            peak_memory = f", {opening.peak_rss_bytes / 1e6:.0f} MB at most" if opening.peak_rss_bytes else ""
            facts[report.label(r.run, position)] = (
                f"{artefact.checkpoint}; built in {artefact.build_s:.1f} s"
                f"{' earlier (from the cache)' if artefact.from_cache else ''}; "
                f"process started in {opening.start_s:.1f} s, model loaded in {opening.load_s:.2f} s"
                f"{peak_memory}{remark}"
            )
    for c in r.cells:
        if c.group.ended and not c.is_baseline:
            key = f"{report.label(r.run, c.position)}, {r.run.spec.axis.show(c.size)}, batch {c.batch}"
            facts[key] = f"{c.group.ended} after {len({v.round for v in c.group.visits})} rounds"
    # A table draws Markdown, unlike a data frame.
    st.table(pd.DataFrame({"": map(plain, facts), " ": map(plain, facts.values())}).set_index(""))


def failures(causes: Sequence[Failure], label: Callable[[int], str], whole: str = "The run") -> None:
    """Draw each failure once, with the variants that it affected. `label` names a variant by its position."""
    by_cause: dict[tuple[str, str, str], list[Failure]] = {}
    for f in causes:
        by_cause.setdefault((f.stage, f.kind, f.message), []).append(f)
    for (stage, kind, message), fs in by_cause.items():
        names = ", ".join(label(f.variant) if f.variant is not None else whole for f in fs)
        where = {"build": "while it was built", "open": "while it was opened", "run": ""}.get(stage, f"at {stage}")
        st.error(f"**{plain(names)}** failed {plain(f'{where} ({kind}). {message}')}", icon=":material/error:")
        if kind != "unavailable" and any(f.log for f in fs):
            with st.expander("The last lines that its process printed"):
                st.code("\n\n".join(f.log for f in fs if f.log), language=None)
