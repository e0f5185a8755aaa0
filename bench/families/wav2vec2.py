"""Wav2Vec2 with a CTC head (Baevski et al. 2020, arXiv:2006.11477): raw 16 kHz audio in, characters out.

A length is seconds of audio.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.core.paths import ROOT, SHIPPED, SPEECH_CLIP
from bench.core.records import Transcription
from bench.core.specs import LENGTH, SAMPLE_RATE_HZ, InputKind
from bench.families import ctc, longform
from bench.families.family import CONFIG_FILE, Array, Checkpoint, Config, Family, Files, ModelError, Progress, Support
from bench.families.network import Dim, Feed, Kind, Mark, Network, Port, Profile, Steps, Stop, Work
from bench.families.session import Opened
from bench.families.tasks.transcription import TRANSCRIPTION

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "wav2vec2"
MODEL = "model"  # the network's name
RANDOM_SEED = 0

# The sizes of the published architectures, from the configurations of facebook/wav2vec2-base-960h and -large-960h.
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
    """Return the shipped model, or nothing if it was removed."""
    try:
        config = json.loads((_DEMO / "config.json").read_text())
    except OSError:
        return ()
    return (Checkpoint("demo", "Demo", NAME, "folder", str(_DEMO), _DEMO_NOTE, {**_BASE, **config}),)


_RANDOM_NOTE = "random weights: size and latency only, no network needed"
_HUB_NOTE = "trained on 960 h of LibriSpeech; downloaded once from the Hugging Face hub"
CHECKPOINTS = (
    *_demo(),
    Checkpoint(
        "wav2vec2-base-random",
        "Wav2Vec2 base, random weights",
        NAME,
        "random",
        "base",
        _RANDOM_NOTE,
        _BASE,
        showcase=True,
    ),
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
_SKELETON_CODE = """import json

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

model = Wav2Vec2ForCTC(Wav2Vec2Config(**json.load(open("config.json")))).eval()
torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    with torch.inference_mode():
        x = torch.from_numpy(batch).to(next(model.parameters()).dtype)
        return model(x).logits.float().numpy()"""
_RUN_CODE = """import json

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
_LISTS = ("conv_dim", "conv_kernel", "conv_stride")  # one number per convolution
# pytorch_model.bin is used only if a repository has no safetensors; transformers reads it with weights_only=True.
_FILES = ("config.json", "vocab.json", "preprocessor_config.json", "model.safetensors")
_SAMPLES = Dim("samples", 720)  # at least 720, which give two frames
_TRACED = (2, 16_000)  # batch, samples


class Wav2Vec2(Family):
    """See the module."""

    NAME = NAME
    TASK = TRANSCRIPTION
    AXIS = LENGTH
    CHECKPOINTS = CHECKPOINTS
    SUPPORTS = (Support(NAME, "Wav2Vec2ForCTC", ("model.safetensors", "vocab.json")),)
    FILES = (CONFIG_FILE, "vocab.json", "preprocessor_config.json")
    BOUNDS: ClassVar[Mapping[str, tuple[int, int]]] = {
        "vocab_size": (1, 1_000_000),
        "hidden_size": (1, 16_384),
        "num_hidden_layers": (1, 200),
        "num_attention_heads": (1, 256),
        "intermediate_size": (1, 65_536),
        "conv_dim": (1, 8_192),
        "conv_kernel": (1, 1_024),
        "conv_stride": (1, 1_024),
        "num_conv_pos_embeddings": (1, 4_096),
        "num_conv_pos_embedding_groups": (1, 4_096),
        "pad_token_id": (0, 1_000_000),
    }
    TORCH_MODULES = ("transformers.models.wav2vec2.modeling_wav2vec2",)
    TORCH_OPTIONAL = ("scipy", "torchao", "soundfile", "jinja2")  # losses, quantizers, audio files, chat templates
    COVERAGE_SIZE = 5.0
    LONGEST_SIZE = longform.CHUNK_S
    CALIBRATION_SIZE = 10.0  # s; all activations of a pass are held in memory at once
    SKELETON_CODE = _SKELETON_CODE
    RUN_CODE = _RUN_CODE

    # --- checkpoints

    def check(self, config: Config, what: str) -> None:
        """See Family; also checks that the sizes are consistent."""
        super().check(config, what)
        if config.get("add_adapter"):
            raise ModelError(f"{what} has an adapter on top of the encoder (add_adapter); that is not supported yet.")
        kernels, strides = config["conv_kernel"], config["conv_stride"]
        for name in self.BOUNDS:
            if name not in _LISTS and isinstance(config[name], (list, tuple)):
                raise ModelError(
                    f"{what}: config.json says {name} is {config[name]}; allowed: a single number. Correct the file."
                )
        if (
            not all(isinstance(config[name], (list, tuple)) for name in _LISTS)
            or len({len(config[n]) for n in _LISTS}) > 1
        ):
            raise ModelError(
                f"{what}: config.json lists {', '.join(f'{config[n]} for {n}' for n in _LISTS)}. Allowed: lists of one "
                "length, a number for each convolution. Correct the file."
            )
        if max(longform.receptive_field(kernels, strides), math.prod(strides)) > SAMPLE_RATE_HZ:
            raise ModelError(
                f"{what}: config.json has convolutions (conv_kernel {kernels}, conv_stride {strides}) that take so "
                "many samples for a frame that 1 s gives none. Correct the file."
            )
        for divisor in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if config["hidden_size"] % config[divisor]:
                raise ModelError(
                    f"{what}: config.json says hidden_size is {config['hidden_size']}, which is no multiple of "
                    f"{divisor}, {config[divisor]}. Correct the file."
                )

    def open_folder(self, folder: Path, config: Config) -> Checkpoint:
        """See Family."""
        missing = [name for name in self.SUPPORTS[0].files if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {' and '.join(missing)}. Save the model with model.save_pretrained(folder) "
                "and its processor with processor.save_pretrained(folder)."
            )
        size = (folder / "model.safetensors").stat().st_size
        note = f"your folder, {size / 1e6:.0f} MB of weights"
        return Checkpoint(str(folder), folder.name, NAME, "folder", str(folder), note, {**_BASE, **config})

    def identity(self, checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
        """See Family; downloads a hub model, at its newest commit or, if the hub can't be reached, its cached one."""
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

    def load(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, nn.Module]:
        """See Family. Weight norm is folded, so that passes don't recompute it."""
        import torch
        from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

        model: nn.Module
        if folder is None:
            torch.manual_seed(RANDOM_SEED)
            model = Wav2Vec2ForCTC(Wav2Vec2Config(**checkpoint.config))
        else:
            model = Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        return {MODEL: _folded(model.eval())}

    def describe(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, bytes]:
        """Return the configuration, the vocabulary and the preprocessor configuration."""
        texts: dict[str, str]
        if folder is None:
            contents: dict[str, Any] = {
                "config.json": dict(checkpoint.config),
                "vocab.json": {token: i for i, token in enumerate(_VOCABULARY)},
                "preprocessor_config.json": _PREPARATION,
            }
            texts = {name: json.dumps(content, indent=1) for name, content in contents.items()}
        else:
            preparation = folder / "preprocessor_config.json"
            config = {**checkpoint.config, **json.loads((folder / "config.json").read_text())}
            texts = {
                "config.json": json.dumps(config, indent=1),  # complete, with the defaults that the folder's file omits
                "vocab.json": (folder / "vocab.json").read_text(),
                "preprocessor_config.json": (
                    preparation.read_text() if preparation.is_file() else json.dumps(_PREPARATION)
                ),
            }
        return {name: text.encode() for name, text in texts.items()}

    def skeleton(self, directory: Path) -> dict[str, nn.Module]:
        """See Family; weight norm folded."""
        import torch
        from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

        config = json.loads((directory / CONFIG_FILE).read_text())
        with torch.device("meta"):
            model = Wav2Vec2ForCTC(Wav2Vec2Config(**config))
        return {MODEL: _folded(model.eval())}

    def code(self, checkpoint: Checkpoint) -> str:
        """See Family."""
        if checkpoint.source == "random":
            changed = {k: v for k, v in checkpoint.config.items() if k in _LARGE and v != _BASE[k]}
            sizes = ", ".join(f"{k}={v}" for k, v in changed.items())
            creation = f"torch.manual_seed({RANDOM_SEED})\nmodel = Wav2Vec2ForCTC(Wav2Vec2Config({sizes})).eval()"
            imports = "Wav2Vec2Config, Wav2Vec2ForCTC"
        else:
            where = os.path.relpath(checkpoint.where, ROOT) if checkpoint.name == "demo" else checkpoint.where
            creation = f"model = Wav2Vec2ForCTC.from_pretrained({where!r}, dtype=torch.float32).eval()"
            imports = "Wav2Vec2ForCTC"
        fold = (
            "torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, 'weight')"
        )
        return f"from transformers import {imports}\n\n{creation}\n{fold}"

    def example_code(self, size: float, batch: int) -> str:
        """See Family."""
        samples = round(size * SAMPLE_RATE_HZ)
        return f"audio = torch.randn({batch}, {samples})  # {size:g} s at {SAMPLE_RATE_HZ // 1000} kHz"

    # --- the network

    def networks(self, config: Config) -> tuple[Network, ...]:
        """One network: x (batch, samples) -> logits (batch, frames, vocab), float32."""
        convolutions = range(len(config["conv_dim"]))
        return (
            Network(
                MODEL,
                inputs=(Port("x", "float32", (Dim("batch"), _SAMPLES)),),
                outputs=(Port("logits", "float32", (Dim("batch"), Dim("frames"), config["vocab_size"])),),
                example={"x": np.zeros(_TRACED, np.float32)},
                sensitive=tuple(f"wav2vec2.feature_extractor.conv_layers.{i}.conv" for i in convolutions),
            ),
        )

    def profile(self, config: Config, size: float) -> Profile:
        """See Family; a test checks that the multiply-accumulates equal torch's own counter.

        Counted: convolutions, linear layers, and the two matrix products of attention (under the attention module).
        """
        samples = round(size * SAMPLE_RATE_HZ)
        works: list[Work] = []

        def add(module: str, part: str, kind: Kind, times: int, parameters: int) -> None:
            works.append(Work(MODEL, module, part, kind, times * (parameters or 1), parameters))

        frames, channels = samples, 1
        for i, (dim, kernel, stride) in enumerate(
            zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
        ):
            frames = (frames - kernel) // stride + 1
            module = f"wav2vec2.feature_extractor.conv_layers.{i}.conv"
            add(module, "feature extractor", "convolution", frames, dim * channels * kernel)
            channels = dim
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        add("wav2vec2.feature_projection.projection", "encoder linears", "linear", frames, channels * hidden)
        kernel, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
        padded = frames + 1 - kernel % 2  # an even kernel with symmetric padding gives one frame more
        positional = hidden * (hidden // groups) * kernel
        add("wav2vec2.encoder.pos_conv_embed.conv", "positional conv", "grouped convolution", padded, positional)
        for i in range(config["num_hidden_layers"]):
            layer = f"wav2vec2.encoder.layers.{i}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                add(f"{layer}.attention.{name}", "encoder linears", "linear", frames, hidden * hidden)
            add(f"{layer}.attention", "attention products", "attention", 2 * frames * frames * hidden, 0)
            for name in ("intermediate_dense", "output_dense"):
                add(f"{layer}.feed_forward.{name}", "encoder linears", "linear", frames, hidden * wide)
        add("lm_head", "head", "linear", frames, hidden * config["vocab_size"])
        # The first convolution's output is the largest tensor: input, output and one copy exist at the same time.
        first = samples // int(config["conv_stride"][0])
        return Profile(tuple(works), activation_bytes=3 * 4 * int(config["conv_dim"][0]) * first)

    # --- passes

    def inputs(self, size: float, batch: int, seed: int, kind: InputKind, files: Files) -> Feed:
        """Return x: (batch, samples), zero mean, unit variance.

        Speech: the shipped clip, repeated, with a different start for each row. Noise: Gaussian.
        """
        samples = round(size * SAMPLE_RATE_HZ)
        if kind == "noise":
            x = np.random.default_rng(seed).standard_normal((batch, samples), dtype=np.float32)
        else:
            clip, starts = _clip(), [0]
            if batch > 1:  # importing numpy's random generator takes 4 MB of a worker's memory
                starts += np.random.default_rng(seed).integers(0, len(clip), batch - 1).tolist()
            x = np.stack([np.resize(np.roll(clip, -start), samples) for start in starts])
        return {"x": _normalised(x)}

    def prepare(self, example: Array, files: Files) -> Feed:
        """(samples,) float32 at 16 kHz -> x (1, samples), with zero mean and unit variance if `do_normalize` is set.

        A test checks that it equals the Hugging Face feature extractor. Any length is allowed, even a single sample.
        """
        x = np.ascontiguousarray(example, dtype=np.float32)[None]  # (1, samples)
        normalise = files["preprocessor_config.json"].get("do_normalize", True)
        return {"x": _normalised(x) if normalise and x.size else x}

    def size(self, feed: Feed) -> float:
        """Return seconds."""
        return float(feed["x"].shape[1] / SAMPLE_RATE_HZ)

    def crop(self, feed: Feed, size: float) -> Feed:
        """See Family."""
        return {"x": feed["x"][:, : round(size * SAMPLE_RATE_HZ)]}

    def run(self, networks: Mapping[str, Opened], feed: Feed, files: Files, stop: Stop, mark: Mark) -> Feed:
        """See Family. The logits of a real example longer than `LONGEST_SIZE` are joined: (frames, vocab)."""
        forward = networks[MODEL].start()
        if isinstance(stop, Steps):
            return forward(feed)
        kernels, strides = files[CONFIG_FILE]["conv_kernel"], files[CONFIG_FILE]["conv_stride"]
        logits = longform.logits(lambda x: forward({"x": x})["logits"], feed["x"], kernels, strides, stop.progress)
        return {"logits": logits}

    def predict(self, outputs: Feed, files: Files) -> Transcription:
        """Decode by greedy CTC; a frame lasts the product of the strides, in samples. Details, errors: `ctc.decode`."""
        config = files[CONFIG_FILE]
        frame_s = math.prod(config["conv_stride"]) / SAMPLE_RATE_HZ
        return ctc.decode(outputs["logits"], files["vocab.json"], config["pad_token_id"], frame_s)

    # --- tuning

    def encode(self, target: str, files: Files) -> npt.NDArray[np.int64]:
        """Text -> (tokens,), see `ctc.encode`."""
        return ctc.encode(target, files["vocab.json"])

    def loss(self, models: Mapping[str, nn.Module], feed: Feed, target: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return one clip's CTC loss divided by its number of characters; target (tokens,)."""
        import torch

        model = models[MODEL]
        blank: Any = getattr(model.config, "pad_token_id")  # noqa: B009
        return ctc.loss(model(torch.from_numpy(feed["x"])).logits, target, blank)


FAMILY = Wav2Vec2()


def _clip() -> Array:
    with wave.open(str(SPEECH_CLIP)) as f:  # 16 bits, mono; needs no audio library in a worker
        assert (f.getframerate(), f.getsampwidth(), f.getnchannels()) == (SAMPLE_RATE_HZ, 2, 1), SPEECH_CLIP
        return np.frombuffer(f.readframes(f.getnframes()), dtype="<i2").astype(np.float32) / np.float32(32768)


def _normalised(x: Array) -> Array:
    """Normalise each row to zero mean and unit variance."""
    x = x - x.mean(axis=1, keepdims=True)
    x /= np.sqrt(x.var(axis=1, keepdims=True) + 1e-7)  # the Hugging Face feature extractor's epsilon
    return np.ascontiguousarray(x, dtype=np.float32)


def _folded(model: nn.Module) -> nn.Module:
    from torch.nn.utils import parametrize

    conv = model.get_submodule("wav2vec2.encoder.pos_conv_embed.conv")
    if parametrize.is_parametrized(conv, "weight"):
        parametrize.remove_parametrizations(conv, "weight")
    return model


def _download(repository: str, progress: Progress) -> Path:
    """Return the folder of a repository's newest commit, or of the cached one if the hub can't be reached."""
    from huggingface_hub import list_repo_files, snapshot_download
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """Reports download progress, which also serves as a heartbeat."""

        def update(self, n: float | None = 1) -> bool | None:
            done: bool | None = super().update(n)
            if self.unit == "B":
                progress(f"downloading {repository}: {self.n / 1e6:.0f} of {(self.total or self.n) / 1e6:.0f} MB")
            return done

    progress(f"downloading {repository}")
    try:
        available = list_repo_files(repository)
        names = [name for name in _FILES if name in available]
        if "model.safetensors" not in available:
            names.append("pytorch_model.bin")
        return Path(snapshot_download(repository, allow_patterns=names, tqdm_class=Bar))
    except Exception as e:  # the hub's errors and its HTTP library's share no base class
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except Exception:
            raise ModelError(
                f"{repository} is not on this device yet and the Hugging Face hub can't be reached ({e}). Connect this "
                "device to the internet once and start again, copy the model into a folder and give the folder's path "
                "as the model, or choose a model with random weights."
            ) from e
