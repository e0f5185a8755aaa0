"""A button whose press outlives the pass of the script in which it came.

Streamlit tells a press to one pass alone. Another widget that changes meanwhile, or a fragment's clock, ends that pass
and begins another, which knows of no press: what comes before the button takes long enough for that on a small board. A
callback is always called.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

LASTS_S = 10.0


def pressed(label: str, *, key: str, about: object = None, **options: Any) -> bool:
    """A button as `st.button` draws it; whether it was pressed in the last seconds and nobody was told of it yet.

    `about` is what the press is meant for, such as the run that is to be cancelled: once that is another, or the button
    is disabled, the press is void.
    """
    place = f"{key} pressed"

    def remember() -> None:
        st.session_state[place] = (about, time.monotonic())

    st.button(label, key=key, on_click=remember, **options)
    meant, at_s = st.session_state.pop(place, (None, float("-inf")))
    return meant == about and time.monotonic() - at_s < LASTS_S and not options.get("disabled", False)
