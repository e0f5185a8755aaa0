"""Presses of a button: told once, soon, to whom they were meant, and never of a button that is disabled."""

from __future__ import annotations

import time

import pytest
from streamlit.testing.v1 import AppTest

from bench.ui import button


def script() -> None:
    import streamlit as st

    from bench.ui.button import pressed

    if st.session_state.get("drawn", True) and pressed(
        "Go", key="go", about=st.session_state.get("about"), disabled=st.session_state.get("disabled", False)
    ):
        st.session_state["times"] = st.session_state.get("times", 0) + 1
    st.write(str(st.session_state.get("times", 0)))


def app() -> AppTest:
    return AppTest.from_function(script).run()


def press_where_it_is_not_drawn_at_once(at: AppTest) -> None:
    """The pass that begins with the press ends before the button."""
    at.session_state["drawn"] = False
    at.button(key="go").click().run()
    assert at.markdown[0].value == "0"
    at.session_state["drawn"] = True


def test_it_is_told_once() -> None:
    at = app()
    assert at.button(key="go").click().run().markdown[0].value == "1"
    assert at.run().markdown[0].value == "1"


def test_it_is_told_to_a_later_pass() -> None:
    at = app()
    press_where_it_is_not_drawn_at_once(at)
    assert at.run().markdown[0].value == "1"


@pytest.mark.parametrize(
    ("name", "value", "before"),
    [("about", "another run", None), ("disabled", True, False)],
    ids=["another", "disabled"],
)
def test_it_is_void_from_then_on(name: str, value: object, before: object) -> None:
    """For something else than it was meant for, and of a button that is disabled."""
    at = app()
    press_where_it_is_not_drawn_at_once(at)
    at.session_state[name] = value
    assert at.run().markdown[0].value == "0"
    at.session_state[name] = before
    assert at.run().markdown[0].value == "0"


def test_it_is_void_after_a_while() -> None:
    at = app()
    press_where_it_is_not_drawn_at_once(at)
    at.session_state["go pressed"] = (None, time.monotonic() - button.LASTS_S - 1)
    assert at.run().markdown[0].value == "0"
