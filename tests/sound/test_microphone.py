"""Recording without hardware: ALSA plays a clip as the default microphone, and a stand-in for the Python wrapper shows
what drivers do that can't be had here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROMPT_S, alive, wait_for

from bench.core.paths import ROOT
from bench.sound import microphone
from bench.sound.audio import Array
from bench.sound.microphone import Input, MicrophoneError, Recorder, devices

CLIP_S = 1.5
ASOUNDRC = """
pcm.!default { type plug slave { pcm "fakemic" format S16_LE rate 16000 channels 1 } }
pcm.fakemic { type file slave.pcm "null" file "/dev/null" infile "%s" format raw }
"""
NO_LIBRARY = (
    "import ctypes.util as u; find = u.find_library; u.find_library = lambda n: None if 'audio' in n else find(n)"
)
# A microphone that can do 48 kHz stereo alone, and hears 440 Hz in both ears.
ONLY_48_KHZ = """
import threading, time
import numpy as np

class PortAudioError(Exception):
    pass

class Status:
    input_overflow = True

def query_hostapis():
    return [{"name": "None", "default_input_device": -1}, {"name": "USB", "default_input_device": 7}]

def query_devices():
    return [
        {"index": 3, "name": "Speaker", "hostapi": 1, "default_samplerate": 48000.0, "max_input_channels": 0},
        {"index": 7, "name": "Cheap", "hostapi": 1, "default_samplerate": 48000.0, "max_input_channels": 2},
    ]

class InputStream:
    def __init__(self, samplerate, blocksize, device, channels, dtype, latency, callback):
        if samplerate != 48000:
            raise PortAudioError("Error opening InputStream: Invalid sample rate", -9997)
        if channels != 2:
            raise PortAudioError("Error opening InputStream: Invalid number of channels", -9998)
        assert (device, dtype) == (7, "int16")
        self.samplerate, self.blocksize, self.callback = 47999.6, blocksize, callback

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        for n in range(COUNT):
            t = (np.arange(self.blocksize) + n * self.blocksize) / 48000
            block = np.repeat(16384 * np.sin(2 * np.pi * 440 * t)[:, None], 2, axis=1).astype(np.int16)
            self.callback(block, len(block), None, Status())
            block[:] = 0  # PortAudio uses its buffer again
            time.sleep(0.01)
"""


def library_is_there() -> bool:
    return not subprocess.run([sys.executable, "-c", "import sounddevice"], capture_output=True, check=False).returncode


needs_portaudio = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not library_is_there(),
    reason="needs Linux with PortAudio (sudo apt install libportaudio2)",
)


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """What the default microphone hears first: (n,) float32. Then it repeats the end."""
    samples = np.random.default_rng(0).normal(0, 3000, round(CLIP_S * 16_000)).clip(-32768, 32767).astype("<i2")
    samples.tofile(tmp_path / "clip.raw")
    (tmp_path / ".asoundrc").write_text(ASOUNDRC % (tmp_path / "clip.raw"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return (samples / 32768).astype(np.float32)


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that children import as `sounddevice`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "sounddevice.py"


def everything(recorder: Recorder, timeout_s: float = 30.0) -> Array:
    """All that comes until the end."""
    deadline, parts = time.monotonic() + timeout_s, []
    while recorder.running:
        parts.append(recorder.read(0.5))
        assert time.monotonic() < deadline
    return np.concatenate([*parts, recorder.read()])


def alike(recording: Array, clip: Array) -> float:
    """The highest normalised correlation of the clip with any stretch of what was found."""
    size = len(recording) + len(clip)
    products = np.fft.irfft(np.fft.rfft(recording, size) * np.conj(np.fft.rfft(clip, size)), size)[: len(recording)]
    at = int(np.argmax(products))
    stretch = recording[at : at + len(clip)]
    return float(stretch @ clip[: len(stretch)] / (np.linalg.norm(stretch) * np.linalg.norm(clip)))


# --- a microphone that plays a clip


@needs_portaudio
def test_the_clip_is_in_what_was_recorded(clip: Array) -> None:
    with Recorder(seconds=2.5) as recorder:
        recording = everything(recorder)
        assert recording.dtype == np.float32 and len(recording) == 40_000 and recorder.elapsed_s == 2.5
        assert alike(recording, clip) > 0.999
        assert recorder.rates == (16_000, 16_000)  # overflows are no surprise here: it plays a thousand times too fast
        assert recorder.level and abs(recorder.level.rms_dbfs - 20 * np.log10(3000 / 32768)) < 1
        assert -20 < recorder.level.peak_dbfs <= 0
        assert not len(recorder.read(0.1)), "the end is not an error"


@needs_portaudio
def test_listing_and_choosing(clip: Array) -> None:
    inputs = devices()
    chosen = next(i for i in inputs if i.is_default)
    assert (chosen.name, chosen.host_api) == ("default", "ALSA") and chosen.channels > 0
    with Recorder(chosen.index, 0.5) as recorder:
        assert len(everything(recorder)) == 8_000
    with Recorder(99) as recorder, pytest.raises(MicrophoneError, match=r"no microphone 99; there are: .*\(default\)"):
        everything(recorder)


@needs_portaudio
def test_stopping(clip: Array) -> None:
    recorder = Recorder()
    first = recorder.read(10)
    begun = time.monotonic()
    recorder.stop()
    assert time.monotonic() - begun < PROMPT_S and not recorder.running
    assert len(first) + len(recorder.read()) == round(recorder.elapsed_s * 16_000) > 0
    assert not len(recorder.read(0.1)) and recorder.read().dtype == np.float32
    recorder.stop()
    assert not alive(recorder._child.pid)


@needs_portaudio
def test_a_recording_ends_with_the_dashboard(clip: Array) -> None:
    code = (
        "import time; from bench.sound.microphone import Recorder; r = Recorder(); r.read(10); "
        "print(r._child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child), "the end of the child", 10)
    parent.stdout.close()


# --- no microphone


@needs_portaudio
def test_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if any(Path("/dev/snd").glob("pcmC*c")):
        pytest.skip("there are microphones here")
    with pytest.raises(MicrophoneError, match=r"^No microphone was found. Plug one in and try again; .* work too.$"):
        devices()
    with Recorder() as recorder, pytest.raises(MicrophoneError, match=r"^No microphone was found"):
        everything(recorder)


@pytest.mark.parametrize("do", ["list", "record"])
def test_no_portaudio(do: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_LIBRARY)  # the wrapper is there and looks for the library in vain
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MicrophoneError, match=r"^PortAudio is not installed. Debian.*: sudo apt install libportaudio2"):
        devices() if do == "list" else everything(Recorder())


def test_no_wrapper(wrapper: Path) -> None:
    wrapper.write_text("raise ModuleNotFoundError('gone', name='sounddevice')")
    with pytest.raises(MicrophoneError, match=r"^sounddevice can't be imported; fix: .* -r requirements.txt$"):
        devices()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 601])
def test_lengths_that_are_refused(seconds: float) -> None:
    with pytest.raises(MicrophoneError, match=f"Asked to record {seconds:g} s; allowed: up to 600 s"):
        Recorder(seconds=seconds)


# --- drivers of all kinds


def test_a_device_that_knows_48_khz_stereo_alone(wrapper: Path) -> None:
    wrapper.write_text(ONLY_48_KHZ.replace("COUNT", "1000"))
    assert devices() == [Input(7, "Cheap", "USB", 48_000, 2, is_default=True)]
    with Recorder(seconds=2) as recorder:
        recording = everything(recorder)
    assert recorder.rates == (48_000, 16_000) and recorder.overflows > 10
    assert len(recording) == 32_000 and abs(np.abs(recording[1000:]).max() - 0.5) < 0.01
    assert abs(np.argmax(np.abs(np.fft.rfft(recording))) / 2 - 440) < 1
    assert np.abs(np.diff(recording)).max() < 0.5 * 2 * np.pi * 440 / 16_000 + 0.01, "no seams between blocks"


def test_blocks_and_level_come_several_times_a_second(wrapper: Path) -> None:
    wrapper.write_text(ONLY_48_KHZ.replace("COUNT", "1000").replace("0.01)", "0.05)"))  # in real time
    with Recorder() as recorder:
        recorder.read(10)
        begun, reads = time.monotonic(), []
        while time.monotonic() - begun < 1.5:
            reads.append(len(recorder.read(1)))
        assert len(reads) > 10 and 16_000 < sum(reads) < 32_000
        assert recorder.level and abs(recorder.level.peak_dbfs + 6) < 0.5 and abs(recorder.level.rms_dbfs + 9) < 0.5
        assert recorder.running


def test_a_recording_that_nobody_watches_ends_and_can_be_read(wrapper: Path) -> None:
    wrapper.write_text(ONLY_48_KHZ.replace("COUNT", "1000").replace("0.01)", "0.05)"))  # in real time
    recorder = Recorder(seconds=40, unwatched_s=1.5)
    recorder.read(10)
    watched_until = time.monotonic() + 3
    while time.monotonic() < watched_until:
        recorder.watched()
        time.sleep(0.1)
    assert recorder.running, "somebody looked"
    wait_for(lambda: not recorder.running, "the end", 15)
    assert len(recorder.read()) and not alive(recorder._child.pid)
    assert not len(recorder.read()), "it ended as if it had been stopped"


def test_a_microphone_that_is_unplugged(wrapper: Path) -> None:
    wrapper.write_text(ONLY_48_KHZ.replace("COUNT", "20"))
    with Recorder() as recorder:
        begun = time.monotonic()
        with pytest.raises(MicrophoneError, match=r"^No sound came for 5 s. Was the microphone unplugged\?$"):
            everything(recorder)
        assert time.monotonic() - begun < microphone.LIFE_S
        assert 0.9 < recorder.elapsed_s <= 1, "what came before is kept"


def test_a_device_that_another_program_holds(wrapper: Path) -> None:
    busy = 'raise PortAudioError("Error starting stream: Device unavailable", -9985)'
    wrapper.write_text(ONLY_48_KHZ.replace("threading.Thread(target=self.run, daemon=True).start()", busy))
    with (
        Recorder() as recorder,
        pytest.raises(MicrophoneError, match=r"^Cheap can't be opened .*Another program holds"),
    ):
        everything(recorder)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"its process crashed \(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its process was killed"),
        ("1 / 0", r"PortAudio can't start \(division by zero\)"),
        ("def query_hostapis():\n    return 1 / 0", 'exit code 1. It said last: "ZeroDivisionError: division by zero"'),
    ],
)
def test_a_driver_that_dies(fault: str, message: str, wrapper: Path) -> None:
    wrapper.write_text(fault)
    with pytest.raises(MicrophoneError, match=message):
        devices()
    with Recorder() as recorder, pytest.raises(MicrophoneError, match=message):
        everything(recorder)


def test_a_driver_that_hangs(wrapper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(microphone, "LIST_S", 1)
    with pytest.raises(MicrophoneError, match="can't be listed: it took longer than 1 s"):
        devices()
    monkeypatch.setattr(microphone, "LIFE_S", 1)
    with Recorder() as recorder:
        assert not len(recorder.read(0.05)) and recorder.running, "nobody waits for it"
        assert (recorder.rates, recorder.level, recorder.overflows, recorder.elapsed_s) == (None, None, 0, 0)
        with pytest.raises(MicrophoneError, match=r"no sign of life for 1 s and was ended"):
            everything(recorder)
        assert not alive(recorder._child.pid)


def test_stopping_a_driver_that_hangs(wrapper: Path) -> None:
    wrapper.write_text("import time; time.sleep(600)")
    recorder = Recorder()
    time.sleep(0.5)
    begun = time.monotonic()
    recorder.stop()
    assert time.monotonic() - begun < PROMPT_S
    assert not recorder.running and not len(recorder.read()) and not alive(recorder._child.pid)


def test_a_recorder_leaves_no_descriptors(wrapper: Path) -> None:
    wrapper.write_text("raise OSError('none')")
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux' /proc")
    before = descriptors()
    for _ in range(3):
        with Recorder() as recorder, pytest.raises(MicrophoneError, match="PortAudio is not installed"):
            everything(recorder)
    assert not descriptors() - before


def descriptors() -> set[tuple[str, str]]:
    """This process' open files by number and what they lead to: what others left open may be closed meanwhile."""
    files = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own, for one
            files.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return files
