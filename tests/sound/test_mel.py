"""Mel spectrograms: where the energy of tones lies, how many columns there are, and what can't be computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.core import paths
from bench.core.paths import ROOT
from bench.sound import audio, mel
from bench.sound.audio import AudioError
from bench.sound.mel import BANDS, MAX_COLUMNS, RANGE_DB, TOP_HZ

pytestmark = pytest.mark.usefixtures("data_folder")


def tone(hz: float, seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    return np.cos(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz).astype(np.float32)


def band_of(hz: float) -> int:
    """The band whose peak is next to a frequency."""
    scale = [2595 * np.log10(1 + f / 700) for f in (hz, TOP_HZ)]
    return round(scale[0] / scale[1] * (BANDS + 1)) - 1


def test_tones_are_in_their_band_at_their_time() -> None:
    frequencies = (300.0, 1000.0, 5000.0)
    computed = mel.spectrogram(np.concatenate([tone(hz, 1.0) for hz in frequencies]))
    assert computed.levels_db.shape == (BANDS, 300) and computed.column_s == pytest.approx(0.01)
    assert computed.levels_db.max() == 0 and computed.levels_db.min() >= -RANGE_DB
    for second, hz in enumerate(frequencies):
        middle = computed.levels_db[:, 100 * second + 20 : 100 * second + 80]
        assert np.abs(middle.argmax(axis=0) - band_of(hz)).max() <= 1, hz
        far = np.abs(np.arange(BANDS) - band_of(hz)) > 6
        assert middle[far].max() < -30


def test_levels_are_decibels_of_power() -> None:
    samples = np.concatenate([tone(1000, 1.0), 0.1 * tone(1000, 1.0)])
    loudest = mel.spectrogram(samples).levels_db.max(axis=0)
    assert loudest[50] == pytest.approx(0, abs=0.1) and loudest[150] == pytest.approx(-20, abs=0.1)


LIBROSA = """
import sys
import librosa, numpy as np
from bench.sound.spectrogram import levels_db

samples = np.load(sys.argv[1])
ours, _ = levels_db(samples)
# librosa centres frame i at sample 160 i of what it is given, Earbench at 160 i + 80, the middle of the column.
power = librosa.feature.melspectrogram(
    y=np.pad(samples, (432, 1024)), sr=16000, n_fft=1024, win_length=400, hop_length=160, center=False, n_mels=80,
    htk=True,
)
theirs = librosa.power_to_db(power[:, : ours.shape[1]], ref=np.max, top_db=80)
print(np.abs(ours - theirs).max())
"""


def test_it_agrees_with_librosas_own(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", audio.decode(paths.SPEECH_CLIP).samples)
    command = [sys.executable, "-c", LIBROSA, str(tmp_path / "clip.npy")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=250)
    assert float(done.stdout) < 0.01


@pytest.mark.parametrize("samples", [1, 160, 161, MAX_COLUMNS * 160, MAX_COLUMNS * 160 + 1])
def test_columns_cover_the_sound_and_are_bounded(samples: int) -> None:
    computed = mel.spectrogram(tone(500, samples / 16_000))
    columns = computed.levels_db.shape[1]
    assert 1 <= columns <= MAX_COLUMNS
    assert columns * computed.column_s >= samples / 16_000 > (columns - 1) * computed.column_s


def test_the_longest_sound() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, round(audio.MAX_DURATION_S * 16_000)).astype(np.float32)
    computed = mel.spectrogram(noise)
    assert computed.levels_db.shape == (BANDS, MAX_COLUMNS) and computed.column_s == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (np.zeros(0, np.float32), "it has no samples. Choose or record another one."),
        (np.zeros(16_000, np.float32), "it is silent: all of its samples are 0. Check that the microphone"),
        (np.array([0.1, np.nan], np.float32), "some of its samples are not numbers. Save it again."),
    ],
)
def test_what_has_no_spectrogram(samples: np.ndarray, sentence: str) -> None:
    with pytest.raises(AudioError) as e:
        mel.spectrogram(samples)
    assert str(e.value).startswith("There is no spectrogram of this sound: ") and sentence in str(e.value)


def test_librosa_that_fails_or_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for code, sentence in (
        ("raise ModuleNotFoundError('No module named librosa', name='librosa')", "librosa can't be imported"),
        ("import time; time.sleep(600)", "it took longer than 1 s and was ended."),
        ("import numpy; hog = [numpy.ones(50_000_000) for _ in range(100)]", "takes more than 1.0 GB of memory."),
        ("import os; os.kill(os.getpid(), 11)", "its process crashed (SIGSEGV)."),
    ):
        (tmp_path / "librosa.py").write_text(code)
        with pytest.raises(AudioError) as e:
            mel.spectrogram(tone(500, 0.1), timeout_s=1 if "sleep" in code else 60)
        assert sentence in str(e.value)


def test_the_parent_imports_no_librosa() -> None:
    code = (
        "import sys, numpy as np; from bench.sound import mel; "
        "computed = mel.spectrogram(np.sin(np.arange(1600)).astype(np.float32)); "
        "print(computed.levels_db.shape[1], *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    columns, *loaded = done.stdout.split()
    assert columns == "10" and not {"librosa", "numba", "scipy"} & set(loaded)
