"""Malformed sounds by the hundred: each becomes a sound with remarks or a sentence, and the parent lives on.

`make soak` decodes 300 of them (or EARBENCH_SOAK); EARBENCH_SEED draws the same ones again. The parent is a fresh
interpreter, as small as the dashboard's, so that its and its children's memory can be told from this process's.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bench.core.paths import ROOT
from bench.sound.audio import MAX_DURATION_S

TIMES = int(os.environ.get("EARBENCH_SOAK", "300"))
SEED = int(os.environ.get("EARBENCH_SEED", time.time_ns() % 2**32))
PARENT_PEAK_BYTES = 200e6  # the longest sound is 38 MB
CHILD_PEAK_BYTES = 250e6
CONTAINERS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_24"}

PARENT = """
import json, resource, sys
from pathlib import Path
import numpy as np
from bench.sound.audio import AudioError, decode

for path in sys.argv[1:]:
    try:
        sound = decode(Path(path))
        whole = bool(np.isfinite(sound.samples).all() and np.abs(sound.samples).max() <= 1)
        print(json.dumps({"samples": len(sound.samples), "whole": whole, "remarks": sound.remarks}))
    except AudioError as e:
        print(json.dumps({"error": str(e)}))
status = Path("/proc/self/status")  # getrusage would count what this process was forked from
own = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([own, child]))
"""


def decode_apart(*files: Path) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """What a fresh parent gets for each file, and (its own, its largest child's) peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *outcomes, peaks = [json.loads(line) for line in done.stdout.splitlines()]
    return outcomes, (peaks[0], peaks[1])


def speech(r: random.Random, rate_hz: int = 22_050, channels: int = 1) -> np.ndarray:
    """Half a second and more of noise: (frames, channels) float32."""
    frames = int(rate_hz * r.uniform(0.5, 2))
    return np.random.default_rng(r.getrandbits(32)).uniform(-0.4, 0.4, (frames, channels)).astype(np.float32)


def sound(r: random.Random, file: Path) -> bytearray:
    """A sound file that is whole, in any container."""
    container, subtype = r.choice(list(CONTAINERS.items()))
    soundfile.write(file, speech(r, channels=r.choice((1, 2))), 22_050, format=container, subtype=subtype)
    return bytearray(file.read_bytes())


def cut_off(r: random.Random, file: Path) -> None:
    data = sound(r, file)
    file.write_bytes(data[: r.randrange(1, len(data))])


def bits_flipped(r: random.Random, file: Path) -> None:
    data = sound(r, file)
    for _ in range(r.choice((1, 10, 1000))):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    file.write_bytes(data)


def header_lies(r: random.Random, file: Path) -> None:
    data = sound(r, file)
    for _ in range(r.choice((1, 3))):
        at = r.randrange(4, 60)
        data[at : at + 4] = r.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", r.randbytes(4)))
    file.write_bytes(data)


def glued(r: random.Random, file: Path) -> None:
    data = sound(r, file)
    at = r.randrange(len(data))
    data[at:at] = r.randbytes(r.choice((1, 100, 10_000)))
    file.write_bytes(data)


def random_bytes(r: random.Random, file: Path) -> None:
    magic = r.choice((b"", b"RIFF", b"fLaC", b"OggS", b"ID3\3\0", b"\xff\xfb\x90\0", b"\0\0\0\x20ftypM4A "))
    file.write_bytes(magic + r.randbytes(r.randrange(1, 100_000)))


def wrong_extension(r: random.Random, file: Path) -> None:
    sound(r, file)
    file.rename(file.with_suffix(r.choice((".mp3", ".raw", ".m4a", ".txt", ""))))


def empty(r: random.Random, file: Path) -> None:
    if r.random() < 0.5:
        file.write_bytes(b"")
    else:
        soundfile.write(file, np.zeros((0, 1)), 16_000, format=r.choice(("wav", "flac")))


def not_numbers(r: random.Random, file: Path) -> None:
    data = speech(r)
    data[r.sample(range(len(data)), 4), 0] = np.nan, np.inf, -np.inf, 1e38
    soundfile.write(file, data, 22_050, format="wav", subtype=r.choice(("FLOAT", "DOUBLE")))


def many_channels(r: random.Random, file: Path) -> None:
    soundfile.write(file, speech(r, 8_000, r.choice((9, 64, 255))), 8_000, format="wav")


def odd_rate(r: random.Random, file: Path) -> None:
    soundfile.write(file, speech(r), r.choice((1, 100, 999, 800_000, 2**31 - 1)), format="wav")


def hours_of_silence(r: random.Random, file: Path) -> None:
    """10 hours in 0.2 MB or less."""
    with soundfile.SoundFile(file, "w", 1_000, 1, "PCM_16", format="flac") as f:
        for _ in range(10):
            f.write(np.zeros(3_600 * 1_000, np.int16))


KINDS: list[Callable[[random.Random, Path], None]] = [
    cut_off,
    bits_flipped,
    header_lies,
    glued,
    random_bytes,
    wrong_extension,
    empty,
    not_numbers,
    many_channels,
    odd_rate,
    hours_of_silence,
]
REFUSED = {"empty": "", "many_channels": "channels; allowed: 1 to 8", "odd_rate": "samples a second; allowed"}
REFUSED |= {"hours_of_silence": "longer than 10 min"}


def check(kind: str, name: str, outcome: dict[str, Any]) -> None:
    """What must hold for every file, and for those of a kind."""
    if error := outcome.get("error"):
        assert error.startswith(f"{name}: ") and error.endswith("."), error
        assert "Traceback" not in error and "Error:" not in error and str(ROOT) not in error, error
        assert "crashed" not in error and "exit code" not in error, error
        assert REFUSED.get(kind, "") in error
        assert kind not in ("wrong_extension", "not_numbers"), error
    else:
        assert outcome["whole"] and 0 < outcome["samples"] <= MAX_DURATION_S * 16_000
        assert kind not in REFUSED, outcome
        if kind == "not_numbers":
            assert any(r.startswith("3 samples were not numbers") for r in outcome["remarks"]), outcome


def decode_many(folder: Path, drawn: list[tuple[Callable[[random.Random, Path], None], random.Random]]) -> None:
    for number, (make, r) in enumerate(drawn):
        make(r, folder / f"{number:04}.bin")
    files = sorted(folder.glob("*"))
    outcomes, (parent, child) = decode_apart(*files)
    assert len(outcomes) == len(drawn) == len(files)
    for (make, _), file, outcome in zip(drawn, files, outcomes, strict=True):
        print(make.__name__, outcome)
        check(make.__name__, file.name, outcome)
    print(f"peak memory: parent {parent / 1e6:.0f} MB, child {child / 1e6:.0f} MB")
    assert parent < PARENT_PEAK_BYTES and child < CHILD_PEAK_BYTES


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_malformed_file(make: Callable[[random.Random, Path], None], tmp_path: Path, data_folder: Path) -> None:
    (tmp_path / "files").mkdir()
    decode_many(tmp_path / "files", [(make, random.Random(1))])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_hundreds_of_malformed_files(tmp_path: Path, data_folder: Path) -> None:
    print(f"EARBENCH_SEED={SEED}")
    (tmp_path / "files").mkdir()
    decode_many(tmp_path / "files", [(KINDS[n % len(KINDS)], random.Random(f"{SEED} {n}")) for n in range(TIMES)])
    assert not list((data_folder / "cache").glob("sound-*"))
