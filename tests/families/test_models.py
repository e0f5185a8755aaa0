"""Model families: work equal to torch's own counter, inputs, and names and folders that are refused with a sentence."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import families
from bench.core.paths import ROOT
from bench.families import catalogue, wav2vec2
from bench.families.family import Array, Family, ModelError
from bench.families.network import Dim, Network, Port, Profile, Work

BASE = "wav2vec2-base-random"
FAMILY = wav2vec2.FAMILY


def macs(config: Any, samples: int) -> dict[str, int]:
    """Multiply-accumulates by module as the family counts them."""
    return {work.module: work.macs for work in FAMILY.profile(config, samples / 16_000).works}


def inputs(length_s: float, batch: int, seed: int, kind: Any) -> Array:
    """(batch, samples)."""
    return FAMILY.inputs(length_s, batch, seed, kind, {})["x"]


def prepare(audio: Array, preparation: dict[str, Any]) -> Array:
    """(1, samples), as an artefact with this `preprocessor_config.json` asks for it."""
    return FAMILY.prepare(audio, {"preprocessor_config.json": preparation})["x"]


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
    exclusive = dict(flops)
    for name, total in flops.items():  # module lists are never called: the nearest one above that was has its FLOPs
        above = [n for n in flops if name.startswith(f"{n}.")]
        if above:
            exclusive[max(above, key=len)] -= total
    del exclusive["Global"]
    assert sum(exclusive.values()) == counter.get_total_flops() and not any(f % 2 for f in exclusive.values())
    return {name.partition(".")[2]: f // 2 for name, f in exclusive.items() if f}


@pytest.mark.parametrize("length_s", [1.0, 5.0, 7.3])
def test_macs_equal_torchs_own_counter(length_s: float) -> None:
    config = catalogue.find(BASE).config
    samples = round(length_s * 16_000)
    assert macs(config, samples) == counted(dict(config), samples)


def test_macs_of_another_shape_equal_torchs_own_counter() -> None:
    config = dict(
        catalogue.find("wav2vec2-large-random").config,
        num_hidden_layers=2,
        num_conv_pos_embeddings=19,  # odd: no frame is cut off after it
        conv_dim=[48, 64],
        conv_kernel=[7, 4],
        conv_stride=[5, 3],
        num_feat_extract_layers=2,
        vocab_size=40,
    )
    assert macs(config, 12_345) == counted(config, 12_345)


def test_parameters_are_the_weights_of_the_real_module() -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    for name in (BASE, "wav2vec2-large-random"):
        config = catalogue.find(name).config
        with torch.device("meta"):
            module = wav2vec2._folded(Wav2Vec2ForCTC(Wav2Vec2Config(**config)))
        profile = FAMILY.profile(config, 1.0)
        by_module, parts = {}, set()
        for work in profile.works:
            weight = getattr(module.get_submodule(work.module), "weight", None)
            assert (weight is None) == (work.kind == "attention")
            by_module[work.module] = 0 if weight is None else weight.numel()
            parts.add(work.part)
        assert {work.module: work.parameters for work in profile.works} == by_module
        assert profile.parameters == sum(by_module.values())
        assert parts == {"feature extractor", "positional conv", "encoder linears", "head", "attention products"}


def test_modules_are_of_the_part_and_kind_that_they_are() -> None:
    works = {work.module: work for work in FAMILY.profile(catalogue.find(BASE).config, 1.0).works}
    for module, part, kind in (
        ("wav2vec2.feature_extractor.conv_layers.0.conv", "feature extractor", "convolution"),
        ("wav2vec2.feature_projection.projection", "encoder linears", "linear"),
        ("wav2vec2.encoder.pos_conv_embed.conv", "positional conv", "grouped convolution"),
        ("wav2vec2.encoder.layers.11.attention.q_proj", "encoder linears", "linear"),
        ("wav2vec2.encoder.layers.11.attention", "attention products", "attention"),
        ("wav2vec2.encoder.layers.11.feed_forward.output_dense", "encoder linears", "linear"),
        ("lm_head", "head", "linear"),
    ):
        assert (works[module].network, works[module].part, works[module].kind) == ("model", part, kind)


def test_the_sums_of_a_profile() -> None:
    works = (
        Work("encoder", "embed", "embeddings", "embedding", 0, 40),
        Work("encoder", "up", "linears", "linear", 300, 30),
        Work("decoder", "attention", "attention products", "attention", 7, 0),
    )
    profile = Profile(works, activation_bytes=5)
    assert (profile.macs, profile.parameters) == (307, 70)
    assert (Profile((), 0).macs, Profile((), 0).parameters) == (0, 0)


def test_activation_bytes_are_three_copies_of_the_first_convolutions_output() -> None:
    # 5 s are 80,000 samples, of which the first convolution makes 16,000 frames of 512 float32 numbers.
    assert FAMILY.profile(catalogue.find(BASE).config, 5.0).activation_bytes == 3 * 4 * 512 * 16_000


# --- inputs


@pytest.mark.parametrize("kind", ["speech", "noise"])
def test_inputs(kind: Any) -> None:
    x = inputs(7.3, 3, 5, kind)
    assert x.shape == (3, 116_800) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, inputs(7.3, 3, 5, kind))
    assert np.abs(x.astype(np.float64).mean(axis=1)).max() < 1e-4
    np.testing.assert_allclose(x.astype(np.float64).var(axis=1), 1, atol=1e-3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(x[i] - x[j]).max() > 1
    assert np.abs(inputs(7.3, 3, 6, kind)[2] - x[2]).max() > 1  # another seed, another row


def test_speech_longer_than_the_clip_is_the_clip_again() -> None:
    x = inputs(12.0, 1, 0, "speech")[0]
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
    ours = prepare(audio, preparation)
    assert ours.shape == theirs.shape == (1, samples) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_preparation_normalises_where_nothing_is_said_and_leaves_the_audio_alone() -> None:
    audio = np.array([1, 2, 3], dtype=np.float32)
    np.testing.assert_allclose(prepare(audio, {}), [[-(1.5**0.5), 0, 1.5**0.5]], atol=1e-6)  # the variance is 2/3
    np.testing.assert_array_equal(audio, [1, 2, 3])
    assert prepare(audio[:0], {}).shape == (1, 0)
    np.testing.assert_array_equal(prepare(np.full(500, 0.5, np.float32), {}), np.zeros((1, 500)))  # silence


# --- names


def test_every_named_checkpoint_is_found_by_its_name() -> None:
    for checkpoint in catalogue.catalogue():
        assert catalogue.find(checkpoint.name) is checkpoint
        assert catalogue.exists(checkpoint.name)
        parameters = catalogue.family(checkpoint).profile(checkpoint.config, 1.0).parameters
        if checkpoint.family == "wav2vec2":
            assert parameters > (3e6 if checkpoint.name == "demo" else 90e6)
        assert (checkpoint.download_bytes > 0) == (checkpoint.source == "hub")


def test_unknown_name() -> None:
    with pytest.raises(ModelError) as e:
        catalogue.find("wav2vec3")
    assert "no model or folder “wav2vec3”" in str(e.value)
    for checkpoint in catalogue.catalogue():
        assert checkpoint.name in str(e.value)
    assert not catalogue.exists("wav2vec3")


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
            r"holds WhisperForConditionalGeneration \(model_type 'whisper'\)\. Allowed: a Wav2Vec2ForCTC in Hugging",
        ),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForPreTraining"]},
            ("model.safetensors", "vocab.json"),
            r"holds Wav2Vec2ForPreTraining\. Allowed: Wav2Vec2ForCTC",
        ),
        ({"model_type": "wav2vec2"}, (), r"holds no named architecture\. Allowed: Wav2Vec2ForCTC"),
        ({}, (), r"holds a model \(model_type None\)"),
        ([1, 2], (), r"config\.json is no JSON object\. Save the model again"),
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
        catalogue.find(folder(tmp_path / "mine", config, *files))
    assert str(tmp_path / "mine") in str(e.value)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no readable config\.json"):
        catalogue.find(str(tmp_path))


def test_a_good_folder(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 192}
    name = folder(tmp_path / "mine", config, "model.safetensors", "vocab.json")
    checkpoint = catalogue.find(name)
    shown = (checkpoint.source, checkpoint.where, checkpoint.label, checkpoint.download_bytes)
    assert shown == ("folder", name, "mine", 0)
    assert checkpoint.config["hidden_size"] == 192
    assert checkpoint.config["num_hidden_layers"] == 12  # what a configuration leaves out is the usual number
    identity, where = FAMILY.identity(checkpoint, lambda _: None)
    assert where == Path(name) and "folder mine, sha256" in identity
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"y" * 1000)
    assert FAMILY.identity(checkpoint, lambda _: None)[0] != identity


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: whole numbers from 1 to 200"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is 1000"),
        ({"num_hidden_layers": "12" * 10**6}, "num_hidden_layers is '1212"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; allowed"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; allowed"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; allowed"),
        ({"num_hidden_layers": 12.0}, r"num_hidden_layers is 12\.0; allowed"),
        ({"num_hidden_layers": float("inf")}, "num_hidden_layers is inf; allowed"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None; allowed"),
        ({"num_hidden_layers": "12"}, "num_hidden_layers is '12'; allowed"),
        ({"num_hidden_layers": [12]}, r"num_hidden_layers is \[12\]; allowed: a single number"),
        ({"num_hidden_layers": {}}, r"num_hidden_layers is \{\}; allowed"),
        ({"hidden_size": [768]}, r"hidden_size is \[768\]; allowed: a single number"),
        ({"hidden_size": 100}, "hidden_size is 100, which is no multiple of num_attention_heads, 12"),
        ({"hidden_size": 60}, "hidden_size is 60, which is no multiple of num_conv_pos_embedding_groups, 16"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000; allowed"),
        ({"vocab_size": 10**9}, "vocab_size is 1000000000; allowed"),
        ({"intermediate_size": 10**9}, "intermediate_size is 1000000000; allowed"),
        ({"pad_token_id": -1}, "pad_token_id is -1; allowed: whole numbers from 0"),
        (
            {"conv_dim": [512] * 6},
            r"lists .* for conv_dim, .* for conv_kernel, .* for conv_stride\. Allowed: lists of one",
        ),
        ({"conv_kernel": [3] * 8}, "Allowed: lists of one length"),
        ({"conv_stride": [2]}, "Allowed: lists of one length"),
        ({"conv_dim": 512}, "Allowed: lists of one length"),
        ({"conv_dim": [512] * 6 + [True]}, "conv_dim is True; allowed"),
        ({"conv_dim": [512] * 6 + [10**9]}, "conv_dim is 1000000000; allowed"),
        ({"conv_dim": [512] * 6 + [[512]]}, r"conv_dim is \[512\]; allowed"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 2.0]}, r"conv_stride is 2\.0; allowed"),
        ({"conv_stride": [0, 2, 2, 2, 2, 2, 2]}, "conv_stride is 0; allowed"),
        ({"conv_dim": [], "conv_kernel": [], "conv_stride": []}, "lists 0 numbers for conv_dim; allowed: 1 to 64"),
        ({"conv_dim": [2] * 10**5}, "lists 100000 numbers for conv_dim; allowed: 1 to 64"),
        (
            {"conv_dim": [8] * 64, "conv_kernel": [1024] * 64, "conv_stride": [1024] * 64},
            "so many samples for a frame that 1 s gives none",
        ),
        ({"conv_kernel": [1] * 7, "conv_stride": [5] * 7}, "so many samples for a frame that 1 s gives none"),
        ({"conv_kernel": [1024] * 7}, "so many samples for a frame that 1 s gives none"),
    ],
)
def test_numbers_of_a_configuration_are_bounded_before_anything_computes_with_them(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], **changes}
    name = folder(tmp_path / "mine", config, "model.safetensors", "vocab.json")
    begun = time.monotonic()
    with pytest.raises(ModelError, match=sentence) as e:
        catalogue.find(name)
    assert time.monotonic() - begun < 1
    assert str(e.value).startswith(f"{name}: config.json ") and str(e.value).endswith(".")
    assert len(str(e.value)) < 1000


def test_configurations_of_published_models_are_within_the_bounds(tmp_path: Path) -> None:
    for checkpoint in catalogue.catalogue():
        catalogue.family(checkpoint).check(checkpoint.config, checkpoint.name)
    for changes in (
        {
            "hidden_size": 1280,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
        },  # XLS-R 1B
        {"hidden_size": 1920, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 7680},  # 2B
        {"vocab_size": 10_000, "pad_token_id": 9_999},
    ):
        config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], **changes}
        assert catalogue.exists(folder(tmp_path / "mine", config, "model.safetensors", "vocab.json"))


def test_what_an_artefact_carries_is_complete(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 192}
    name = folder(tmp_path / "mine", config, "model.safetensors")
    (tmp_path / "mine" / "vocab.json").write_text('{"A": 0}')
    checkpoint = catalogue.find(name)
    contents = FAMILY.describe(checkpoint, Path(name))
    assert set(contents) == set(FAMILY.FILES) and all(isinstance(content, bytes) for content in contents.values())
    files = FAMILY.parse_files(contents)
    assert files["vocab.json"] == {"A": 0}
    assert files["preprocessor_config.json"]["sampling_rate"] == 16_000
    written = files["config.json"]
    assert written["hidden_size"] == 192
    assert macs(written, 16_000) == macs(checkpoint.config, 16_000)
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
    assert FAMILY.read_files(tmp_path) == files
    (network,) = FAMILY.read_networks(tmp_path)
    assert network.outputs[0].shape[-1] == 32


# --- networks


BATCH, TOKENS = Dim("batch"), Dim("tokens", 1)
DECODER = Network(
    "decoder",
    inputs=(
        Port("token", "int64", (BATCH, 1)),
        Port("keys", "float32", (BATCH, TOKENS, 8)),
        Port("past", "float32", (BATCH, Dim("past", 0), 8)),
        Port("cross", "float16", (2, BATCH, TOKENS)),
        Port("position", "int64", (Dim("some", 3, 9),)),
    ),
    outputs=(
        Port("position_after", "int64", (Dim("some", 3, 9),)),
        Port("logits", "float32", (BATCH, 1, 100)),
        Port("present", "float32", (BATCH, Dim("past_and_one"), 8)),
        Port("cross_after", "float16", (2, BATCH, TOKENS)),
    ),
    example={},
    state=(("present", "past"), ("cross_after", "cross"), ("position_after", "position")),
)


def test_what_is_fed_back_is_no_free_input_or_output() -> None:
    assert [port.name for port in DECODER.free_inputs] == ["token", "keys"]
    assert [port.name for port in DECODER.free_outputs] == ["logits"]
    stateless = DECODER.stateless()
    assert stateless.free_inputs == DECODER.inputs and stateless.free_outputs == DECODER.outputs
    assert (stateless.name, stateless.example, stateless.state) == ("decoder", DECODER.example, ())


def test_a_state_begins_as_zeros_of_the_feeds_sizes() -> None:
    feed = {"token": np.ones((4, 1), np.int64), "keys": np.ones((4, 7, 8), np.float32)}
    first = DECODER.first_state(feed)
    assert {name: (x.shape, x.dtype.name) for name, x in first.items()} == {
        "past": ((4, 0, 8), "float32"),  # a batch as long as the feed's, a cache as short as it may be
        "cross": ((2, 4, 7), "float16"),  # as many tokens as the feed's
        "position": ((3,), "int64"),  # a dimension that the feed doesn't have
    }
    assert not any(x.any() for x in first.values())


def test_the_smallest_feed_has_the_free_inputs_alone() -> None:
    smallest = DECODER.smallest()
    assert {name: (x.shape, x.dtype.name) for name, x in smallest.items()} == {
        "token": ((1, 1), "int64"),
        "keys": ((1, 1, 8), "float32"),
    }
    assert not any(x.any() for x in smallest.values())
    (network,) = FAMILY.networks(catalogue.find(BASE).config)
    assert {name: (x.shape, x.dtype.name) for name, x in network.smallest().items()} == {"x": ((1, 720), "float32")}
    # A dimension may begin at 0, and a pass takes one at least.
    empty = Network("n", (Port("x", "float32", (Dim("rows", 0), Dim("columns", 5, 9))),), (), {})
    assert empty.smallest()["x"].shape == (1, 5)


def test_the_network_of_wav2vec2() -> None:
    (network,) = FAMILY.networks(catalogue.find(BASE).config)
    assert (network.name, network.state) == ("model", ())
    assert [(port.name, port.dtype) for port in network.free_inputs] == [("x", "float32")]
    assert [(port.name, port.dtype) for port in network.free_outputs] == [("logits", "float32")]
    assert network.example["x"].dtype == np.float32 and min(network.example["x"].shape) > 1
    assert network.sensitive == tuple(f"wav2vec2.feature_extractor.conv_layers.{i}.conv" for i in range(7))


def test_sizes_are_seconds() -> None:
    feed = {"x": np.arange(48_000, dtype=np.float32)[None]}
    assert FAMILY.size(feed) == 3
    np.testing.assert_array_equal(FAMILY.crop(feed, 0.5)["x"], np.arange(8_000, dtype=np.float32)[None])
    assert FAMILY.crop(feed, 10.0)["x"].shape == (1, 48_000)
    assert FAMILY.steps(catalogue.find(BASE).config, 5.0).count == 0


def test_a_hub_model_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "from bench.families import catalogue as models\nfrom bench.families.family import ModelError\n"
        "c = models.find('facebook/wav2vec2-base-960h')\n"
        "try:\n    models.family(c).identity(c, print)\n"
        "except ModelError as e:\n    print('REFUSED', e)"
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
    shared = {"__init__", "catalogue", "ctc", "family", "longform", "network", "session"}
    names = {f.stem for f in (ROOT / "bench" / "families").glob("*.py")} - shared
    assert names and names == set(families.ORDER)
    assert list(families.families().values()) == [
        importlib.import_module(f"bench.families.{name}").FAMILY for name in families.ORDER
    ]
    for name, family in families.families().items():
        assert isinstance(family, Family) and name == family.NAME
        assert all(hasattr(family, attribute) for attribute in Family.__annotations__)
        assert all(c.family == name for c in family.CHECKPOINTS)
        assert "config.json" in family.FILES and set(family.BOUNDS)
        axis = family.AXIS
        assert axis.low <= min(axis.defaults) and max(axis.sweep) <= axis.high
        assert axis.low <= family.COVERAGE_SIZE <= axis.high
        for method, declared in inspect.getmembers(Family, inspect.isfunction):
            if not method.startswith("_"):
                assert inspect.signature(getattr(type(family), method)).parameters.keys() == (
                    inspect.signature(declared).parameters.keys()
                )
