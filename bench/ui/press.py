"""A button whose press is not lost.

Streamlit tells a press to one pass of the script alone. Another widget that changes meanwhile, or a fragment's clock,
ends that pass and begins another, which knows of no press: what comes before the button takes long enough for that on a
small board. A callback is always called.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

LASTS_S = 10.0  # a press whose page was left must not begin anything when somebody comes back


def pressed(label: str, *, key: str, **options: Any) -> bool:
    """A button as `st.button` draws it; whether it was pressed and nobody was told of it yet."""
    at = f"{key} pressed at"

    def remember() -> None:
        st.session_state[at] = time.monotonic()

    st.button(label, key=key, on_click=remember, **options)
    return time.monotonic() - float(st.session_state.pop(at, "-inf")) < LASTS_S
