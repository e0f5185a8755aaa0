"""Widgets for the settings of the chosen modes. They return the modes as they are spelled."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from bench import modes
from bench.core.errors import EarbenchError
from bench.core.specs import Placement, Setting, Variant, spelled
from bench.modes.mode import Mode, Option


def adjusted(chosen: Sequence[str], key: str) -> list[str]:
    """Return the chosen modes, spelled with their settings. One that can't be parsed is returned unchanged."""
    all_modes, labels = modes.modes(), modes.menu()
    mode_of = {text: all_modes.get(text.partition(":")[0]) for text in chosen}
    if not any(mode and mode.SPEC.settings for mode in mode_of.values()):
        return list(chosen)
    spellings = []
    with st.expander("Settings of the chosen modes", icon=":material/tune:"):
        for text, mode in mode_of.items():
            if mode and mode.SPEC.settings:
                st.markdown(f"**{labels.get(text, text)}**")
                spellings.append(_set(text, mode, f"{key}-{text}"))
            else:
                spellings.append(text)
    return list(dict.fromkeys(spellings))


def _set(text: str, mode: Mode, key: str) -> str:
    try:
        current = modes.complete(mode, dict(Variant.parse("", text, Placement()).settings))
    except EarbenchError:
        return text  # the form reports the error
    columns = st.columns(3)
    values = {
        name: _widget(columns[i % 3], name, option, current[name], f"{key}-{name}")
        for i, (name, option) in enumerate(mode.SPEC.settings.items())
    }
    return spelled(mode.name, {name: v for name, v in values.items() if v != mode.SPEC.settings[name].default})


def _widget(column: st.delta_generator.DeltaGenerator, name: str, o: Option, value: Setting, key: str) -> Setting:
    label, help_text = name.replace("_", " ").capitalize(), f"{o.help[:1].upper()}{o.help[1:]}. Allowed: {o.range}."
    if o.allowed:
        allowed = list(o.allowed)
        chosen: Setting = column.selectbox(label, allowed, index=allowed.index(value), help=help_text, key=key)
        return chosen
    if isinstance(value, bool):
        return column.toggle(label, value, help=help_text, key=key)
    if isinstance(value, int):
        low, high = (None if x is None else int(x) for x in (o.low, o.high))
        return int(column.number_input(label, low, high, value, help=help_text, key=key))
    if isinstance(value, float):
        return float(column.number_input(label, o.low, o.high, value, format="%g", help=help_text, key=key))
    return column.text_input(label, value, help=help_text, key=key)
