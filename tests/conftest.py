"""What several test files share: a tiny model that is quick to run, a data folder of one's own, small helpers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.datasets import DatasetError, find
from bench.paths import ROOT

# In a process of its own: the tests' process never imports torch, as the dashboard's never does.
_TINY = """
import json, sys
from pathlib import Path
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

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
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The soak runs only when `-m` names it."""
    if "soak" not in config.option.markexpr:
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wav2Vec2ForCTC in Hugging Face format whose pass takes milliseconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([sys.executable, "-c", _TINY, str(folder)], check=True, capture_output=True, timeout=120, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artefacts that the data folders of a session share, so that each is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def data_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, named by EARBENCH_DATA, with the session's cache."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "cache").symlink_to(cache)
    monkeypatch.setenv("EARBENCH_DATA", str(folder))
    return folder


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Return once the condition holds; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for: {what}"
        time.sleep(0.005)


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
