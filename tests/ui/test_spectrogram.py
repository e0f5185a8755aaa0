"""The mel spectrogram on the Transcribe page: off by default, computed once, and not beside a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from bench import modes
from bench.core import paths
from bench.core.lease import NAME, Lease, Refused
from bench.core.specs import Placement, RunSpec, Variant
from bench.jobs import manager
from bench.jobs.job import Measurement
from bench.jobs.manager import Jobs
from bench.modes import probe
from bench.modes.probe import Availability
from bench.sound import mel
from bench.sound.audio import Array, AudioError

AVAILABLE = dict.fromkeys(modes.modes(), Availability("available"))


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    manager._jobs.cache_clear()
    st.cache_data.clear()
    monkeypatch.setattr(probe, "at_hand", lambda **_: AVAILABLE)
    yield manager.jobs()
    manager._jobs.cache_clear()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """The sounds whose spectrograms are computed, really."""
    sounds: list[Array] = []
    compute = mel.spectrogram
    monkeypatch.setattr(mel, "spectrogram", lambda samples: sounds.append(samples) or compute(samples))
    return sounds


def opened() -> AppTest:
    at = AppTest.from_file(str(paths.ROOT / "app.py"), default_timeout=120).switch_page("pages/3_Transcribe.py").run()
    assert not at.exception, at.exception
    return at


def switch(at: AppTest, on: bool) -> AppTest:
    at.toggle(key="t_mel").set_value(on).run()
    assert not at.exception, at.exception
    return at


def test_it_is_off_until_switched_on_and_computed_once_for_all_sessions(jobs: Jobs, computed: list[Array]) -> None:
    at = opened()
    assert at.toggle(key="t_mel").value is False and len(at.get("vega_lite_chart")) == 1 and not computed
    switch(at, True)
    assert len(at.get("vega_lite_chart")) == 2 and len(computed) == 1
    assert any("more than 80 dB below the loudest point" in c.value for c in at.caption)
    switch(switch(at, False), True)
    assert len(at.get("vega_lite_chart")) == 2
    assert len(switch(opened(), True).get("vega_lite_chart")) == 2
    assert len(computed) == 1
    clips = at.selectbox(key="t_clip")
    clips.select_index(1).run()
    assert not at.exception and len(computed) == 2 and len(at.get("vega_lite_chart")) == 2, "another clip"


def test_a_silent_sound_gets_a_sentence(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = mel.spectrogram
    monkeypatch.setattr(mel, "spectrogram", lambda samples: compute(np.zeros_like(samples)))
    at = switch(opened(), True)
    assert len(at.get("vega_lite_chart")) == 1
    assert any(w.value.startswith("There is no spectrogram of this sound: it is silent") for w in at.warning)


def test_a_failure_is_kept_for_the_sound_and_tried_again_by_the_switch(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def fail(samples: Array) -> None:
        nonlocal tries
        tries += 1
        raise AudioError("There is no spectrogram of this sound: for a test.")

    monkeypatch.setattr(mel, "spectrogram", fail)
    at = switch(opened(), True)
    at.run()
    assert [w.value for w in at.warning] == ["There is no spectrogram of this sound: for a test."] and tries == 1
    switch(switch(at, False), True)
    assert tries == 2


def test_none_is_computed_beside_a_measurement(
    jobs: Jobs, computed: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = opened()
    with Lease(paths.data_folder() / NAME).take("a benchmark"):  # of another process
        switch(at, True)
        assert any("for a benchmark. Two at once would disturb each other" in c.value for c in at.caption)
    live = Measurement("x", "benchmark", RunSpec((Variant("m", "torch-fp32", Placement()),), (1.0,)))
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "live", live)
        with pytest.raises(
            Refused, match="A benchmark is under way, and computing a spectrogram beside it would spoil"
        ):
            jobs.hold("computing a spectrogram").__enter__()
    assert not computed
    at.run()
    assert len(computed) == 1 and len(at.get("vega_lite_chart")) == 2
