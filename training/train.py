"""The training loop: seeded and resumable. An interruption does not change the result, unless the clock ends it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.device.cpu import default_threads
from training.augment import harder
from training.batches import Array, Batch, Batches
from training.measure import digit_strings, transcribe, word_errors
from training.muon import Muon
from training.network import Trainee, configuration, ctc, log_mel
from training.voices import RATE_HZ


@dataclass(frozen=True)
class Settings:
    """The settings of a training. When it is resumed, all must stay as they began, except those in `_MAY_CHANGE`."""

    steps: int = 7_600
    seed: int = 1
    learning_rate: float = 2e-3
    warm_up_steps: int = 200
    decay_from: float = 0.6  # the share of the steps after which the learning rate falls linearly
    lowest: float = 0.0  # the learning rate's factor at the end
    middle_weight: float = 0.3
    mel_steps: int = 2_000  # steps with the mel loss of the extractor, whose weight falls to 0
    average: float = 0.999
    masked: float = 0.04  # of the frames
    dropout: float = 0.0  # of the encoder's activations
    muon_from: int = 800  # the step from which Muon updates the encoder's matrices; AdamW always updates all else
    minutes: float | None = (
        None  # ends after so many minutes, whatever `steps` is; so does the decay of the learning rate
    )
    save_every: int = 200
    check_every: int = 2_000


_MAY_CHANGE = {"steps", "minutes", "save_every", "check_every"}


def going_on(steps: int, seed: int) -> Settings:
    """Return settings for a training that starts from trained weights, which contain what the mel loss teaches."""
    return Settings(
        steps, seed, 1.5e-3, warm_up_steps=100, decay_from=0.5, lowest=0.2, mel_steps=0, muon_from=0, average=0.9995
    )


class Training:
    """A trainee, its optimizers, the average of its weights, and the current step."""

    def __init__(self, settings: Settings, **config: object) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.step, self.seconds = settings, 0, 0.0
        self.requested: dict[str, Any] = asdict(settings)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = {"attn_implementation": "eager", "hidden_dropout": settings.dropout, **config}
        self.net = Trainee(configuration(**config)).to(self.device)
        self.optimizers = _optimizers(self.net, settings)
        self.averaged = {name: weight.detach().clone() for name, weight in self.net.state_dict().items()}

    def take(self, batch: Batch) -> Tensor:
        """Train one step. Return the final head's loss in nats per letter; a GPU may still be computing it."""
        settings = self.settings
        rate = settings.learning_rate * schedule(self.step, settings, self.seconds)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.net.train()
        audio, throats = (torch.from_numpy(array).to(self.device) for array in (batch.audio, batch.throats))
        audio = harder(audio, throats, (*batch.seed, 2))
        target = log_mel(audio)
        hide = torch.from_numpy(_masked(target.shape[:2], settings.masked, (settings.seed, self.step))).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, middle, mel = self.net(audio, hide)
        final = ctc(logits, batch.texts)
        loss = final + settings.middle_weight * ctc(middle, batch.texts)
        if self.step < settings.mel_steps:
            loss = loss + (1 - self.step / settings.mel_steps) * nn.functional.mse_loss(mel.float(), target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        others, early, late = self.optimizers
        for optimizer in (others, early if self.step < settings.muon_from else late):
            optimizer.step()
        self.net.zero_grad()
        self.step += 1
        keep = min(settings.average, self.step / (self.step + 10))
        weights = self.net.state_dict()
        torch._foreach_lerp_(list(self.averaged.values()), [weights[name] for name in self.averaged], 1 - keep)
        return final.detach()

    def start(self, folder: Path) -> None:
        """Load the weights of a folder in Hugging Face format. What only training needs keeps its initial values."""
        weights = load_file(folder / "model.safetensors")
        self.net.model.load_state_dict({name: weights[name] for name in self.net.model.state_dict()})
        self.averaged = {name: weight.detach().clone() for name, weight in self.net.state_dict().items()}

    def save(self, path: Path) -> None:
        """Save everything that a later `resume` needs, in one file that is whole or absent."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "asked": self.requested,
            "net": self.net.state_dict(),
            "averaged": self.averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path) -> dict[str, Any]:
        """Continue from a saved state. Return the settings of that training."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.net.load_state_dict(state["net"])
        self.averaged = state["averaged"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        saved_settings: dict[str, Any] = state.get("asked", {})
        return saved_settings

    def weights(self, averaged: bool) -> dict[str, Tensor]:
        """Return the model's weights, as they are or averaged over the last steps."""
        weights = self.averaged if averaged else self.net.state_dict()
        return {name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")}


def schedule(step: int, settings: Settings, seconds: float = 0) -> float:
    """Return the learning rate's factor: linear warm-up, then constant, then linear decay."""
    done = min(1.0, seconds / 60 / settings.minutes if settings.minutes else step / settings.steps)
    falling = settings.lowest + (1 - settings.lowest) * (1 - done) / (1 - settings.decay_from)
    return max(0.0, min(1.0, (step + 1) / settings.warm_up_steps, falling))


def train(batches: Batches, settings: Settings, folder: Path, start: Path | None = None, **config: object) -> Training:
    """Train to the settings' end, with regular log lines.

    Starts from the folder's checkpoint if there is one, else from the weights of the model `start`, else from random
    weights. Raises ValueError if the checkpoint is of another training.
    """
    training = Training(settings, **config)
    training.requested |= {"scale": batches.scale, "without": batches.without}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        _require_same(training.resume(checkpoint), training.requested, checkpoint)
    elif start is not None:
        training.start(start)
    corpus = batches.corpus
    sets = {"dev": [(utterance.text, corpus.audio(utterance)) for utterance in corpus.part("dev")]}
    if batches.without:
        digits = [utterance for utterance in corpus.part("digits") if utterance.voice == batches.without]
        sets[batches.without] = list(digit_strings(corpus, digits))
    sets = {name: pairs for name, pairs in sets.items() if pairs}
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    start_s, hours = time.monotonic() - training.seconds, 0.0
    losses: list[Tensor] = []
    with Progress(*columns) as progress, (folder / "training.jsonl").open("a", buffering=1) as log:
        task = progress.add_task(
            "training", total=None if settings.minutes else settings.steps, completed=training.step, note=""
        )
        for batch in _ahead(batches, training.step, _end(training)):
            losses.append(training.take(batch))
            hours += batch.audio.size / RATE_HZ / 3600
            progress.update(task, completed=training.step)
            training.seconds = time.monotonic() - start_s
            last = training.step == _end(training)
            if training.step % 50 == 0 or last:
                row: dict[str, Any] = {"step": training.step, "loss": round(float(torch.stack(losses).mean()), 4)}
                losses.clear()
                progress.update(task, note=f"loss {row['loss']:.3f}  {hours:.1f} h of audio")
                if training.step % settings.check_every == 0 or last:
                    row |= _check(training, sets)
                log.write(json.dumps({**row, "seconds": round(training.seconds)}) + "\n")
            if training.step % settings.save_every == 0 or last:
                training.save(checkpoint)
            if last:
                break
    return training


def _end(training: Training) -> int:
    """Return the last step. If the clock ends the training, the step is known only once it is reached."""
    minutes = training.settings.minutes
    if minutes is None:
        return training.settings.steps
    return training.step if training.seconds >= 60 * minutes else sys.maxsize


def _require_same(saved: dict[str, Any], current: dict[str, Any], checkpoint: Path) -> None:
    if differing := [k for k in saved if k in current and k not in _MAY_CHANGE and saved[k] != current[k]]:
        differences = ", ".join(f"{k} {saved[k]!r} and not {current[k]!r}" for k in differing)
        raise ValueError(f"{checkpoint} is of a training with {differences}. Use the same, or remove that file.")


def _check(training: Training, sets: dict[str, list[tuple[str, Array]]]) -> dict[str, float]:
    """Return the word error rates of sets of text and audio, by the current and by the averaged weights."""
    rates = {}
    for averaged in (False, True):
        model = Trainee(training.net.model.config).model.to(training.device).eval()
        model.load_state_dict(training.weights(averaged))
        for name, pairs in sets.items():
            errors, words = word_errors((text, transcribe(model, audio)) for text, audio in pairs)
            rates[f"{name}_wer_averaged" if averaged else f"{name}_wer"] = round(errors / words, 4)
    return rates


class _Steps(Dataset[Any]):  # type: ignore[misc]
    def __init__(self, batches: Batches, start: int, end: int) -> None:
        self.batches, self.start, self.end = batches, start, end

    def __len__(self) -> int:
        return max(0, self.end - self.start)

    def __getitem__(self, i: int) -> Batch:
        return self.batches.at(self.start + i)


def _ahead(batches: Batches, start: int, end: int) -> Iterator[Batch]:
    """Yield the batches of the steps. Other processes make them while earlier batches are trained on."""
    workers = max(1, default_threads() - 1) if sys.platform == "linux" else 0  # 0: in this process, between the steps
    context = "fork" if workers else None  # the corpus is mapped once, not copied to every process
    loader = DataLoader(
        _Steps(batches, start, end), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    for audio, texts, throats, seed in loader:
        yield Batch(audio.numpy(), tuple(texts), throats.numpy(), (seed[0], seed[1]))


def _masked(shape: torch.Size, share: float, seed: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask of the frames to hide: spans of 5 frames, about `share` of all."""
    starts = np.random.default_rng((*seed, 1)).random(shape) < share / 5
    out: np.ndarray[Any, np.dtype[np.bool_]] = starts.copy()
    for shift in range(1, 5):
        out[:, shift:] |= starts[:, :-shift]
    return out


def _optimizers(net: Trainee, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return AdamW for all but the encoder's matrices, then AdamW and Muon for these: each step uses one of the two."""
    named = list(net.named_parameters())
    matrices = [weight for name, weight in named if "encoder.layers" in name and weight.ndim == 2]
    others = [weight for name, weight in named if not ("encoder.layers" in name and weight.ndim == 2)]
    options: dict[str, Any] = {"betas": (0.9, 0.98), "weight_decay": 0.01, "fused": True}
    adamw = [torch.optim.AdamW(weights, settings.learning_rate, **options) for weights in (others, matrices)]
    return [*adamw, Muon(matrices, settings.learning_rate)]
