"""A button whose press is not lost when the script reruns.

Streamlit reports a press to one run of the script only. If another widget or a fragment's timer interrupts that run,
the next run does not know of the press; on a small board, the code before the button takes long enough for that. A
callback is always called.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

LASTS_S = 10.0


def pressed(label: str, *, key: str, about: object = None, **options: Any) -> bool:
    """Draw `st.button`; return whether it was pressed within the last LASTS_S seconds. Each press is reported once.

    `about` is what the press is meant for, such as the run to cancel. The press is void if `about` has changed since,
    or if the button is disabled.
    """
    state_key = _state_key(key)

    def remember() -> None:
        st.session_state[state_key] = (about, time.monotonic())

    st.button(label, key=key, on_click=remember, **options)
    pressed_about, pressed_s = st.session_state.pop(state_key, (None, float("-inf")))
    return pressed_about == about and time.monotonic() - pressed_s < LASTS_S and not options.get("disabled", False)


def stray(*keys: str) -> bool:
    """Return whether one of these buttons was pressed in vain: where it stood, the page now draws something else."""
    presses = [st.session_state.pop(_state_key(key), (None, float("-inf"))) for key in keys]
    return any(time.monotonic() - pressed_s < LASTS_S for _, pressed_s in presses)


def is_pressed(key: str) -> bool:
    """Return whether a press of this button has not been reported yet."""
    return _state_key(key) in st.session_state


def _state_key(key: str) -> str:
    return f"{key} pressed"
