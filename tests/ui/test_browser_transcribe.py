"""Transcribing in a real browser: Chromium's stand-in for a microphone plays a clip, ALSA plays it to the device's."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browsing import browser_page, dashboard, needs_chromium
from playwright.sync_api import Page
from test_microphone import ASOUNDRC, needs_portaudio

from bench.core import paths, scoring
from bench.core.store import Store
from bench.sound import audio

pytestmark = [needs_chromium, pytest.mark.timeout(300)]


@pytest.fixture
def url(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A dashboard on a port of its own, on a device whose default microphone hears the clip over and over."""
    clip = audio.decode(paths.SPEECH_CLIP).samples
    np.rint(clip * 32767).astype("<i2").tofile(tmp_path / "clip.raw")
    with wave.open(str(tmp_path / "clip48k.wav"), "wb") as f:  # Chromium wants its own rate
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(48_000)
        at = np.arange(3 * len(clip)) / 3
        f.writeframes(np.rint(np.interp(at, np.arange(len(clip)), clip) * 32767).astype("<i2").tobytes())
    (tmp_path / ".asoundrc").write_text(ASOUNDRC % (tmp_path / "clip.raw"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with dashboard() as found:
        yield found


@contextmanager
def transcribe_page(url: str, microphone: Path, model: Path) -> Iterator[Page]:
    """The page with a model chosen, in a browser that hears a WAV file once."""
    fake = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]
    with browser_page(flags=fake, permissions=["microphone"]) as page:
        page.goto(f"{url}/Transcribe")
        page.get_by_role("combobox", name="Model").fill(str(model))
        page.wait_for_timeout(500)
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        yield page


def test_the_browsers_microphone_to_two_texts(url: str, data_folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    with transcribe_page(url, tmp_path / "clip48k.wav", tiny_model) as page:
        page.get_by_text("This browser's microphone").click()
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(3000)
        page.get_by_role("button", name="Stop recording").click()
        page.get_by_text("browser microphone ·").first.wait_for()
        page.get_by_role("button", name="Transcribe", exact=True).click()
        page.get_by_text("Transcriptions", exact=True).wait_for()
        page.get_by_role("button", name="Transcripts CSV").wait_for()
        shown = page.locator(".eb-text").all_inner_texts()
    (kept,) = Store(data_folder / "earbench.db").transcripts()
    assert kept.source == "browser microphone" and 1.5 < kept.length_s < 6 and kept.audio is None
    found = [t.transcription.text for t in kept.texts if t.transcription]
    assert len(found) == 2 and all(found)
    assert scoring.normalise(found[0]) in [" ".join(text.split()) for text in shown]


@needs_portaudio
def test_the_devices_microphone_to_a_waveform(url: str, tmp_path: Path, tiny_model: Path) -> None:
    with transcribe_page(url, tmp_path / "clip48k.wav", tiny_model) as page:
        page.get_by_text("The device's microphone").click()
        seconds = page.get_by_role("spinbutton", name="Seconds at most")
        seconds.fill("2")
        seconds.press("Enter")
        page.wait_for_timeout(1000)
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_text("device microphone · 2.0 s").wait_for()
        page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first.wait_for()
