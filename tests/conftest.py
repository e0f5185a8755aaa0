"""What several test files share: a tiny model that is quick to run, a data folder of one's own, small helpers."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino
import prepared
import psutil
import pytest
from skips import Skips

from bench import modes
from bench.core.paths import SPEECH_CLIP
from bench.datasets.dataset import find
from bench.datasets.folder import DatasetError
from bench.device import host
from bench.sound import audio
from bench.ui import guard

VISITOR = SimpleNamespace(ip_address=None, headers={"Host": "localhost:8501"})
# Workers of these start in half a second where torch takes four: for tests of what surrounds a variant.
LIGHT = ("onnx-fp32", "openvino-fp32")
PROMPT_S = 8.0  # what takes a moment takes longer where other tests take the processor; what waits takes minutes
SHARED = ("artefacts", "coverage", "checkpoints")  # what of a cache tests share; the rest is each one's own
# These take longest, and begin first where several processes share the tests: so none is left over at the end.
LONGEST = (
    *("test_browser", "test_demo_modes", "test_modes", "test_extra", "test_snippet", "test_artefacts", "test_soak"),
    *("test_serve", "test_browser_transcribe", "test_jobs", "test_client"),
)


def pytest_configure(config: pytest.Config) -> None:
    """In CI a skip that is not on the list fails the run."""
    if not hasattr(config, "workerinput"):  # with xdist, the process that gets all reports
        config.pluginmanager.register(Skips())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The soak runs only when `-m` names it; the files that take longest come first."""
    if "soak" not in config.option.markexpr:
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def _visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that a test draws without a server are looked at from this very device."""
    monkeypatch.setattr(guard, "_context", lambda: VISITOR)


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """The device is asked once and remembered: before a test replaces what it is made of, whatever their order."""
    host.device()


@pytest.fixture(scope="session", autouse=True)
def _cores() -> None:
    """Every OpenVINO core lives as long as its process. Where the processor has AMX, OpenVINO (2026.4) gives the thread
    that first uses a core another stack for signals and unmaps it with the core: if it is another thread that drops the
    core, the next signal that Python handles ends the process without a word.
    """
    init, kept = openvino.Core.__init__, []

    def keep(core: openvino.Core, *given: Any, **named: Any) -> None:
        init(core, *given, **named)
        kept.append(core)

    openvino.Core.__init__ = keep


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all processes that share these tests."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """A cache whose artefacts the data folders of these tests share, so that each is built once."""
    folder = shared / "data" / "cache"
    for name in SHARED:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def once(shared: Path, what: str) -> Iterator[bool]:
    """Whether this process is the first of all that share these tests: it makes something, and the others wait."""
    with (shared / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / f"{what}.done"
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def tiny_model(shared: Path, cache: Path) -> Path:
    """A Wav2Vec2ForCTC in Hugging Face format whose pass takes milliseconds; artefacts of some modes are cached."""
    folder = shared / "models" / "tiny"
    with once(shared, "tiny") as first:
        if first:
            variants = ["torch-fp32", "torch-int8-dynamic", *LIGHT]
            prepared.prepare(folder, variants, cache.parent, shared / "tiny", save=True)
    return folder


@pytest.fixture(scope="session")
def every_mode(shared: Path, cache: Path, tiny_model: Path) -> SimpleNamespace:
    """The tiny model in every mode, built and opened once for all tests: do not change what is in its folders.

    `data`: the data folder; `artefacts`: by mode; `logits`: a folder of them, by mode, of `clip`, a second of speech.
    """
    out = shared / "every-mode"
    clip = out / "speech.wav"
    with once(shared, "every-mode") as first:
        if first:
            out.mkdir(exist_ok=True)
            audio.write_wav(clip, audio.decode(SPEECH_CLIP).samples[:16000])
            prepared.prepare(tiny_model, list(modes.modes()), cache.parent, out, clip=clip)
    return SimpleNamespace(data=cache.parent, artefacts=prepared.read(out), clip=clip, logits=out)


@pytest.fixture
def data_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, named by EARBENCH_DATA, with the artefacts that these tests share."""
    folder = tmp_path / "data"
    (folder / "cache").mkdir(parents=True)
    for name in SHARED:
        (folder / "cache" / name).symlink_to(cache / name)
    (folder / "cache" / "modes.json").symlink_to(cache / "modes.json")  # what a probe of the modes found
    monkeypatch.setenv("EARBENCH_DATA", str(folder))
    return folder


def own_cache(folder: Path, *, empty: bool = False) -> None:
    """What a test breaks or counts in the cache of its data folder is its own: empty, or copied."""
    for name in SHARED:
        place = folder / "cache" / name
        there = place.resolve()
        place.unlink()
        place.mkdir() if empty else shutil.copytree(there, place)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0, every_s: float = 0.005) -> None:
    """Return once the condition holds; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for: {what}"
        time.sleep(every_s)


def alive(pid: int) -> bool:
    """Whether a process is there; one that ended but was not collected yet is not, one that is stopped is."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def made(folder: Path, files: dict[str, str | bytes]) -> Path:
    """The folder with files of these contents."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def texts(where: Path, split: str = "evaluate") -> dict[str, str]:
    """The ids and texts of the clips that are found there."""
    return {clip.id: clip.text for clip in find(str(where), split).clips}


def sentence(call: Callable[[], object]) -> str:
    """What the DatasetError of the call says; it is a sentence."""
    with pytest.raises(DatasetError) as e:
        call()
    assert str(e.value).endswith(".")
    return str(e.value)
