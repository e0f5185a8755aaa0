"""The Benchmark page before and after it is known which modes run here, and what it selects at first."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from test_pages import FOUND, finished_run, opened, store, texts

from bench import modes
from bench.core.specs import RunSpec
from bench.core.store import Store
from bench.families import catalogue
from bench.jobs import manager
from bench.modes import probe
from bench.modes.probe import Availability

PAGE = "pages/1_Benchmark.py"
BEST = modes.fastest(list(modes.modes()))
__all__ = ["store"]  # the fixture


def selected(at: AppTest) -> list[str]:
    return list(at.multiselect(key="modes").value)


def test_the_form_is_drawn_while_the_modes_are_checked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: list[dict[str, Availability] | None] = [None]
    monkeypatch.setattr(probe, "at_hand", lambda **_: answer[0])
    at = opened(PAGE)
    assert "Checking which modes run here" in texts(at) and "Not available here" not in texts(at)
    assert len(at.multiselect(key="modes").options) >= len(modes.modes())
    assert selected(at) == [*modes.first(), BEST]
    started: list[RunSpec] = []
    monkeypatch.setattr(manager.Jobs, "start", lambda _, spec: started.append(spec) or finished_run(store))
    at.button(key="start").click().run()
    assert not started and any("as soon as it is known" in i.value for i in at.info)
    answer[0] = FOUND | {BEST: Availability("unavailable", "its package can't be imported; fix: install it")}
    at.run()
    second = modes.fastest([name for name in modes.modes() if name != BEST])
    assert [[v.mode for v in spec.variants] for spec in started] == [[*modes.first(), second]]
    assert selected(at) == [*modes.first(), second]
    at.run()
    assert len(started) == 1 and "Checking" not in texts(at) and "fix: install it" in texts(at)


def test_a_choice_made_during_the_check_is_kept_but_for_what_does_not_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: list[dict[str, Availability] | None] = [None]
    monkeypatch.setattr(probe, "at_hand", lambda **_: answer[0])
    at = opened(PAGE)
    at.multiselect(key="modes").set_value(["torch-fp32", "onnx-fp32", "openvino-fp32"]).run()
    answer[0] = FOUND | {"onnx-fp32": Availability("unavailable", "why")}
    at.run()
    assert selected(at) == ["torch-fp32", "openvino-fp32"] and not at.exception


def test_the_default_shows_a_gain_where_memory_suffices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(PAGE)
    assert at.multiselect(key="models").value == [catalogue.showcase()] != [catalogue.default()]
    assert selected(at) == [*modes.first(), BEST]
    said = texts(at)
    assert "This will take **" in said and " when quiet, at most " in said and "The lab: " in said
    monkeypatch.setattr("bench.device.cpu.available_memory_bytes", lambda: 1_200_000_000)
    at = opened(PAGE)
    assert at.multiselect(key="models").value == [catalogue.default()] and selected(at) == list(modes.first())
    assert not at.button(key="start").disabled


@pytest.mark.parametrize(
    ("page", "key"), [("pages/3_Transcribe.py", "t_modes"), ("pages/4_Accuracy.py", "accuracy_modes")]
)
def test_other_pages_do_not_wait_either(store: Store, monkeypatch: pytest.MonkeyPatch, page: str, key: str) -> None:
    monkeypatch.setattr(probe, "at_hand", lambda **_: None)
    at = opened(page)
    assert "Checking which modes run here" in texts(at)
    assert list(at.multiselect(key=key).value) == list(modes.first())
