"""The device's own microphone on a page: choosing one, and recording with a level meter."""

from __future__ import annotations

import time

import numpy as np
import streamlit as st

from bench.core.specs import SAMPLE_RATE_HZ
from bench.sound import audio
from bench.sound.audio import MAX_DURATION_S, Sound
from bench.sound.microphone import Input, Level, MicrophoneError, Recorder, devices
from bench.ui.button import pressed

POLL_S = 0.25
UNWATCHED_S = 20.0  # a recording ends this long after its browser was closed or fell asleep
FLOOR_DBFS = -60.0  # the left end of the meter


def pick(key: str) -> int | None:
    """Draw a menu of the microphones. Return the chosen index, or None, with the reason drawn, if there is none."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        listing = inputs(key)
        if isinstance(listing, str):
            st.warning(listing, icon=":material/mic_off:")
            return None
        by_index = {i.index: i for i in listing}
        default = next((n for n, i in enumerate(listing) if i.is_default), 0)
        chosen: int = st.selectbox(
            "Microphone", list(by_index), index=default, format_func=lambda i: _label(by_index[i]), key=f"{key}_input"
        )
    return chosen


def inputs(key: str) -> list[Input] | str:
    """Return the device's microphones, or why none can be listed. Draws a button to look again.

    `key` begins the button's key.
    """
    if st.button("Look again", icon=":material/refresh:", key=f"{key}_refresh") or "inputs" not in st.session_state:
        with st.spinner("Looking for microphones …"):
            st.session_state["inputs"] = _list_devices()
    listing: list[Input] | str = st.session_state["inputs"]
    return listing


def record() -> tuple[str, Sound] | None:
    """Draw the recording controls. Return (key, sound) of the last recording that ended, or None."""
    recorder: Recorder | None = st.session_state.get("t_recorder")
    if recorder:
        _recording(recorder)
        return None
    device = pick("t_device")
    if device is not None:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            seconds = st.number_input(
                "Seconds at most", 1, int(MAX_DURATION_S), 10, key="t_seconds", width=160, help="Or until you stop it."
            )
            if pressed("Record", icon=":material/fiber_manual_record:", key="t_record"):
                st.session_state.pop("t_recorded", None)
                try:
                    st.session_state["t_recorder"] = Recorder(device, float(seconds), UNWATCHED_S)
                except MicrophoneError as e:
                    st.session_state["t_recorded"] = str(e)
                st.rerun()
    recorded = st.session_state.get("t_recorded")
    if isinstance(recorded, str):
        st.error(recorded, icon=":material/mic_off:")
        return None
    return recorded


@st.fragment(run_every=POLL_S)
def _recording(recorder: Recorder) -> None:
    if st.session_state.get("t_recorder") is not recorder:
        return
    recorder.watched()
    rates = recorder.rates
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f":red[:material/fiber_manual_record:] **Recording** · {recorder.elapsed_s:.1f} s")
            stop = pressed("Stop", icon=":material/stop:", key="t_stop", about=id(recorder))
        meter(recorder.level, recorder.overflows)
        if rates:
            st.caption(rates_text(rates))
    if stop:
        recorder.stop()
    if stop or not recorder.running:
        st.session_state["t_recorded"] = _finished(recorder)
        st.session_state["t_recorder"] = None
        st.rerun()


def meter(level: Level | None, overflows: int) -> None:
    """Draw the level, as a bar and in words, and how often sound was lost."""
    if level is None:
        st.progress(0.0, text="Opening the microphone …")
    else:
        st.progress(min(1.0, max(0.0, 1 - level.peak_dbfs / FLOOR_DBFS)), text=_level_text(level))
    if overflows:
        st.caption(
            f":material/warning: Sound was lost {overflows} time{'s' if overflows > 1 else ''}: the device was busy."
        )


def rates_text(rates: tuple[int, int]) -> str:
    """Return a sentence with the device's sample rate and the models'."""
    device_rate, model_rate = (f"{hz / 1000:g} kHz" for hz in rates)
    return f"The microphone runs at {device_rate}, " + (
        "as models expect it." if device_rate == model_rate else f"models expect {model_rate}."
    )


def _level_text(level: Level) -> str:
    if level.peak_dbfs <= FLOOR_DBFS:
        return "Silence: is the microphone muted?"
    word = "too loud" if level.peak_dbfs >= -1 else "good" if level.peak_dbfs >= audio.QUIET_DBFS else "very quiet"
    return f"Level: {word}, peak {level.peak_dbfs:.0f} dBFS (dB below the loudest possible)"


def _finished(recorder: Recorder) -> tuple[str, Sound] | str:
    """Return (key, sound) of the recording, or a sentence if nothing was recorded."""
    parts, problem = [], ""
    try:
        while len(block := recorder.read()):
            parts.append(block)
    except MicrophoneError as e:
        problem = str(e)
    if not parts:
        return problem or "Nothing was recorded: the recording was stopped before any sound came. Try again."
    samples = np.concatenate(parts)
    remarks = [*([problem] if problem else []), *audio.remarks(samples)]
    if recorder.overflows:
        remarks.append(f"Sound was lost {recorder.overflows} times, because this device was too busy.")
    rate_hz = recorder.rates[0] if recorder.rates else SAMPLE_RATE_HZ
    return str(time.time_ns()), Sound(samples, rate_hz, 1, tuple(remarks))


def _list_devices() -> list[Input] | str:
    try:
        return devices()
    except MicrophoneError as e:
        return str(e)


def _label(device: Input) -> str:
    return f"{device.name} ({device.host_api}{', default' if device.is_default else ''})"
