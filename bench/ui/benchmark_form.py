"""The form of the Benchmark page, as a RunSpec."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from bench import modes
from bench.core.errors import EarbenchError
from bench.core.lists import placements, sizes, whole_numbers
from bench.core.specs import LENGTH, Axis, RunSpec
from bench.core.units import size
from bench.device import cpu, kinds
from bench.families import catalogue
from bench.jobs import history, work
from bench.jobs.forecast import Estimate, estimate
from bench.jobs.history import History
from bench.jobs.manager import Jobs
from bench.ui import live, menus
from bench.ui.button import pressed
from bench.ui.menus import pick_models, pick_modes

DEFAULTS = {"batches": "1", "repeats": 10, "target": 2.0, "kind": "speech", "seed": 0}
_WAITING = "start when checked"  # in the session's state: when Start was pressed while the modes were being checked
WAIT_S = 120.0  # how long that press counts


def form(jobs: Jobs) -> None:
    """Draw the form, the expected cost of the run, and the buttons that start it."""
    for key, value in ({"threads": str(cpu.default_threads())} | DEFAULTS).items():
        st.session_state.setdefault(key, value)
    earlier = history.of(jobs.store)
    if "models" not in st.session_state:
        st.session_state["models"] = [_first_model()]
    chosen_models = pick_models("models", catalogue.default())
    chosen_modes = pick_modes("modes", _first_modes)
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
        expected = estimate(spec, earlier)
    except EarbenchError as e:
        st.error(str(e))
        spec, expected = None, None
    if expected and spec:
        _show_estimate(expected)
        if max(v.placement.threads for v in spec.variants) > cpu.default_threads():
            st.warning(f"More threads than the {cpu.default_threads()} usable cores usually run slower, not faster.")
    if busy := jobs.busy():
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
            disabled=not chosen_models or bool(busy) or menus.at_hand() is None,
            help=f"The chosen models, original and dynamic int8, at {_sweep(axis)}, k = 10: starts at once.",
        )
    if lab_text := _lab_text(chosen_models, axis, earlier):
        st.caption(lab_text)
    _wait_or_start(jobs, spec if ready else None, start)
    if lab:
        try:
            lab_spec = _lab(chosen_models)
        except EarbenchError as e:
            st.error(str(e))
        else:
            _start(jobs, lab_spec)


def _first_model() -> str:
    """Return the model for a first benchmark: one that shows a gain if it fits into this device's memory and disk."""
    name = catalogue.showcase()
    return name if _fits(name, _best_modes(list(modes.modes()))) else catalogue.default()


def _first_modes(buildable: Sequence[str]) -> list[str]:
    """Return the modes for a first benchmark: the lab's, and the one that gains most if the larger model is chosen."""
    if st.session_state.get("models") == [catalogue.default()]:
        return [name for name in modes.first() if name in buildable]
    return _best_modes(buildable)


def _best_modes(buildable: Sequence[str]) -> list[str]:
    return [name for name in (*modes.first(), modes.fastest(buildable)) if name in buildable]


def _fits(model: str, mode_names: Sequence[str]) -> bool:
    """Return whether memory and disk suffice for a run with the default sizes."""
    axis = work.axis([model])
    spec = RunSpec.grid([model], mode_names, axis.defaults, placements=[kinds.default()], axis=axis)
    return estimate(spec).refusal is None


def _wait_or_start(jobs: Jobs, spec: RunSpec | None, start: bool) -> None:
    """Start the run if its button was pressed; while the modes are being checked, remember it and start afterwards.

    For a while: a run must not begin by itself long after the press, when the page is opened again.
    """
    checked = menus.at_hand() is not None
    pressed_s = time.monotonic() if start else st.session_state.pop(_WAITING, float("-inf"))
    if spec is None or time.monotonic() - pressed_s > WAIT_S:
        return
    if checked:
        _start(jobs, spec)
    else:
        st.session_state[_WAITING] = pressed_s
        st.info("It starts as soon as it is known which modes run here.", icon=":material/hourglass_top:")


def _lab(chosen_models: Sequence[str]) -> RunSpec:
    """Return the lab's run of the chosen models. Raises ModelError or SpecError."""
    names = [catalogue.find(name).name for name in chosen_models]
    axis = work.axis(names)
    return RunSpec.grid(names, modes.first(), axis.sweep, placements=[kinds.default()], axis=axis)


def _lab_text(chosen_models: Sequence[str], axis: Axis, earlier: History) -> str:
    """Return what The lab does and how long it takes; "" if these models can't be measured together."""
    try:
        expected = estimate(_lab(chosen_models), earlier)
    except EarbenchError:
        return ""
    labels = " and ".join(modes.find(name).SPEC.label for name in modes.first())
    return f"The lab: {labels} at {_sweep(axis)}: {expected.refusal or expected.time_text}."


def _axis(models: list[str]) -> Axis:
    """Return the axis of the chosen models' inputs. Seconds if none is chosen or they differ, which is refused."""
    try:
        return work.axis(models) if models else LENGTH
    except EarbenchError:
        return LENGTH


def _sweep(axis: Axis) -> str:
    *most, last = (f"{size:g}" for size in axis.sweep)
    return f"{', '.join(most)} and {last} {axis.unit or axis.name}"


def _show_estimate(e: Estimate) -> None:
    parts = [
        f"**{e.time_text}**",
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
