"""What the chosen modes let a person set, as widgets; what comes back are the modes as they are spelled."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from bench import modes
from bench.core.errors import EarbenchError
from bench.core.specs import Placement, Setting, Variant, spelled
from bench.modes.mode import Mode, Option


def adjusted(chosen: Sequence[str], key: str) -> list[str]:
    """The chosen modes, spelled with what was set for each; one that can't be read comes back as it is."""
    known, labels = modes.modes(), modes.menu()
    found = {text: known.get(text.partition(":")[0]) for text in chosen}
    if not any(mode and mode.SPEC.settings for mode in found.values()):
        return list(chosen)
    out = []
    with st.expander("Settings of the chosen modes", icon=":material/tune:"):
        for text, mode in found.items():
            if mode and mode.SPEC.settings:
                st.markdown(f"**{labels.get(text, text)}**")
                out.append(_set(text, mode, f"{key}-{text}"))
            else:
                out.append(text)
    return list(dict.fromkeys(out))


def _set(text: str, mode: Mode, key: str) -> str:
    try:
        given = modes.complete(mode, dict(Variant.parse("", text, Placement()).settings))
    except EarbenchError:
        return text  # the form says what is wrong with it
    columns = st.columns(3)
    values = {
        name: _widget(columns[i % 3], name, option, given[name], f"{key}-{name}")
        for i, (name, option) in enumerate(mode.SPEC.settings.items())
    }
    return spelled(mode.name, {name: v for name, v in values.items() if v != mode.SPEC.settings[name].default})


def _widget(column: st.delta_generator.DeltaGenerator, name: str, o: Option, value: Setting, key: str) -> Setting:
    label, told = name.replace("_", " ").capitalize(), f"{o.help[:1].upper()}{o.help[1:]}. Allowed: {o.range}."
    if o.allowed:
        allowed = list(o.allowed)
        chosen: Setting = column.selectbox(label, allowed, index=allowed.index(value), help=told, key=key)
        return chosen
    if isinstance(value, bool):
        return column.toggle(label, value, help=told, key=key)
    if isinstance(value, int):
        low, high = (None if x is None else int(x) for x in (o.low, o.high))
        return int(column.number_input(label, low, high, value, help=told, key=key))
    if isinstance(value, float):
        return float(column.number_input(label, o.low, o.high, value, format="%g", help=told, key=key))
    return column.text_input(label, value, help=told, key=key)
