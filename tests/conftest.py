"""What several test files share: a tiny model that is quick to run, a data folder of one's own, small helpers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino
import psutil
import pytest
from skips import Skips

from bench.core.paths import ROOT
from bench.datasets.dataset import find
from bench.datasets.folder import DatasetError
from bench.device import host
from bench.ui import guard

VISITOR = SimpleNamespace(ip_address=None, headers={"Host": "localhost:8501"})
# Workers of these start in half a second where torch takes four: for tests of what surrounds a variant.
LIGHT = ("onnx-fp32", "openvino-fp32")
PROMPT_S = 8.0  # what takes a moment takes longer where other tests take the processor; what waits takes minutes
SHARED = ("artefacts", "coverage", "checkpoints")  # what of a cache tests share; the rest is each one's own
# These take longest, and begin first where several processes share the tests: so none is left over at the end.
LONGEST = ("test_browser", "test_modes", "test_artefacts", "test_soak", "test_jobs", "test_browser_transcribe")

# In a process of its own: the tests' process never imports torch, as the dashboard's never does. MODEL MODE...
_TINY = """
import json, sys
from pathlib import Path
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from bench.artefacts import build

folder = Path(sys.argv[1])
Wav2Vec2ForCTC(Wav2Vec2Config(
    vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    conv_dim=(32,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="group",
)).save_pretrained(folder)
tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
(folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
(folder / "preprocessor_config.json").write_text(json.dumps(
    {"do_normalize": True, "sampling_rate": 16000, "feature_size": 1, "padding_value": 0.0}
))
for mode in sys.argv[2:]:
    build.prepare(str(folder), mode, {}, lambda _: None)
"""


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


@pytest.fixture(scope="session")
def tiny_model(shared: Path, cache: Path) -> Path:
    """A Wav2Vec2ForCTC in Hugging Face format whose pass takes milliseconds; artefacts of some modes are cached."""
    folder = shared / "models" / "tiny"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "made").exists():
            subprocess.run(
                [sys.executable, "-c", _TINY, str(folder), "torch-fp32", "torch-int8-dynamic", *LIGHT],
                check=True,
                capture_output=True,
                timeout=280,
                cwd=ROOT,
                env={**os.environ, "EARBENCH_DATA": str(cache.parent)},
            )
            (shared / "made").touch()
    return folder


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
