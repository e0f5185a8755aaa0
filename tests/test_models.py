"""Model families: work equal to torch's own counter, inputs, and names and folders that are refused with a sentence."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import models
from bench.models import Family, ModelError, wav2vec2
from bench.paths import ROOT

BASE = "wav2vec2-base-random"


def counted(config: dict[str, Any], samples: int) -> dict[str, int]:
    """Multiply-accumulates by module as torch counts them: FLOPs over 2, a module's children taken off."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    with torch.device("meta"):
        # The counter sees no fused attention of the CPU: only eager attention shows its two products.
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**config, attn_implementation="eager")).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, samples))
    flops = {name: sum(by_operation.values()) for name, by_operation in counter.get_flop_counts().items()}
    own = dict(flops)
    for name, total in flops.items():  # module lists are never called: the nearest one above that was has its FLOPs
        above = [n for n in flops if name.startswith(f"{n}.")]
        if above:
            own[max(above, key=len)] -= total
    del own["Global"]
    assert sum(own.values()) == counter.get_total_flops() and not any(f % 2 for f in own.values())
    return {name.partition(".")[2]: f // 2 for name, f in own.items() if f}


@pytest.mark.parametrize("length_s", [1.0, 5.0, 7.3])
def test_macs_equal_torchs_own_counter(length_s: float) -> None:
    config = models.find(BASE).config
    samples = round(length_s * 16_000)
    assert wav2vec2.macs(config, samples) == counted(dict(config), samples)


def test_macs_of_another_shape_equal_torchs_own_counter() -> None:
    config = dict(
        models.find("wav2vec2-large-random").config,
        num_hidden_layers=2,
        num_conv_pos_embeddings=19,  # odd: no frame is cut off after it
        conv_dim=[48, 64],
        conv_kernel=[7, 4],
        conv_stride=[5, 3],
        num_feat_extract_layers=2,
        vocab_size=40,
    )
    assert wav2vec2.macs(config, 12_345) == counted(config, 12_345)


def test_parameters_are_the_weights_of_the_real_module() -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    for name in (BASE, "wav2vec2-large-random"):
        config = models.find(name).config
        with torch.device("meta"):
            module = wav2vec2._folded(Wav2Vec2ForCTC(Wav2Vec2Config(**config)))
        found: dict[str, int] = {}
        for path in wav2vec2.macs(config, 16_000):
            weight = getattr(module.get_submodule(path), "weight", None)
            if weight is not None:
                found[wav2vec2.part(path)] = found.get(wav2vec2.part(path), 0) + weight.numel()
        assert wav2vec2.parameters(config) == found


# --- inputs


@pytest.mark.parametrize("kind", ["speech", "noise"])
def test_inputs(kind: Any) -> None:
    x = wav2vec2.inputs(7.3, 3, 5, kind)
    assert x.shape == (3, 116_800) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, wav2vec2.inputs(7.3, 3, 5, kind))
    assert np.abs(x.astype(np.float64).mean(axis=1)).max() < 1e-4
    np.testing.assert_allclose(x.astype(np.float64).var(axis=1), 1, atol=1e-3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(x[i] - x[j]).max() > 1
    assert np.abs(wav2vec2.inputs(7.3, 3, 6, kind)[2] - x[2]).max() > 1  # another seed, another row


def test_speech_longer_than_the_clip_is_the_clip_again() -> None:
    x = wav2vec2.inputs(12.0, 1, 0, "speech")[0]
    clip = len(wav2vec2._clip())
    assert len(x) > 2 * clip
    np.testing.assert_array_equal(x[:clip], x[clip : 2 * clip])
    assert x[: clip // 2].std() > 0.1  # and no silence


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 399, 16_000, 480_001])
def test_preparation_equals_the_feature_extractors(samples: int, normalised: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    # Quiet, and off zero, as cheap microphones are.
    audio = (np.random.default_rng(samples).standard_normal(samples) * 0.03 + 0.01).astype(np.float32)
    preparation = {"do_normalize": normalised, "sampling_rate": 16_000, "feature_size": 1, "padding_value": 0.0}
    theirs = Wav2Vec2FeatureExtractor(**preparation)(audio, sampling_rate=16_000, return_tensors="np").input_values
    ours = wav2vec2.prepare(audio, preparation)
    assert ours.shape == theirs.shape == (1, samples) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_preparation_normalises_where_nothing_is_said_and_leaves_the_audio_alone() -> None:
    audio = np.array([1, 2, 3], dtype=np.float32)
    found = wav2vec2.prepare(audio, {})
    np.testing.assert_allclose(found, [[-(1.5**0.5), 0, 1.5**0.5]], atol=1e-6)  # the variance is 2/3
    np.testing.assert_array_equal(audio, [1, 2, 3])
    assert wav2vec2.prepare(audio[:0], {}).shape == (1, 0)
    np.testing.assert_array_equal(wav2vec2.prepare(np.full(500, 0.5, np.float32), {}), np.zeros((1, 500)))  # silence


# --- names


def test_every_named_checkpoint_is_found_by_its_name() -> None:
    for checkpoint in models.catalogue():
        assert models.find(checkpoint.name) is checkpoint
        assert models.exists(checkpoint.name)
        parameters = sum(models.family(checkpoint).parameters(checkpoint.config).values())
        assert parameters > (3e6 if checkpoint.name == "demo" else 90e6)
        assert (checkpoint.download_bytes > 0) == (checkpoint.source == "hub")


def test_unknown_name() -> None:
    with pytest.raises(ModelError) as e:
        models.find("wav2vec3")
    assert "no model or folder “wav2vec3”" in str(e.value)
    for checkpoint in models.catalogue():
        assert checkpoint.name in str(e.value)
    assert not models.exists("wav2vec3")


def folder(path: Path, config: object, *files: str) -> str:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (path / name).write_bytes(b"x" * 1000)
    return str(path)


@pytest.mark.parametrize(
    ("config", "files", "sentence"),
    [
        (
            {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
            (),
            r"holds WhisperForConditionalGeneration \(model_type 'whisper'\)\. Allowed: Wav2Vec2ForCTC",
        ),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForPreTraining"]},
            ("model.safetensors", "vocab.json"),
            r"holds Wav2Vec2ForPreTraining\. Allowed: Wav2Vec2ForCTC",
        ),
        ({"model_type": "wav2vec2"}, (), r"holds no named architecture\. Allowed: Wav2Vec2ForCTC"),
        ({}, (), r"holds a model \(model_type None\)"),
        ([1, 2], (), r"holds a model \(model_type None\)"),
        ("{not json", (), r"config\.json is not JSON .*Save the model again"),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
            ("vocab.json",),
            r"lacks model\.safetensors\. Save the model with model\.save_pretrained",
        ),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
            (),
            r"lacks model\.safetensors and vocab\.json",
        ),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "add_adapter": True},
            ("model.safetensors", "vocab.json"),
            r"has an adapter .* not supported yet",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, config: object, files: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as e:
        models.find(folder(tmp_path / "mine", config, *files))
    assert str(tmp_path / "mine") in str(e.value)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no readable config\.json"):
        models.find(str(tmp_path))


def test_a_good_folder(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 64}
    name = folder(tmp_path / "mine", config, "model.safetensors", "vocab.json")
    found = models.find(name)
    assert (found.source, found.where, found.label, found.download_bytes) == ("folder", name, "mine", 0)
    assert found.config["hidden_size"] == 64
    assert found.config["num_hidden_layers"] == 12  # what a configuration leaves out is the architecture's default
    identity, where = wav2vec2.identity(found, lambda _: None)
    assert where == Path(name) and "folder mine, sha256" in identity
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"y" * 1000)
    assert wav2vec2.identity(found, lambda _: None)[0] != identity


def test_what_an_artefact_carries_is_complete(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 64}
    name = folder(tmp_path / "mine", config, "model.safetensors")
    (tmp_path / "mine" / "vocab.json").write_text('{"A": 0}')
    found = models.find(name)
    texts = wav2vec2.describe(found, Path(name))
    assert json.loads(texts["vocab.json"]) == {"A": 0}
    assert json.loads(texts["preprocessor_config.json"])["sampling_rate"] == 16_000
    written = json.loads(texts["config.json"])
    assert written["hidden_size"] == 64
    assert wav2vec2.macs(written, 16_000) == wav2vec2.macs(found.config, 16_000)


def test_a_hub_model_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "from bench import models\n"
        "c = models.find('facebook/wav2vec2-base-960h')\n"
        "try:\n    models.family(c).identity(c, print)\n"
        "except models.ModelError as e:\n    print('REFUSED', e)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "REFUSED facebook/wav2vec2-base-960h is not on this device yet" in done.stdout
    assert "Connect this device to the internet once" in done.stdout and "random weights" in done.stdout


# --- the contract


def test_every_family_file_is_in_the_list_and_keeps_the_contract() -> None:
    files = {f.stem for f in (ROOT / "bench" / "models").glob("*.py") if not f.stem.startswith("_")}
    assert files and files == {f.__name__.rpartition(".")[2] for f in models.families().values()}  # type: ignore[attr-defined]
    for name in files:
        module = importlib.import_module(f"bench.models.{name}")
        assert models.families()[module.NAME] is module
        assert set(Family.__annotations__) <= set(vars(module))
        assert all(c.family == module.NAME for c in module.CHECKPOINTS)
        for method, wanted in inspect.getmembers(Family, inspect.isfunction):
            if not method.startswith("_"):
                assert list(inspect.signature(getattr(module, method)).parameters) == [
                    p for p in inspect.signature(wanted).parameters if p != "self"
                ]
