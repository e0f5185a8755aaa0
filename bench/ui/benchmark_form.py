"""The form of the Benchmark page, as a RunSpec, and the menus of models and modes for every page."""

from __future__ import annotations

import streamlit as st

from bench import modes
from bench.core.errors import EarbenchError
from bench.core.lists import placements, sizes, whole_numbers
from bench.core.specs import LENGTH, Axis, RunSpec
from bench.core.units import duration, size
from bench.device import cpu, kinds
from bench.families import catalogue
from bench.jobs import work
from bench.jobs.forecast import Estimate, estimate
from bench.jobs.manager import Jobs
from bench.modes.probe import availability
from bench.results import report
from bench.ui import live, settings
from bench.ui.button import pressed

DEFAULTS = {"batches": "1", "repeats": 10, "target": 2.0, "kind": "speech", "seed": 0}
MANY = 4  # with more modes than this, their descriptions can be folded away


def form(jobs: Jobs) -> None:
    """Draw the form, the expected cost of the run, and the buttons that start it."""
    for key, value in ({"threads": str(cpu.default_threads())} | DEFAULTS).items():
        st.session_state.setdefault(key, value)
    chosen_models = pick_models("models", catalogue.default())
    chosen_modes = pick_modes("modes")
    axis = _axis(chosen_models)
    default_sizes = ", ".join(f"{size:g}" for size in axis.defaults)
    st.session_state.setdefault("lengths", default_sizes)
    if st.session_state.setdefault("sizes_of", axis.name) != axis.name:  # sizes in seconds mean nothing in pixels
        st.session_state.update(sizes_of=axis.name, lengths=default_sizes)
    sizes_text = st.text_input(
        axis.title.replace(axis.label, axis.plural),
        key="lengths",
        help=f"{axis.units.capitalize()} separated by commas, or a range from:to:how many, such as 1:20:5.",
    )
    with st.expander("Advanced: batch, threads, repeats, precision, input, seed"):
        one, two, three = st.columns(3)
        batches = one.text_input("Batch sizes", key="batches", help="Whole numbers separated by commas.")
        threads = two.text_input(
            "Threads",
            key="threads",
            help=f"This device has {cpu.default_threads()} usable cores.",
        )
        repeats = three.number_input(
            "Passes at least (k)",
            2,
            1000,
            key="repeats",
            help="Timed passes of every mode and length; a round brings 3.",
        )
        target = one.number_input(
            "Precision target, ± %",
            0.1,
            100.0,
            step=0.5,
            key="target",
            help="Half width of the speed-up's 95 % interval.",
        )
        kind = two.selectbox(
            "Input", ["speech", "noise"], key="kind", help="Speech: a synthetic voice, tiled to length."
        )
        seed = three.number_input("Seed", 0, 2**32 - 1, key="seed", help="Of the inputs and the order of visits.")
    try:
        spec = RunSpec.grid(
            [catalogue.find(name).name for name in chosen_models],
            chosen_modes,
            sizes(sizes_text, axis),
            batches=whole_numbers(batches, "Batch sizes"),
            placements=placements(threads),
            repeats=int(repeats),
            precision_target=target / 100,
            seed=int(seed),
            input_kind="noise" if kind == "noise" else "speech",
            axis=work.axis(chosen_models),
        )
        expected = estimate(spec, report.rates(jobs.store))
    except EarbenchError as e:
        st.error(str(e))
        spec, expected = None, None
    if expected and spec:
        _show_estimate(expected)
        if max(v.placement.threads for v in spec.variants) > cpu.default_threads():
            st.warning(f"More threads than the {cpu.default_threads()} usable cores usually run slower, not faster.")
    if busy := occupied(jobs):
        st.caption(busy)
    with st.container(horizontal=True):
        ready = spec is not None and expected is not None and expected.refusal is None and not busy
        newest = st.session_state.get("run")  # a second press must not start anything once this run has ended
        start = pressed(
            "Start", type="primary", icon=":material/play_arrow:", key="start", about=newest, disabled=not ready
        )
        lab = pressed(
            "The lab",
            icon=":material/school:",
            key="lab",
            about=newest,
            disabled=not chosen_models or bool(busy),
            help=f"The chosen models, original and dynamic int8, at {_sweep(axis)}, k = 10: starts at once.",
        )
    if start and spec:
        _start(jobs, spec)
    if lab:
        try:
            names = [catalogue.find(name).name for name in chosen_models]
            axis = work.axis(names)
            spec = RunSpec.grid(names, modes.first(), axis.sweep, placements=[kinds.default()], axis=axis)
        except EarbenchError as e:
            st.error(str(e))
        else:
            _start(jobs, spec)


def _axis(models: list[str]) -> Axis:
    """Return the axis of the chosen models' inputs. Seconds if none is chosen or they differ, which is refused."""
    try:
        return work.axis(models) if models else LENGTH
    except EarbenchError:
        return LENGTH


def _sweep(axis: Axis) -> str:
    *most, last = (f"{size:g}" for size in axis.sweep)
    return f"{', '.join(most)} and {last} {axis.unit or axis.name}"


def occupied(jobs: Jobs) -> str:
    """Return why nothing can start now, or "" if something can."""
    job = jobs.live
    if job is None:
        return ""
    return f"{job.noun} is under way, and two at once would disturb each other: Start is free again when it has ended."


def pick_models(key: str, default: str) -> list[str]:
    """Draw a menu of the known models, where a folder's path can be typed too. Return the chosen names."""
    st.session_state.setdefault(key, [default])
    labels = {c.name: f"{c.name} ({c.note})" for c in catalogue.catalogue()}
    chosen: list[str] = st.multiselect(
        "Models",
        list(labels),
        format_func=lambda name: labels.get(name, name),
        key=key,
        placeholder="Choose a model or type a folder's path",
        accept_new_options=True,
        help="One or several. Type the path of a folder on this device to measure a model of your own "
        f"({catalogue.accepted()}).",
    )
    return chosen


def pick_modes(key: str) -> list[str]:
    """Draw a menu of the modes that run here, with what they quantize and why the others do not run.

    Returns the chosen modes, spelled with their settings.
    """
    with st.spinner("Asking which modes run here …"):
        availabilities = availability()
    all_modes, labels = modes.modes(), modes.menu()
    usable = [text for text in labels if availabilities[_mode(text)].state != "unavailable"]
    st.session_state.setdefault(key, [name for name in modes.first() if name in usable])
    selected = st.multiselect(
        "Quantization modes",
        usable,
        format_func=lambda text: labels.get(text, text),
        key=key,
        placeholder="Choose at least one mode",
        accept_new_options=True,
        help="Several variants of one mode: type MODE:setting=value, such as torch-int8-qat:steps=50.",
    )
    # In the menu's order, so that the original is the baseline.
    chosen = [text for text in labels if text in selected] + [text for text in selected if text not in labels]
    lines = [
        f"- **{labels.get(text, text)}**: {mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}."
        for text in chosen
        if (mode := all_modes.get(_mode(text)))
    ]
    lines += [
        f"- {labels.get(text, text)}: {availabilities[_mode(text)].remark}"
        for text in chosen
        if _mode(text) in all_modes and availabilities[_mode(text)].state != "available"
    ]
    if len(chosen) > 1:
        lines.append(f"- All are compared with **{labels.get(chosen[0], chosen[0])}**.")
    with st.expander("What they quantize", expanded=True) if len(chosen) > MANY else st.container():
        st.caption("\n".join(lines))
    if missing := [name for name in all_modes if availabilities[name].state == "unavailable"]:
        st.caption(
            "Not available here:\n"
            + "\n".join(f"- {all_modes[n].SPEC.label}: {availabilities[n].remark}" for n in missing)
        )
    return settings.adjusted(chosen, key)


def _mode(text: str) -> str:
    """Return the name of a spelled variant's mode."""
    return text.partition(":")[0]


def _show_estimate(e: Estimate) -> None:
    parts = [
        f"about **{duration(e.duration_s)}**",
        f"up to {size(e.memory_bytes)} of memory ({size(e.memory_available_bytes)} free)",
        f"{size(e.disk_bytes)} on disk ({size(e.disk_free_bytes)} free)",
    ]
    if e.download_bytes:
        parts.append(f"{size(e.download_bytes)} to download once")
    st.markdown("This will take " + ", ".join(parts) + ".")
    if e.refusal:
        st.error(e.refusal)


def _start(jobs: Jobs, spec: RunSpec) -> None:
    try:
        run_id = jobs.start(spec)
    except EarbenchError as e:
        live.refused(jobs, e)
        return
    live.started(jobs.live)
    st.session_state["run"] = run_id
    st.rerun()
