"""The Transcribe page by AppTest: sources, texts side by side, refusals, history; the models are a stand-in."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from bench import modes
from bench.core import paths
from bench.core.lease import Refused
from bench.core.markdown import plain
from bench.core.records import Transcript, Transcription, VariantText, Word
from bench.core.specs import SAMPLE_RATE_HZ, Placement, RunSpec, Variant
from bench.core.store import StoreError
from bench.device.host import device
from bench.jobs import manager, recordings
from bench.jobs.benchmark import Progress
from bench.jobs.job import Measurement
from bench.jobs.manager import Jobs
from bench.jobs.transcribing import Recording
from bench.jobs.transcription import Busy
from bench.modes import probe
from bench.modes.probe import Availability
from bench.results import tables, transcripts
from bench.sound import audio
from bench.sound.audio import Array
from bench.sound.microphone import Input, Level, MicrophoneError
from bench.ui import microphone, source
from bench.workers.client import Cancelled

FOUND = dict.fromkeys(modes.modes(), Availability("available"))
HEARD = {"torch-fp32": ("THE CAT SAT", 0.2), "torch-int8-dynamic": ("THE HAT SAT", 0.1), "torch-bf16": ("", 0.3)}
TONE = 0.3 * np.sin(np.arange(32_000) / 20).astype(np.float32)


def text_of(v: Variant) -> VariantText:
    text, seconds = HEARD[v.mode]
    words = tuple(Word(w, i, i + 0.5, 0.8) for i, w in enumerate(text.split()))
    return VariantText(v, seconds, Transcription(text, words))


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    manager._jobs.cache_clear()
    monkeypatch.setattr(probe, "at_hand", lambda **_: FOUND)
    found = manager.jobs()
    answers(found, monkeypatch, lambda v: text_of(v))
    yield found
    manager._jobs.cache_clear()


def answers(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Variant], VariantText]) -> list[Array]:
    """Let the transcriber answer so; returns what it is asked."""
    asked: list[Array] = []

    def transcribe(samples: Array, variants: list[Variant], observe: Callable[[Progress], None]) -> list[VariantText]:
        asked.append(samples)
        observe(Progress("transcribing with torch-fp32: chunk 1/3", done_ratio=1 / 6))
        return [answer(v) for v in variants]

    monkeypatch.setattr(jobs.transcriber, "transcribe", transcribe)
    return asked


def opened() -> AppTest:
    at = AppTest.from_file(str(paths.ROOT / "app.py"), default_timeout=60).switch_page("pages/3_Transcribe.py").run()
    assert not at.exception, at.exception
    return at


def press(at: AppTest, key: str = "t_start") -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception, at.exception
    return at


def texts(at: AppTest) -> str:
    drawn = [*at.markdown, *at.caption, *at.info, *at.error, *at.warning, *at.subheader]
    return "\n".join([*(str(x.value) for x in drawn), *(x.proto.body for x in at.get("html"))])


def reference(at: AppTest) -> AppTest:
    return next(x for x in at.text_input if x.key.startswith("t_reference"))


def test_a_stranger_sees_a_clip_and_presses_one_button(jobs: Jobs) -> None:
    at = opened()
    assert at.get("vega_lite_chart") and at.get("audio")
    assert "kHz, mono" in texts(at) and "Nothing has been transcribed yet" in texts(at)
    reference(at).set_value("the cat sat").run()
    said = texts(press(at))
    assert "differ from the reference" in said and "100 ms" in said and "2.00 times as fast as the first" in said
    assert '<span class="sub" title="instead of: cat">hat</span>' in said
    assert "WER **33.3%**: 1 substituted, 0 missing, 0 too many, of 3 words" in said and "Mean confidence 80%" in said
    (kept,) = jobs.store.transcripts()
    assert kept.reference == "the cat sat" and kept.audio is None and len(kept.texts) == 2


def test_a_reference_typed_afterwards_scores_without_another_pass(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(jobs, monkeypatch, text_of)
    at = opened()
    reference(at).set_value("").run()
    said = texts(press(at))
    assert "Differs in 1 of 3 words from the first" in said and "differ from **fp32" in said and "WER" not in said
    reference(at).set_value("the hat sat").run()
    assert "WER **0.0%**" in texts(at) and len(asked) == 1
    assert jobs.store.transcripts()[0].reference == "the hat sat"


def test_no_words_and_an_error_stand_in_their_columns(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "torch-int8-dynamic was killed (SIGKILL): often because memory ran out."
    answers(jobs, monkeypatch, lambda v: VariantText(v, error=broken) if "int8" in v.mode else text_of(v))
    at = opened()
    reference(at).set_value("").run()
    at.multiselect(key="t_modes").set_value(list(HEARD)).run()
    said = texts(press(at))
    assert plain(broken) in said and "the cat sat" in said
    at.multiselect(key="t_modes").set_value(["torch-bf16"]).run()
    assert "no words" in texts(press(at))


def test_shading_by_confidence(jobs: Jobs) -> None:
    at = press(opened())
    at.toggle(key="t_shade").set_value(True).run()
    assert "confidence 80%" in texts(at)


@pytest.mark.parametrize("trouble", [Refused("A run of another process holds this device."), Busy("Somebody else.")])
def test_refusals_are_sentences(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    def refuse(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(jobs.transcriber, "transcribe", refuse)
    at = press(opened())
    assert str(trouble) in [e.value for e in at.error] and not jobs.store.transcripts()


@pytest.fixture
def slow(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The transcriber takes until the event is set, or until it is cancelled."""
    finish, cancelled = threading.Event(), threading.Event()

    def transcribe(samples: Array, variants: tuple[Variant], observe: Callable[[Progress], None]) -> list[VariantText]:
        observe(Progress("transcribing with torch-fp32: chunk 1/3", eta_s=75, done_ratio=1 / 6))
        while not finish.wait(0.01):
            if cancelled.is_set():
                raise Cancelled
        return [text_of(v) for v in variants]

    monkeypatch.setattr(jobs.transcriber, "transcribe", transcribe)
    monkeypatch.setattr(jobs.transcriber, "cancel", cancelled.set)
    yield finish
    finish.set()


def test_a_transcription_goes_on_when_the_page_is_left(jobs: Jobs, slow: threading.Event) -> None:
    at = press(opened())
    assert at.button(key="t_start").disabled and "chunk 1/3 … · about 75 s left" in progress(at)
    elsewhere = AppTest.from_file(str(paths.ROOT / "app.py"), default_timeout=60).run()
    assert "chunk 1/3" in texts(elsewhere)  # every page says what runs
    second_tab = opened()
    assert "chunk 1/3" in progress(second_tab) and second_tab.button(key="t_start").disabled
    slow.set()
    assert jobs.wait(10)
    for session in (at, second_tab, opened()):  # who started it, who watched it, and who comes later
        session.run()
        said = texts(session)
        assert "Transcriptions" in said and "the hat sat" not in said and "chunk" not in progress(session)
    (kept,) = jobs.store.transcripts()
    assert [t.variant.mode for t in kept.texts] == ["torch-fp32", "torch-int8-dynamic"]


def test_a_transcription_can_be_cancelled_from_another_tab(jobs: Jobs, slow: threading.Event) -> None:
    at = press(opened())
    press(opened(), "t_cancel")
    assert jobs.wait(10) and not jobs.store.transcripts()
    at.run()
    assert "The transcription was cancelled." in texts(at) and not at.button(key="t_start").disabled


def test_the_same_recording_twice_is_one_job_and_another_is_refused(jobs: Jobs, slow: threading.Event) -> None:
    recording = Recording("clip a", "a.wav", TONE)
    variants = [Variant("m", "torch-fp32", Placement("cpu", 1))]
    first = jobs.transcribe(recording, variants)
    assert jobs.transcribe(replace(recording, samples=TONE.copy()), variants) is first
    with pytest.raises(Refused, match=r"A transcription is under way.*nothing else was started"):
        jobs.transcribe(replace(recording, key="clip b"), variants)
    with pytest.raises(Refused, match="A transcription is under way"):
        jobs.start(RunSpec.grid(["demo"], ["torch-fp32"], [1.0], placements=[Placement("cpu", 1)]))
    assert recording.length_s == len(TONE) / SAMPLE_RATE_HZ == 2.0
    slow.set()
    assert first.wait(10) and first.transcript and not first.problem


def test_a_start_that_came_second_shows_the_job_and_says_so(jobs: Jobs, slow: threading.Event) -> None:
    at = opened()
    jobs.transcribe(Recording("clip a", "a.wav", TONE), [Variant("m", "torch-fp32", Placement("cpu", 1))])
    said = texts(press(at))  # the page was drawn before, with its button free
    assert "nothing else was started" in said and "chunk 1/3" in progress(at)
    slow.set()


def progress(at: AppTest) -> str:
    return "\n".join(x.proto.text for x in at.get("progress"))


def test_the_button_says_why_it_is_off_while_a_job_runs(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Measurement("x", "benchmark", RunSpec((Variant("m", "torch-fp32", Placement()),), (1.0,)))
    monkeypatch.setattr(Jobs, "live", property(lambda self: live))
    at = opened()
    assert at.button(key="t_start").disabled and "A benchmark is under way" in texts(at)


def test_bad_choices_get_a_sentence(jobs: Jobs) -> None:
    at = opened()
    at.multiselect(key="t_modes").set_value([]).run()
    assert at.button(key="t_start").disabled and any("at least one" in e.value for e in at.error)
    at = AppTest.from_file(str(paths.ROOT / "app.py"), default_timeout=60).switch_page("pages/3_Transcribe.py")
    at.session_state["t_model"] = "/no/such/folder"
    at.run()
    assert not at.exception and any("There is no model or folder" in e.value for e in at.error)


def test_random_weights_are_called_meaningless(jobs: Jobs) -> None:
    at = opened()
    at.selectbox(key="t_model").set_value("wav2vec2-base-random").run()
    assert "meaningless" in texts(at)


def test_a_file_and_one_that_is_none(jobs: Jobs) -> None:
    at = opened()
    at.radio(key="t_source").set_value("file").run()
    assert at.button(key="t_start").disabled
    at.get("file_uploader")[0].upload("tone.wav", audio.wav_bytes(TONE), "audio/wav").run()
    assert "tone.wav · 2.0 s" in texts(at) and not at.button(key="t_start").disabled
    at.get("file_uploader")[0].upload("notes.txt", b"no sound", "text/plain").run()
    assert any(e.value.startswith("notes.txt: ") for e in at.error) and at.button(key="t_start").disabled


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://192.168.1.7:8501/Transcribe", True),
        ("http://device.local/Transcribe", True),
        ("http://localhost:8501/", False),
        ("http://127.0.0.1:8501/", False),
        ("https://192.168.1.7:8501/", False),
        (None, False),
    ],
)
def test_plain_http_is_told_before_anyone_records(monkeypatch: pytest.MonkeyPatch, address: str, warned: bool) -> None:
    monkeypatch.setattr(source, "st", SimpleNamespace(context=SimpleNamespace(url=address)))
    told = source.insecure()
    assert bool(told) == warned
    if told:
        assert "ssh -L 8501:localhost:" in told and "--lan --tls CERT KEY" in told and "device's own" in told


class Tone:
    """A recorder that has recorded a tone."""

    def __init__(self, device: int, seconds: float, unwatched_s: float) -> None:
        self.wanted, self.chunks = (device, seconds), [TONE]
        self.running, self.level, self.rates, self.overflows = True, Level(-10.0, -13.0), (48_000, 16_000), 3
        self.elapsed_s, self.looks = 2.0, 0

    def watched(self) -> None:
        self.looks += 1

    def read(self, timeout_s: float = 0.0) -> Array:
        return self.chunks.pop() if self.chunks else np.zeros(0, np.float32)

    def stop(self) -> None:
        self.running = False


def test_the_device_microphone(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "devices", lambda: [Input(7, "USB", "ALSA", 48_000, 1, True)])
    monkeypatch.setattr(microphone, "Recorder", Tone)
    at = opened()
    at.radio(key="t_source").set_value("device").run()
    at.number_input(key="t_seconds").set_value(3).run()
    press(at, "t_record")
    recorder = at.session_state["t_recorder"]
    assert recorder.wanted == (7, 3.0) and recorder.looks, "else it would end by itself"
    said = texts(at)
    assert "48 kHz, models expect 16 kHz" in said and "lost 3 times" in said and at.button(key="t_start").disabled
    press(at, "t_stop")
    said = texts(at)
    assert "device microphone · 2.0 s · came at 48 kHz" in said and "lost 3 times" in said
    assert not at.button(key="t_start").disabled


def test_no_microphone_is_a_sentence_and_the_rest_works(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[Input]:
        raise MicrophoneError("PortAudio is not installed. Debian: sudo apt install libportaudio2.")

    monkeypatch.setattr(microphone, "devices", none)
    at = opened()
    at.radio(key="t_source").set_value("device").run()
    assert any("libportaudio2" in w.value for w in at.warning)
    at.segmented_control(key="t_how").set_value("Live captions").run()
    assert not at.exception and at.button(key="t_go").disabled
    at.segmented_control(key="t_how").set_value("A recording").run()
    at.radio(key="t_source").set_value("clip").run()
    assert not press(at).error


def test_history_keeps_audio_only_when_asked_and_deletes_it(jobs: Jobs, tmp_path: Path) -> None:
    at = opened()
    press(at)
    at.checkbox(key="t_keep").set_value(True).run()
    press(at)
    newest, oldest = jobs.store.transcripts()
    assert oldest.audio is None and newest.audio and not Path(newest.audio).is_absolute()
    (wav,) = (tmp_path / "audio").iterdir()
    assert len(at.get("audio")) == 2  # the chosen sound and the one that was kept
    press(at, f"t_delete {newest.id}")
    assert [t.id for t in jobs.store.transcripts()] == [oldest.id] and not wav.exists()


def test_a_foreign_path_is_never_deleted(jobs: Jobs, tmp_path: Path) -> None:
    other = tmp_path / "earbench.db"
    t = Transcript(0.0, "x", 1.0, "", (), audio="audio/../earbench.db")
    recordings.forget(jobs.store, recordings.keep(jobs.store, t))
    assert other.exists() and not jobs.store.transcripts()


def test_csv_is_inert_and_scored() -> None:
    variants = [Variant("m", mode, Placement("cpu", 1)) for mode in ("torch-fp32", "torch-int8-dynamic")]
    t = Transcript(0.0, "=cmd()", 2.0, "the cat sat", tuple(text_of(v) for v in variants), id=4)
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(transcripts.rows([t])))))
    assert [r["source"] for r in rows] == ["'=cmd()"] * 2
    assert [float(r["wer_ratio"]) for r in rows] == pytest.approx([0, 1 / 3])
    assert [float(r["speedup_ratio"]) for r in rows] == [1, 2] and [r["transcript"] for r in rows] == ["4", "4"]


def test_every_row_of_the_csv_says_where_and_with_what(jobs: Jobs) -> None:
    t = Transcript(0.0, "x", 2.0, "", (text_of(Variant("m", "torch-fp32", Placement("cpu", 1))),))
    here = recordings.keep(jobs.store, t)
    assert here.device == device()
    elsewhere = replace(device(), name="board", versions={"python": "3.13", "openvino": "1"})
    for other in (elsewhere, None):
        jobs.store.add_transcript(replace(t, device=other))
    unknown, there, ours = csv.DictReader(io.StringIO(tables.to_csv(transcripts.rows(jobs.store.transcripts()))))
    assert (ours["device"], ours["device_id"], ours["cpu"]) == (device().name, device().id, device().cpu)
    assert ours["python_version"] == device().versions["python"] and ours["openvino_version"] == ""
    assert (there["device"], there["python_version"], there["openvino_version"]) == ("board", "3.13", "1")
    assert unknown["device"] == unknown["python_version"] == ""


def full(*_: object) -> None:
    raise StoreError("earbench.db can't be written (database or disk is full). Free some space there.")


def test_a_full_disk_shows_the_texts_and_a_sentence_and_leaves_no_audio(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = opened()
    at.checkbox(key="t_keep").check().run()
    monkeypatch.setattr(jobs.store, "add_transcript", full)
    press(at)
    said = texts(at)
    assert "can't be kept in the history" in said and "disk is full" in said and "Transcriptions" in said
    assert not list((tmp_path / "audio").iterdir())


def test_a_full_disk_loses_neither_reference_nor_history_with_a_traceback(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = opened()
    at.checkbox(key="t_keep").check().run()
    press(at)
    (kept,) = jobs.store.transcripts()
    monkeypatch.setattr(jobs.store, "set_reference", full)
    monkeypatch.setattr(jobs.store, "delete_transcript", full)
    reference(at).set_value("other words").run()
    assert not at.exception and "disk is full" in texts(at)
    press(at, f"t_delete {kept.id}")
    assert "disk is full" in texts(at) and recordings.audio_path(kept)
