"""Sounds of known content through every container, and what is said of those that are not as they should be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import alive, wait_for
from test_audio_soak import CHILD_PEAK_BYTES, PARENT_PEAK_BYTES, decode_apart

from bench.core.paths import ROOT
from bench.sound import audio
from bench.sound.audio import Array, AudioError, Sound, decode, decode_bytes, peaks, remarks, wav_bytes, write_wav

HEAVY = ("soundfile", "soxr", "sounddevice", "librosa", "scipy", "torch", "transformers", "pandas")
pytestmark = pytest.mark.usefixtures("data_folder")


def sine(rate_hz: int = 16_000, seconds: float = 2.0, channels: int = 1, amplitude: float = 0.5) -> Array:
    """440 Hz: (frames, channels)."""
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return np.repeat(amplitude * np.sin(2 * np.pi * 440 * t)[:, None], channels, axis=1).astype(np.float32)


def wav(path: Path, data: Array, rate_hz: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, data, rate_hz, format="wav", subtype=subtype)
    return path


def frequency_hz(samples: Array) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))) * 16_000 / len(samples)


def check(sound: Sound, seconds: float = 2.0, within_s: float = 1e-3) -> None:
    middle = sound.samples[4_000:-4_000]
    assert sound.samples.dtype == np.float32 and sound.samples.ndim == 1
    assert abs(sound.duration_s - seconds) <= within_s
    assert abs(frequency_hz(sound.samples) - 440) < 1
    assert abs(np.abs(middle).max() - 0.5) < 0.02
    assert sound.remarks == ()


# --- what comes in


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_containers_of_libsndfile(container: str, tmp_path: Path) -> None:
    file = tmp_path / f"tone.{container}"
    soundfile.write(file, sine(44_100, channels=2), 44_100)
    sound = decode(file)
    check(sound)
    assert (sound.source_rate_hz, sound.source_channels) == (44_100, 2)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg program here")
@pytest.mark.parametrize(
    ("container", "codec"), [("m4a", "aac"), ("aac", "aac"), ("webm", "libopus"), ("wma", "wmav2")]
)
def test_containers_of_ffmpeg(container: str, codec: str, tmp_path: Path) -> None:
    source, file = wav(tmp_path / "tone.wav", sine(48_000, channels=2), 48_000), tmp_path / f"tone.{container}"
    command = ["ffmpeg", "-v", "error", "-i", str(source), "-c:a", codec, str(file)]
    if (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"this ffmpeg can't write {container}: {done.stderr[-200:]}")
    sound = decode(file)
    check(sound, within_s=0.1)  # these codecs pad
    assert (sound.source_rate_hz, sound.source_channels) == (48_000, 2)


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype"),
    [(8_000, 1, "PCM_U8"), (11_025, 1, "PCM_24"), (16_000, 8, "FLOAT"), (48_000, 6, "DOUBLE"), (192_000, 1, "ULAW")],
)
def test_rates_channels_and_precisions(rate_hz: int, channels: int, subtype: str, tmp_path: Path) -> None:
    sound = decode(wav(tmp_path / "tone.wav", sine(rate_hz, channels=channels), rate_hz, subtype))
    check(sound)
    assert (sound.source_rate_hz, sound.source_channels) == (rate_hz, channels)


def test_16_khz_mono_is_left_as_it_is(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-20_000, 20_000, 16_000).astype(np.int16)
    soundfile.write(tmp_path / "noise.wav", data, 16_000)
    assert np.array_equal(decode(tmp_path / "noise.wav").samples * 32768, data)


def test_what_is_above_8_khz_is_filtered_out(tmp_path: Path) -> None:
    t = np.arange(96_000) / 48_000
    high = (0.5 * np.sin(2 * np.pi * 12_000 * t)).astype(np.float32)  # would fold down to 4 kHz
    assert np.abs(decode(wav(tmp_path / "high.wav", high, 48_000)).samples[4_000:-4_000]).max() < 1e-3


@pytest.mark.parametrize("extension", ["mp3", "raw", "gsm", "txt", "m3u8"])
def test_content_decides_not_the_extension(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"tone.{extension}"
    soundfile.write(file, sine(), 16_000, format="flac")
    check(decode(file))


def test_bytes(data_folder: Path, tmp_path: Path) -> None:
    check(decode_bytes(wav(tmp_path / "tone.wav", sine(44_100), 44_100).read_bytes(), "upload.wav"))
    with pytest.raises(AudioError, match=r"^upload.wav: not a sound that can be read"):
        decode_bytes(b"hello" * 1000, "upload.wav")
    with pytest.raises(AudioError, match=r"^upload.wav: the file is empty.$"):
        decode_bytes(b"", "upload.wav")
    assert not list((data_folder / "cache").glob("sound-*"))


def test_what_a_killed_server_left_is_swept(data_folder: Path, tmp_path: Path) -> None:
    old, new = data_folder / "cache" / "sound-old", data_folder / "cache" / "sound-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "source").touch()
    os.utime(old, (time.time() - 2 * audio.STALE_S,) * 2)
    decode(wav(tmp_path / "tone.wav", sine()))
    assert not old.exists() and new.exists()
    shutil.rmtree(new)


# --- headers that lie


def flac(path: Path, frames: int) -> Path:
    """Two seconds whose header says so many frames."""
    soundfile.write(path, sine(), 16_000, format="flac")
    data = bytearray(path.read_bytes())
    fields = int.from_bytes(data[18:26], "big")  # STREAMINFO: the lowest 36 bits are the length
    data[18:26] = (fields >> 36 << 36 | frames).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def test_a_header_that_promises_10_hours_for_2_seconds(tmp_path: Path) -> None:
    sound = decode(flac(tmp_path / "tone.flac", 16_000 * 36_000))
    assert sound.duration_s == 2
    assert sound.remarks == ("Cut off: its header promises 36000.0 s, but 2.0 s came.",)


def test_a_length_that_is_not_known(tmp_path: Path) -> None:
    check(decode(flac(tmp_path / "tone.flac", 0)))  # as encoders write that can't go back


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFF0])
def test_a_wav_whose_size_was_never_filled_in(size: int, tmp_path: Path) -> None:
    file = wav(tmp_path / "tone.wav", sine())
    data = bytearray(file.read_bytes())
    data[40:44] = size.to_bytes(4, "little")
    file.write_bytes(data)
    check(decode(file))


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    file = flac(tmp_path / "tone.flac", 32_000)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    sound = decode(file)
    assert 0.5 < sound.duration_s < 2 and abs(frequency_hz(sound.samples) - 440) < 2
    assert sound.remarks[0].startswith(("Damaged: ", "Cut off: "))


def test_10_hours_of_silence_in_a_tiny_file(tmp_path: Path) -> None:
    file = tmp_path / "silence.flac"
    with soundfile.SoundFile(file, "w", 1_000, 1, "PCM_16") as f:
        for _ in range(10):
            f.write(np.zeros(3_600_000, np.int16))
    assert file.stat().st_size < 2e6
    (outcome,), (parent, child) = decode_apart(file)
    assert outcome == {"error": "silence.flac: it is longer than 10 min, the most allowed. Cut it."}
    assert parent < PARENT_PEAK_BYTES and child < CHILD_PEAK_BYTES


def test_the_longest_that_is_allowed(tmp_path: Path) -> None:
    sound = decode(wav(tmp_path / "long.wav", sine(2_000, audio.MAX_DURATION_S), 2_000))
    check(sound, audio.MAX_DURATION_S)
    with pytest.raises(AudioError, match="longer than 10 min"):
        decode(wav(tmp_path / "long.wav", sine(2_000, audio.MAX_DURATION_S + 0.01), 2_000))


# --- what is refused


@pytest.mark.parametrize("channels", [9, 64])
def test_too_many_channels(channels: int, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=rf"^many.wav: it has {channels} channels; allowed: 1 to 8. Mix it down"):
        decode(wav(tmp_path / "many.wav", sine(channels=channels)))


@pytest.mark.parametrize("rate_hz", [1, 999, 768_001])
def test_rates_out_of_bounds(rate_hz: int, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=f"it has {rate_hz} samples a second; allowed: 1000 to 768000"):
        decode(wav(tmp_path / "odd.wav", sine(), rate_hz))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(AudioError, match="there is no such file"):
            decode(path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="there is no such file"):
        decode(tmp_path / "pipe.wav")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large.wav").open("wb") as f:
        f.truncate(audio.MAX_FILE_BYTES + 1_000_000)  # sparse: it takes no space
    with pytest.raises(AudioError, match="the file has 201 MB; allowed: 200 MB"):
        decode(tmp_path / "large.wav")


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^none.wav: it holds no sound.$"):
        decode(wav(tmp_path / "none.wav", sine(seconds=0)))


def test_no_numbers_at_all(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="none of its samples is a number"):
        decode(wav(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), subtype="FLOAT"))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg program here")
def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    source = wav(tmp_path / "secret.wav", sine())
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXTINF:2,\n{source}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {source.name}\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="not a sound that can be read"):
            decode(tmp_path / name)


def test_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "talk.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    with pytest.raises(AudioError, match=r"without ffmpeg \(Debian: sudo apt install ffmpeg.*save it as WAV"):
        decode(tmp_path / "talk.m4a")
    check(decode(wav(tmp_path / "tone.wav", sine())))


# --- what is told


def test_strange_numbers_become_silence(tmp_path: Path) -> None:
    data = sine()
    data[100], data[200], data[300] = np.nan, np.inf, -np.inf
    sound = decode(wav(tmp_path / "nan.wav", data, subtype="FLOAT"))
    assert sound.remarks == ("3 samples were not numbers (NaN or infinite) and count as silence.",)
    assert not sound.samples[[100, 200, 300]].any()


def test_samples_in_other_units(tmp_path: Path) -> None:
    sound = decode(wav(tmp_path / "units.wav", sine(amplitude=20_000), subtype="FLOAT"))
    assert sound.remarks[0] == "Its samples reach 2e+04 where full scale is 1; what is beyond was cut off."
    assert np.abs(sound.samples).max() == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.zeros((16_000, 1)), "Silence: "),
        (sine(amplitude=0.0005), "Silence: "),
        (np.full((16_000, 1), 0.3), "Silence: "),
        (sine(amplitude=0.01), "Very quiet: it peaks at -40 dB"),
        (np.clip(3 * sine(), -1, 1), "Clipped: "),
        (sine() + 0.1, "It has a DC offset of +0.10"),
        (sine(seconds=0.1), "Only 0.100 s long"),
    ],
    ids=["zeros", "faint", "constant", "quiet", "clipped", "offset", "short"],
)
def test_remarks(data: Array, expected: str, tmp_path: Path) -> None:
    found = decode(wav(tmp_path / "sound.wav", data)).remarks
    assert sum(r.startswith(expected) for r in found) == 1 and all(r.endswith(".") for r in found)
    assert any(r.startswith(expected) for r in remarks(data[:, 0].astype(np.float32)))


def test_clipping_is_counted_before_resampling(tmp_path: Path) -> None:
    loud = decode(wav(tmp_path / "loud.wav", np.clip(4 * sine(44_100), -1, 1), 44_100))
    share = float(loud.remarks[0].split()[1].rstrip("%")) / 100
    assert abs(share - 2 / 3) < 0.01  # |2 sin| > 1 for two thirds of the time


def test_an_ordinary_recording_has_none() -> None:
    assert remarks(sine()[:, 0]) == ()


# --- the child


FAKES = {
    "hangs": "import time; time.sleep(600)",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "leaves": "import os, sys; print('a word before the end', file=sys.stderr, flush=True); os._exit(3)",
    "eats memory": "import numpy; hog = [numpy.ones(50_000_000) for _ in range(100)]",
    "can't be loaded": "raise OSError('sndfile library not found')",
    "is not installed": "raise ModuleNotFoundError('No module named soundfile', name='soundfile')",
    "chatters": "print('not JSON'); import os; os._exit(0)",
}
SAID = {
    "hangs": "it took longer than 1 s and was ended.",
    "crashes": "its process crashed (SIGSEGV).",
    "is killed": "its process was killed (SIGKILL): often because memory ran out.",
    "leaves": 'its process ended with exit code 3. It said last: "a word before the end"',
    "eats memory": "decoding it takes more than 1.0 GB of memory.",
    "can't be loaded": "it can't be decoded (OSError: sndfile library not found).",
    "is not installed": "soundfile can't be imported (No module named soundfile); fix: ",
    "chatters": "its process printed no answer.",
}


@pytest.mark.parametrize("fault", FAKES)
def test_a_library_that(fault: str, tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "eats memory" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux limits a process's memory")
    file = wav(tmp_path / "tone.wav", sine())
    (tmp_path / "soundfile.py").write_text(FAKES[fault])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(AudioError) as e:
        decode(file, timeout_s=1 if fault == "hangs" else 30)
    assert str(e.value).startswith(f"tone.wav: {SAID[fault]}")
    assert time.monotonic() - begun < 15
    assert not list((data_folder / "cache").glob("sound-*"))


def test_a_program_that_hangs_goes_with_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "talk.m4a").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="took longer than 1 s"):
        decode(tmp_path / "talk.m4a", timeout_s=1)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(pid), "the end of the program", 5)


def test_the_parent_imports_nothing_heavy(tmp_path: Path) -> None:
    file = wav(tmp_path / "tone.wav", sine(44_100), 44_100)
    code = (
        "import sys; from pathlib import Path; from bench.sound import audio, microphone; "
        f"sound = audio.decode(Path({str(file)!r})); audio.peaks(sound.samples, 10); audio.wav_bytes(sound.samples); "
        "print(len(sound.samples), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    length, *loaded = done.stdout.split()
    assert length == "32000" and "numpy" in loaded and not set(HEAVY) & set(loaded)


# --- what goes out


def test_a_wav_goes_round(tmp_path: Path) -> None:
    samples = decode(wav(tmp_path / "tone.wav", sine())).samples
    write_wav(tmp_path / "copy.wav", samples)
    assert [p.name for p in sorted(tmp_path.glob("*.wav*"))] == ["copy.wav", "tone.wav"]
    assert np.array_equal(decode(tmp_path / "copy.wav").samples, samples)
    with wave.open(str(tmp_path / "copy.wav")) as f:
        assert (f.getnchannels(), f.getsampwidth(), f.getframerate(), f.getnframes()) == (1, 2, 16_000, 32_000)
    assert wav_bytes(samples) == (tmp_path / "copy.wav").read_bytes()


def test_what_is_beyond_full_scale_is_cut_not_wrapped() -> None:
    loud = np.array([1.5, 1.0, -1.0, -1.5], np.float32)
    assert np.frombuffer(wav_bytes(loud)[44:], "<i2").tolist() == [32767, 32767, -32768, -32768]


def test_peaks() -> None:
    samples = np.array([0, 1, -1, 0.5, 0.25, -0.5], np.float32)
    assert peaks(samples, 2).tolist() == [[-1, 1], [-0.5, 0.5]]
    assert peaks(samples, 3).dtype == np.float32
    assert peaks(samples[:2], 4).shape == (4, 2), "fewer samples than buckets"
    assert peaks(samples[:0], 4).tolist() == [[0, 0]] * 4
    long = np.random.default_rng(0).uniform(-1, 1, 100_003).astype(np.float32)
    found = peaks(long, 700)
    assert found[:, 0].min() == long.min() and found[:, 1].max() == long.max()
