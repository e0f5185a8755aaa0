"""A family that is no speech model: tokens in, the next token out, by an encoder and a decoder that keeps a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.scoring import Errors
from bench.core.specs import Axis, InputKind
from bench.families.family import CONFIG_FILE, Checkpoint, Config, Family, Files, Progress
from bench.families.network import Dim, Feed, Kind, Mark, Network, Port, Profile, Steps, Stop, Work
from bench.families.session import Opened
from bench.families.tasks.task import Counts, Example, Metric, Task

if TYPE_CHECKING:
    from torch import nn

VOCABULARY, WIDTH, STEPS, SEED = 128, 64, 20, 0
CONFIG = {"model_type": "toy", "vocab_size": VOCABULARY, "width": WIDTH}


class NextToken(Task):
    """Errors are tokens that differ from what comes next."""

    NAME, VERB, METRICS = "next token", "predicts the next token", (Metric("top1", "Top-1 error", "tokens"),)

    def count(self, target: Any, output: Any, normaliser: str) -> Counts:
        right = sum(a == b for a, b in zip(target, output, strict=True))
        return {"top1": Errors(hits=right, substitutions=len(target) - right)}

    def output_from(self, stored: Any) -> Any:
        return tuple(stored)

    def examples(self, where: str, limit: int) -> Sequence[Example]:
        def tokens(seed: int) -> Any:
            return np.random.default_rng(seed).integers(0, VOCABULARY, 12)

        return [
            Example(str(i), hashlib.sha256(tokens(i).tobytes()).hexdigest(), lambda i=i: tokens(i), ())  # type: ignore[misc]
            for i in range(limit or 16)
        ]


class Toy(Family):
    """See the module."""

    NAME, TASK = "toy", NextToken()
    AXIS = Axis("tokens", "", "Input tokens", 1, 512, (8.0, 16.0), (8.0, 16.0, 32.0))
    CHECKPOINTS = (Checkpoint("toy-random", "Toy", "toy", "random", "toy", "random weights, for tests", CONFIG),)
    BOUNDS = {"vocab_size": (1, 10_000), "width": (1, 1024)}  # noqa: RUF012
    COVERAGE_SIZE, LONGEST_SIZE = 16.0, 512.0

    def identity(self, checkpoint: Checkpoint, progress: Progress) -> tuple[str, Path | None]:
        return f"toy, random weights, seed {SEED}", None

    def load(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, nn.Module]:
        import torch

        torch.manual_seed(SEED)
        return modules(checkpoint.config)

    def describe(self, checkpoint: Checkpoint, folder: Path | None) -> dict[str, bytes]:
        return {CONFIG_FILE: json.dumps(dict(checkpoint.config)).encode()}

    def skeleton(self, directory: Path) -> dict[str, nn.Module]:
        import torch

        with torch.device("meta"):
            return modules(json.loads((directory / CONFIG_FILE).read_text()))

    def networks(self, config: Config) -> tuple[Network, ...]:
        batch, tokens, past, width = Dim("batch"), Dim("tokens", 1), Dim("past", 0), config["width"]
        memory = [Port(name, "float32", (batch, tokens, width)) for name in ("keys", "values")]
        cache = np.zeros((2, 3, width), np.float32)
        return (
            Network(
                "encoder",
                inputs=(Port("tokens", "int64", (batch, tokens)),),
                outputs=tuple(memory),
                example={"tokens": np.zeros((2, 5), np.int64)},
            ),
            Network(
                "decoder",
                inputs=(Port("token", "int64", (batch, 1)), *memory, Port("past", "float32", (batch, past, width))),
                outputs=(
                    Port("logits", "float32", (batch, 1, config["vocab_size"])),
                    Port("present", "float32", (batch, Dim("past_and_one"), width)),
                ),
                example={
                    "token": np.zeros((2, 1), np.int64),
                    "keys": np.zeros((2, 5, width), np.float32),
                    "values": np.zeros((2, 5, width), np.float32),
                    "past": cache,
                },
                state=(("present", "past"),),
            ),
        )

    def profile(self, config: Config, size: float) -> Profile:
        vocabulary, width, tokens = config["vocab_size"], config["width"], int(size)
        works: list[Work] = []

        def add(network: str, module: str, part: str, kind: Kind, times: int, parameters: int) -> None:
            macs = 0 if kind == "embedding" else times * (parameters or 1)
            works.append(Work(network, module, part, kind, macs, parameters))

        add("encoder", "embed", "embeddings", "embedding", tokens, vocabulary * width)
        for name in ("up", "down", "keys", "values"):
            wide = 2 if name in ("up", "down") else 1
            add("encoder", name, "encoder linears", "linear", tokens, wide * width * width)
        add("decoder", "embed", "embeddings", "embedding", STEPS, vocabulary * width)
        seen = {"attention": sum(range(1, STEPS + 1)), "cross": STEPS * tokens}
        for name, reads in seen.items():
            for projection in ("query", "out"):
                add("decoder", f"{name}.{projection}", "decoder linears", "linear", STEPS, width * width)
            add("decoder", name, "attention products", "attention", 2 * reads * width, 0)
        add("decoder", "head", "head", "linear", STEPS, vocabulary * width)
        return Profile(tuple(works), activation_bytes=16 * tokens * width)

    def inputs(self, size: float, batch: int, seed: int, kind: InputKind, files: Files) -> Feed:
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, VOCABULARY, (batch, int(size)))
        return {"tokens": tokens, "forced": rng.integers(0, VOCABULARY, (batch, STEPS))}

    def prepare(self, example: Any, files: Files) -> Feed:
        return {"tokens": example[None], "forced": example[None, :6]}

    def size(self, feed: Feed) -> float:
        return float(feed["tokens"].shape[1])

    def steps(self, config: Config, size: float) -> Steps:
        return Steps(STEPS)

    def run(self, networks: Mapping[str, Opened], feed: Feed, files: Files, stop: Stop, mark: Mark) -> Feed:
        memory = networks["encoder"].start()({"tokens": feed["tokens"]})
        mark("encode")
        step, logits = networks["decoder"].start(), []
        for i in range(stop.count if isinstance(stop, Steps) else feed["forced"].shape[1]):
            token = np.ascontiguousarray(feed["forced"][:, i : i + 1])
            logits.append(np.array(step({"token": token, **memory})["logits"]))
            mark("decode")
        return {"logits": np.concatenate(logits, axis=1)}  # (batch, steps, vocabulary)

    def predict(self, outputs: Feed, files: Files) -> Any:
        return tuple(outputs["logits"][0].argmax(-1).tolist())


def modules(config: Config) -> dict[str, nn.Module]:
    """The float modules with new weights."""
    import torch
    from torch import nn

    vocabulary, width = config["vocab_size"], config["width"]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.keys, self.values = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, tokens: Any) -> Any:
            x = self.embed(tokens)
            x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
            return self.keys(x), self.values(x)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, x: Any, keys: Any, values: Any) -> Any:
            scores = self.query(x) @ keys.transpose(1, 2) * width**-0.5  # (batch, 1, positions)
            return self.out(scores.softmax(-1) @ values)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
            self.attention, self.cross = Attention(), Attention()
            self.head = nn.Linear(width, vocabulary)

        def forward(self, token: Any, keys: Any, values: Any, past: Any) -> Any:
            x = self.embed(token)
            present = torch.cat([past, x], dim=1)
            x = x + self.attention(x, present, present)
            x = self.norm(x + self.cross(x, keys, values))
            return self.head(x), present

    return {"encoder": Encoder().eval(), "decoder": Decoder().eval()}


FAMILY = Toy()
