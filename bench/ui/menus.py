"""The menus of models and modes, for every page that chooses variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from bench import modes
from bench.families import catalogue
from bench.jobs import manager
from bench.modes import probe
from bench.modes.probe import Availability
from bench.ui import settings

MANY = 4  # with more modes than this, their descriptions can be folded away
ASK_EVERY_S = 0.5

Availabilities = Mapping[str, Availability]


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


def pick_modes(key: str, default: Callable[[Sequence[str]], Sequence[str]] | None = None) -> list[str]:
    """Draw a menu of the modes that run here, with what they quantize and why the others do not run.

    Until it is known which modes run here, the menu has all of them, and a note that they are being checked. `default`
    takes the modes that can be built and returns those to select at first; None: the lab's.

    Returns the chosen modes, spelled with their settings.
    """
    availabilities = at_hand()
    if availabilities is None:
        checking()
    labels = modes.menu()
    usable = [text for text in labels if _state(availabilities, text) != "unavailable"]
    _preselect(key, availabilities, default or (lambda buildable: [n for n in modes.first() if n in buildable]))
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
    _describe(chosen, labels, availabilities or {})
    return settings.adjusted(chosen, key)


def at_hand() -> Availabilities | None:
    """Return every mode's availability, or None while that is being checked. Engines are not imported beside a job."""
    return probe.at_hand(may_start=not manager.jobs().busy())


@st.fragment(run_every=ASK_EVERY_S)
def checking() -> None:
    """Draw a note that the modes are being checked, and rerun the page as soon as the answer is there."""
    if at_hand() is not None:
        st.rerun()
    busy = manager.jobs().busy("checking which modes run here")
    st.caption(f":material/hourglass_top: {busy or 'Checking which modes run here …'}")


def buildable(availabilities: Availabilities | None) -> list[str]:
    """Return the modes that run fast here and can be built; all of them while that is not known."""
    if availabilities is None:
        return list(modes.modes())
    return [name for name, a in availabilities.items() if a.state == "available" and a.builds]


def _preselect(
    key: str, availabilities: Availabilities | None, default: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    """Select the default modes at first, and again once it is known which modes run if nobody has changed them."""
    state, provisional = st.session_state, f"{key} before the check"
    unchanged = key not in state or (provisional in state and state[key] == state[provisional])
    if availabilities is None:
        if key not in state:
            state[key] = state[provisional] = list(default(buildable(None)))
        return
    if unchanged:
        state[key] = list(default(buildable(availabilities)))
    elif provisional in state:  # they were changed during the check: those that turned out not to run are left out
        state[key] = [text for text in state[key] if _state(availabilities, text) != "unavailable"]
    state.pop(provisional, None)


def _describe(chosen: Sequence[str], labels: Mapping[str, str], availabilities: Availabilities) -> None:
    """Say what the chosen modes quantize, how they run here, and why others do not."""
    all_modes = modes.modes()
    lines = [
        f"- **{labels.get(text, text)}**: {mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}."
        for text in chosen
        if (mode := all_modes.get(_mode(text)))
    ]
    lines += [
        f"- {labels.get(text, text)}: {a.remark}"
        for text in chosen
        if (a := availabilities.get(_mode(text))) and a.state != "available"
    ]
    if len(chosen) > 1:
        lines.append(f"- All are compared with **{labels.get(chosen[0], chosen[0])}**.")
    with st.expander("What they quantize", expanded=True) if len(chosen) > MANY else st.container():
        st.caption("\n".join(lines))
    if missing := [name for name, a in availabilities.items() if a.state == "unavailable" and name in all_modes]:
        st.caption(
            "Not available here:\n"
            + "\n".join(f"- {all_modes[n].SPEC.label}: {availabilities[n].remark}" for n in missing)
        )


def _state(availabilities: Availabilities | None, text: str) -> str:
    """Return the state of a spelled variant's mode; "" if it is not known."""
    availability = (availabilities or {}).get(_mode(text))
    return availability.state if availability else ""


def _mode(text: str) -> str:
    """Return the name of a spelled variant's mode."""
    return text.partition(":")[0]
