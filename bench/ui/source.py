"""Choosing a sound: a bundled clip, a file, the browser's microphone or the device's. Shown with its waveform."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

import streamlit as st

from bench.core import paths
from bench.core.markdown import plain
from bench.core.specs import SAMPLE_RATE_HZ
from bench.datasets import dataset
from bench.datasets.dataset import Clip
from bench.datasets.folder import DatasetError
from bench.results.charts import signals, style
from bench.sound import audio
from bench.sound.audio import AudioError, Sound
from bench.ui import microphone, spectrogram
from bench.ui.guard import is_local_name

SOURCES = {
    "clip": ":material/library_music: A bundled clip",
    "file": ":material/upload_file: A file",
    "browser": ":material/mic: This browser's microphone",
    "device": ":material/settings_voice: The device's microphone",
}
WAVEFORM_POINTS = 400
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A sound to transcribe. `reference` is its text, where that is known."""

    key: str  # identifies the sound
    name: str  # shown to people
    sound: Sound
    reference: str = ""


def choose() -> Chosen | None:
    """Draw the choice of a sound. Return it, or None until there is one."""
    source = st.radio("Sound", list(SOURCES), format_func=lambda s: SOURCES[s], key="t_source", horizontal=True)
    chosen = {"clip": _clip, "file": _file, "browser": _browser, "device": _device}[source]()
    if chosen:
        _show(chosen)
    return chosen


def _clip() -> Chosen | None:
    clips = {c.id: c for c in _clips()}
    if not clips:
        st.info("This copy of Earbench has no clips in data/clips. Choose another source above.")
        return None
    name = st.selectbox(
        "Clip", list(clips), format_func=lambda i: f"“{clips[i].text}” · {i}" if clips[i].text else i, key="t_clip"
    )
    clip = clips[name]
    sound = _decoded(f"clip {clip.path}", lambda: audio.decode(clip.path))
    return Chosen(f"clip {clip.id}", clip.path.name, sound, clip.text) if sound else None


@lru_cache(maxsize=1)
def _clips() -> list[Clip]:
    """Return the clips of the bundled data set, then those that are in no list."""
    folder = dataset.bundled()
    try:
        listed = list(dataset.find(str(folder)).clips)
    except DatasetError:
        listed = []
    paths_listed = {c.path for c in listed}
    unlisted = [Clip(p.stem, p, "") for p in (paths.SPEECH_CLIP, *sorted(folder.glob("*.flac")))]
    return [*listed, *{c.path: c for c in unlisted if c.path not in paths_listed and c.path.is_file()}.values()]


def _file() -> Chosen | None:
    file = st.file_uploader(
        f"A sound file of at most {audio.MAX_DURATION_S / 60:g} minutes: WAV, FLAC, MP3, OGG, M4A, WebM and others",
        key="t_file",
    )
    if file is None:
        return None
    sound = _decoded(f"file {file.file_id}", lambda: audio.decode_bytes(file.getvalue(), file.name))
    return Chosen(f"file {file.file_id}", file.name, sound) if sound else None


def _browser() -> Chosen | None:
    if reason := insecure():
        st.warning(reason, icon=":material/mic_off:")
        return None
    recording = st.audio_input(
        "Press the microphone, speak, press again to stop.", sample_rate=SAMPLE_RATE_HZ, key="t_recording"
    )
    if recording is None:
        return None
    data = recording.getvalue()
    key = f"recording {hashlib.sha256(data).hexdigest()[:16]}"
    sound = _decoded(key, lambda: audio.decode_bytes(data, "The recording"))
    return Chosen(key, "browser microphone", sound) if sound else None


def _device() -> Chosen | None:
    recording = microphone.record()
    return Chosen(f"microphone {recording[0]}", "device microphone", recording[1]) if recording else None


def insecure() -> str | None:
    """Return why this browser gives this address no microphone, and what works instead. None if it may."""
    address: object = st.context.url
    if not isinstance(address, str):
        return None
    parts = urlsplit(address)
    if parts.scheme == "https" or is_local_name(parts.netloc):
        return None
    host, port = parts.hostname or "DEVICE", parts.port or 80
    return (
        "Browsers give a page the microphone only over https or from this very machine, and this page came by plain "
        "http from another one. What works:\n"
        "- the device's own microphone, or a file: choose it above;\n"
        f"- a tunnel: run `ssh -L 8501:localhost:{port} {host}` on your machine, then open "
        "`http://localhost:8501` there;\n"
        "- https: on the device, run `python -m bench serve --lan --tls CERT KEY`."
    )


def _decoded(key: str, decode: Callable[[], Sound]) -> Sound | None:
    """Return the sound, decoded once, or None, with the reason drawn, if it can't be decoded."""
    cached = st.session_state.get("t_sound")
    if cached and cached[0] == key:
        result: Sound | AudioError = cached[1]
    else:
        try:
            with st.spinner("Reading the sound …"):
                result = decode()
        except AudioError as e:
            result = e
        st.session_state["t_sound"] = (key, result)
    if isinstance(result, AudioError):
        st.error(str(result))
        return None
    return result


def _show(chosen: Chosen) -> None:
    sound = chosen.sound
    st.vega_lite_chart(_waveform(chosen.key, sound), width="stretch", key="t_waveform")
    spectrogram.draw(chosen.key, sound)
    st.audio(_wav(chosen.key, sound), format="audio/wav")
    channels = {1: "mono", 2: "stereo"}.get(sound.source_channels, f"{sound.source_channels} channels")
    st.caption(
        f"{plain(chosen.name)} · {sound.duration_s:.1f} s · came at {sound.source_rate_hz / 1000:g} kHz, {channels}"
    )
    for remark in sound.remarks:
        st.warning(remark, icon=":material/graphic_eq:")


def _waveform(key: str, sound: Sound) -> style.Spec:
    return _once(
        "t_drawn", key, lambda: signals.waveform(audio.peaks(sound.samples, WAVEFORM_POINTS), sound.duration_s)
    )


def _wav(key: str, sound: Sound) -> bytes:
    return _once("t_wav", key, lambda: audio.wav_bytes(sound.samples))


def _once(slot: str, key: str, make: Callable[[], T]) -> T:
    """Return `make()`, kept in the session until `key`, which identifies the sound, changes."""
    cached = st.session_state.get(slot)
    if not cached or cached[0] != key:
        cached = st.session_state[slot] = (key, make())
    value: T = cached[1]
    return value
