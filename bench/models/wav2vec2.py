"""Wav2Vec2 with a CTC head (Baevski et al. 2020, arXiv:2006.11477): raw 16 kHz audio in, characters out.

A length is seconds of audio.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.models import Array, Checkpoint, Config, ModelError, Progress, _ctc
from bench.paths import ROOT, SHIPPED, SPEECH_CLIP
from bench.records import SAMPLE_RATE_HZ, InputKind, Transcription

if TYPE_CHECKING:
    from torch import nn

NAME = "wav2vec2"
TORCH_MODULES = ("transformers.models.wav2vec2.modeling_wav2vec2",)
RANDOM_SEED = 0

# The published architectures' sizes, from the configurations of facebook/wav2vec2-base-960h and -large-960h.
_BASE: dict[str, Any] = {
    "model_type": NAME,
    "architectures": ["Wav2Vec2ForCTC"],
    "vocab_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LARGE = {**_BASE, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ARCHITECTURES = {"base": _BASE, "large": _LARGE}
_VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
_PREPARATION = {"do_normalize": True, "sampling_rate": SAMPLE_RATE_HZ, "feature_size": 1, "padding_value": 0.0}

_DEMO = SHIPPED / "models" / "demo"
_DEMO_NOTE = "small; transcribes about 150 words of English, no network needed"


def _demo() -> tuple[Checkpoint, ...]:
    """The model that is shipped, where it was not taken away."""
    try:
        config = json.loads((_DEMO / "config.json").read_text())
    except OSError:
        return ()
    return (Checkpoint("demo", "Demo", NAME, "folder", str(_DEMO), _DEMO_NOTE, {**_BASE, **config}),)


_RANDOM_NOTE = "random weights: size and latency only, no network needed"
_HUB_NOTE = "trained on 960 h of LibriSpeech; downloaded once from the Hugging Face hub"
CHECKPOINTS = (
    *_demo(),
    Checkpoint("wav2vec2-base-random", "Wav2Vec2 base, random weights", NAME, "random", "base", _RANDOM_NOTE, _BASE),
    Checkpoint(
        "wav2vec2-large-random", "Wav2Vec2 large, random weights", NAME, "random", "large", _RANDOM_NOTE, _LARGE
    ),
    Checkpoint(
        "facebook/wav2vec2-base-960h",
        "Wav2Vec2 base 960h",
        NAME,
        "hub",
        "facebook/wav2vec2-base-960h",
        _HUB_NOTE,
        _BASE,
        download_bytes=378_000_000,
    ),
    Checkpoint(
        "facebook/wav2vec2-large-960h",
        "Wav2Vec2 large 960h",
        NAME,
        "hub",
        "facebook/wav2vec2-large-960h",
        _HUB_NOTE,
        _LARGE,
        download_bytes=1_262_000_000,
    ),
)
SKELETON_CODE = """import json

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

model = Wav2Vec2ForCTC(Wav2Vec2Config(**json.load(open("config.json")))).eval()
torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    with torch.inference_mode():
        x = torch.from_numpy(batch).to(next(model.parameters()).dtype)
        return model(x).logits.float().numpy()"""
LISTEN_CODE = """import json

import numpy as np
import soundfile

audio, rate = soundfile.read("speech.wav", dtype="float32")
assert rate == 16000 and audio.ndim == 1, "16 kHz, mono"
if json.load(open("preprocessor_config.json")).get("do_normalize", True):
    audio = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
logits = forward(audio[None].astype(np.float32))  # (1, frames, vocab)

blank = json.load(open("config.json"))["pad_token_id"]
letters = {i: t for t, i in json.load(open("vocab.json")).items() if len(t) == 1 and i != blank}
best = logits[0].argmax(-1)  # (frames,); greedy CTC: drop repeats, then blanks and what is no letter
kept = [letters.get(i, "") for i, was in zip(best, [-1, *best]) if i != was]
print(" ".join("".join(kept).replace("|", " ").split()))"""
# A repository's pytorch_model.bin is taken only for want of better; transformers reads it with weights_only=True.
_FILES = ("config.json", "vocab.json", "preprocessor_config.json", "model.safetensors")


def folder_checkpoint(folder: Path, config: Config) -> Checkpoint:
    """A local folder as a checkpoint. Raises ModelError for another head or missing weights."""
    heads = config.get("architectures") or []
    if "Wav2Vec2ForCTC" not in heads:
        raise ModelError(
            f"{folder} holds {', '.join(heads) or 'no named architecture'}. Allowed: Wav2Vec2ForCTC. A model without "
            "the CTC head gives no text; fine-tune it, or save it as Wav2Vec2ForCTC."
        )
    missing = [name for name in ("model.safetensors", "vocab.json") if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {' and '.join(missing)}. Save the model with model.save_pretrained(folder) "
            "and its processor with processor.save_pretrained(folder)."
        )
    if config.get("add_adapter"):
        raise ModelError(f"{folder} has an adapter on top of the encoder (add_adapter); that is not supported yet.")
    size = (folder / "model.safetensors").stat().st_size
    note = f"your folder, {size / 1e6:.0f} MB of weights"
    return Checkpoint(str(folder), folder.name, NAME, "folder", str(folder), note, {**_BASE, **config})


def identity(checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
    """(what the weights are, where they lie); a hub model is downloaded here, by its newest or its cached commit."""
    if checkpoint.source == "random":
        return f"{NAME} {checkpoint.where}, random weights, seed {RANDOM_SEED}", None
    if checkpoint.source == "hub":
        folder = _download(checkpoint.where, progress)
        return f"{checkpoint.where} at commit {folder.name}", folder
    folder = Path(checkpoint.where)
    progress("reading the folder")
    digest = hashlib.sha256()
    for name in _FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as f:
                digest.update(name.encode() + hashlib.file_digest(f, "sha256").digest())
    return f"folder {folder.name}, sha256 {digest.hexdigest()[:16]}", folder


def load(checkpoint: Checkpoint, folder: Path | None) -> nn.Module:
    """The float module in evaluation mode, its weight norm folded so that no pass computes it anew."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    model: nn.Module
    if folder is None:
        torch.manual_seed(RANDOM_SEED)
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**checkpoint.config))
    else:
        model = Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return _folded(model.eval())


def describe(checkpoint: Checkpoint, folder: Path | None) -> dict[str, str]:
    """Configuration, vocabulary and preparation as file texts."""
    if folder is None:
        vocabulary = {token: i for i, token in enumerate(_VOCABULARY)}
        texts: dict[str, Any] = {
            "config.json": dict(checkpoint.config),
            "vocab.json": vocabulary,
            "preprocessor_config.json": _PREPARATION,
        }
        return {name: json.dumps(content, indent=1) for name, content in texts.items()}
    preparation = folder / "preprocessor_config.json"
    return {
        # Complete, whatever the folder's own leaves to the defaults.
        "config.json": json.dumps({**checkpoint.config, **json.loads((folder / "config.json").read_text())}, indent=1),
        "vocab.json": (folder / "vocab.json").read_text(),
        "preprocessor_config.json": preparation.read_text() if preparation.is_file() else json.dumps(_PREPARATION),
    }


def skeleton(directory: Path) -> nn.Module:
    """The module on the meta device, weight norm folded, in evaluation mode."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = json.loads((directory / "config.json").read_text())
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**config))
    return _folded(model.eval())


def macs(config: Config, samples: int) -> dict[str, int]:
    """Multiply-accumulates of one pass at batch 1, by module; a test holds them equal to torch's own counter.

    Counted: convolutions, linear layers, and the two matrix products of attention (under the attention module's name).
    """
    out: dict[str, int] = {}
    frames, channels = samples, 1
    for i, (dim, kernel, stride) in enumerate(
        zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
    ):
        frames = (frames - kernel) // stride + 1
        out[f"wav2vec2.feature_extractor.conv_layers.{i}.conv"] = frames * dim * channels * kernel
        channels = dim
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    out["wav2vec2.feature_projection.projection"] = frames * channels * hidden
    kernel, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
    padded = frames + 1 - kernel % 2  # an even kernel, padded by half on both sides, gives one frame more
    out["wav2vec2.encoder.pos_conv_embed.conv"] = padded * hidden * (hidden // groups) * kernel
    for i in range(config["num_hidden_layers"]):
        layer = f"wav2vec2.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out[f"{layer}.attention.{name}"] = frames * hidden * hidden
        out[f"{layer}.attention"] = 2 * frames * frames * hidden
        out[f"{layer}.feed_forward.intermediate_dense"] = frames * hidden * wide
        out[f"{layer}.feed_forward.output_dense"] = frames * wide * hidden
    out["lm_head"] = frames * hidden * config["vocab_size"]
    return out


def parameters(config: Config) -> dict[str, int]:
    """Weights by part, biases and norms left out: what estimates of size and memory need."""
    channels = [1, *config["conv_dim"]]
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    kernel, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
    extractor = sum(i * o * k for i, o, k in zip(channels[:-1], config["conv_dim"], config["conv_kernel"], strict=True))
    linears = config["num_hidden_layers"] * (4 * hidden * hidden + 2 * hidden * wide) + channels[-1] * hidden
    return {
        "feature extractor": extractor,
        "positional conv": hidden * (hidden // groups) * kernel,
        "encoder linears": linears,
        "head": hidden * config["vocab_size"],
    }


def activation_bytes(config: Config, samples: int) -> int:
    """The first convolution's output is the largest: its input, its output and one copy live at once."""
    frames = samples // int(config["conv_stride"][0])
    return 3 * 4 * int(config["conv_dim"][0]) * frames


def part(name: str) -> str:
    """The part of the network that a module belongs to."""
    if ".feature_extractor." in name and name.endswith(".conv"):
        return "feature extractor"
    if ".pos_conv_embed." in name:
        return "positional conv"
    if name.startswith("lm_head"):
        return "head"
    if name.endswith(("_proj", "_dense", ".projection")):
        return "encoder linears"
    return "attention products" if name.endswith(".attention") else "norms and biases"


def inputs(length_s: float, batch: int, seed: int, kind: InputKind) -> Array:
    """Speech: the shipped clip, tiled, each row begun elsewhere in it. Noise: Gaussian. Zero mean, unit variance."""
    samples = round(length_s * SAMPLE_RATE_HZ)
    if kind == "noise":
        x = np.random.default_rng(seed).standard_normal((batch, samples), dtype=np.float32)
    else:
        clip, starts = _clip(), [0]
        if batch > 1:  # numpy's random numbers take 4 MB of a worker's memory
            starts += np.random.default_rng(seed).integers(0, len(clip), batch - 1).tolist()
        x = np.stack([np.resize(np.roll(clip, -start), samples) for start in starts])
    return _normalised(x)  # (batch, samples)


def prepare(audio: Array, preparation: Config) -> Array:
    """(samples,) float32 at 16 kHz -> (1, samples), zero mean and unit variance where the preparation asks for it.

    A test holds it equal to the Hugging Face feature extractor. Audio of any length, a single sample too.
    """
    x = np.ascontiguousarray(audio, dtype=np.float32)[None]  # (1, samples)
    return _normalised(x) if preparation.get("do_normalize", True) and x.size else x


def frontend(config: Config) -> tuple[Sequence[int], Sequence[int]]:
    """(kernels, strides) of the feature extractor."""
    return config["conv_kernel"], config["conv_stride"]


def decode(logits: Array, vocabulary: Mapping[str, int], config: Config) -> Transcription:
    """Greedy CTC; a frame lasts the product of the convolutions' strides. Details and errors: `_ctc.decode`."""
    return _ctc.decode(logits, vocabulary, config["pad_token_id"], math.prod(config["conv_stride"]) / SAMPLE_RATE_HZ)


def encode(text: str, vocabulary: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Text -> (tokens,), as `_ctc.encode`."""
    return _ctc.encode(text, vocabulary)


def code(checkpoint: Checkpoint) -> str:
    """Plain lines that load the float model as `model`, weight norm folded."""
    if checkpoint.source == "random":
        changed = {k: v for k, v in checkpoint.config.items() if k in _LARGE and v != _BASE[k]}
        sizes = ", ".join(f"{k}={v}" for k, v in changed.items())
        made = f"torch.manual_seed({RANDOM_SEED})\nmodel = Wav2Vec2ForCTC(Wav2Vec2Config({sizes})).eval()"
        imported = "Wav2Vec2Config, Wav2Vec2ForCTC"
    else:
        where = os.path.relpath(checkpoint.where, ROOT) if checkpoint.name == "demo" else checkpoint.where
        made = f"model = Wav2Vec2ForCTC.from_pretrained({where!r}, dtype=torch.float32).eval()"
        imported = "Wav2Vec2ForCTC"
    fold = "torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, 'weight')"
    return f"from transformers import {imported}\n\n{made}\n{fold}"


def _clip() -> Array:
    with wave.open(str(SPEECH_CLIP)) as f:  # 16 bits, mono; a worker needs no library for sound
        assert (f.getframerate(), f.getsampwidth(), f.getnchannels()) == (SAMPLE_RATE_HZ, 2, 1), SPEECH_CLIP
        return np.frombuffer(f.readframes(f.getnframes()), dtype="<i2").astype(np.float32) / np.float32(32768)


def _normalised(x: Array) -> Array:
    """Each row with zero mean and unit variance."""
    x = x - x.mean(axis=1, keepdims=True)
    x /= np.sqrt(x.var(axis=1, keepdims=True) + 1e-7)  # as the Hugging Face feature extractor has it
    return np.ascontiguousarray(x, dtype=np.float32)


def _folded(model: nn.Module) -> nn.Module:
    from torch.nn.utils import parametrize

    conv = model.get_submodule("wav2vec2.encoder.pos_conv_embed.conv")
    if parametrize.is_parametrized(conv, "weight"):
        parametrize.remove_parametrizations(conv, "weight")
    return model


def _download(repository: str, progress: Progress) -> Path:
    """The folder of a repository's newest commit, or of the commit that is cached where the hub can't be reached."""
    from huggingface_hub import list_repo_files, snapshot_download
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """Tells how far a download is, which is a sign of life too."""

        def update(self, n: float | None = 1) -> bool | None:
            done: bool | None = super().update(n)
            if self.unit == "B":
                progress(f"downloading {repository}: {self.n / 1e6:.0f} of {(self.total or self.n) / 1e6:.0f} MB")
            return done

    progress(f"downloading {repository}")
    try:
        offered = list_repo_files(repository)
        wanted = [name for name in _FILES if name in offered]
        if "model.safetensors" not in offered:
            wanted.append("pytorch_model.bin")
        return Path(snapshot_download(repository, allow_patterns=wanted, tqdm_class=Bar))
    except Exception as e:  # its HTTP library's errors have no common name with its own
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except Exception:
            raise ModelError(
                f"{repository} is not on this device yet and the Hugging Face hub can't be reached ({e}). Connect this "
                "device to the internet once and start again, copy the model into a folder and give the folder's path "
                "as the model, or choose a model with random weights."
            ) from e
