"""Quantization-aware fine-tuning (Jacob et al. 2018, arXiv:1712.05877): the linear layers learn to live with rounding.

While it is tuned, every linear layer sees its weights rounded to 8 bits, one symmetric scale a row, and its input
rounded to 8 bits, one scale a frame; gradients pass through the rounding as if it were not there. The loss is that of
connectionist temporal classification on labelled clips. Then the weights are rounded for good, exactly as they were
while they learned, and run like `torchao-int8-dynamic`. Two things differ: the input's range is symmetric when it runs
and need not be while it learns, for want of a symmetric one in torchao; and where 8-bit products would overflow (x86
without VNNI) what runs is rounded to 7 bits, what learns to 8.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.models import Config, Family
from bench.modes import Clips, Cost, ModeError, Needs, Option, Progress, _torch, _torchao, calibration
from bench.records import LOSS_CURVE, SAMPLE_RATE_HZ, Coverage, Setting

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "torch-int8-qat"
LABEL = "int8 QAT: fine-tuned while it is rounded, linear layers (torchao)"
ENGINE = "torch"
WEIGHTS = (
    "weights of the linear layers (encoder, projection, head) are tuned on labelled clips while they are rounded, then "
    "become 8-bit integers, one scale a row; convolutions stay fp32"
)
ACTIVATIONS = "8-bit integers inside the linear layers, one scale a frame, anew at every pass; fp32 elsewhere"
NEEDS = Needs(packages=("torch", "transformers", "torchao", "safetensors"))
SETTINGS: dict[str, Option] = {
    **calibration(8),
    "steps": Option(16, "of tuning, one clip each: on busy cores one takes base up to a minute", 1, 100_000),
    "learning_rate": Option(2e-5, "of AdamW, without decay; what is much larger unlearns what the model knows", 0, 1),
}
OFFERED: tuple[dict[str, Setting], ...] = ()
BASE = ""
CALIBRATES = True
# While they were tuned the demo model took 0.7 GB and base 3.55: weights, gradients, two moments of AdamW, the rounded
# weights, and activations kept for the way back.
COST = Cost(memory_bytes=700_000_000, memory_copies=8.0, disk_copies=1.0)
STORED_BITS = {"encoder linears": 8, "head": 8, "": 32}
VERSION = 1
CODE = """from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

rounded = {
    "activation_config": IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False),
    "weight_config": IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True),
}
quantize_(model, QATConfig(**rounded, step="prepare"))
# here the model is tuned with CTC on labelled clips; the time of a pass does not depend on it
quantize_(model, QATConfig(step="convert"))
quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))"""
OPEN_CODE = _torchao.OPEN_CODE
SEED = 0
LONGEST_S = 10.0  # a step keeps all activations for the way back: longer clips would take gigabytes and minutes


def check() -> str:
    """Runs everywhere; tells where 8 bits are not quite 8."""
    return _torchao.range_remark()


def build(
    model: nn.Module, data: Clips, settings: dict[str, Setting], directory: Path, progress: Progress
) -> dict[str, str]:
    """Tune every nn.Linear while it is rounded, then round it. Raises ModeError without a labelled clip."""
    clips = _usable(data)
    progress("rounding the linear layers")
    prepare(model)
    losses = _tune(model, clips, int(settings["steps"]), float(settings["learning_rate"]), progress)
    progress("quantizing the linear layers")
    convert(model)
    used = _torchao.to_int8_dynamic(model)
    progress("writing the weights")
    _torchao.save(model, directory)
    return {
        "range": used,
        "tuning": f"{len(losses)} steps on {len(clips)} clips; {_told(losses, len(clips))}",
        LOSS_CURVE: " ".join(f"{loss:.4f}" for loss in losses),
    }


def open(directory: Path, threads: int, family: Family) -> _torch.TorchOpened:
    """Open what `build` wrote."""
    return _torchao.open(directory, threads, family)


def coverage(opened: Any, family: Family, config: Config) -> Coverage:
    """Counted from the opened model."""
    return _torchao.coverage(opened, family, config)


def prepare(model: nn.Module) -> None:
    """Every nn.Linear rounds its weight and its input from now on, and lets gradients through."""
    import torch
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    quantize_(model, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))


def convert(model: nn.Module) -> None:
    """Plain nn.Linear with the tuned float weights in place of those that round."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    quantize_(model, QATConfig(step="convert"))


def _usable(data: Clips) -> Clips:
    """Those clips that say something and are no longer than LONGEST_S. Raises ModeError if there are none."""
    longest = round(LONGEST_S * SAMPLE_RATE_HZ)
    found = [(audio, labels) for audio, labels in data if labels.size and audio.shape[1] <= longest]
    if not found:
        raise ModeError(
            f"{NAME} is tuned on clips with their text, and none of the {len(data)} that came has text in the model's "
            f"vocabulary and lasts {LONGEST_S:g} s at most. Name a folder of labelled clips in its setting “data”."
        )
    return found


def _tune(model: nn.Module, clips: Clips, steps: int, learning_rate: float, progress: Progress) -> list[float]:
    """The CTC loss a character of every step, before it learnt from it.

    Only the linear layers learn, and without dropout or masking: a few steps are to heal what rounding does, not to
    teach the model anew.
    """
    import torch
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    model.requires_grad_(False)
    linears = [m for m in model.modules() if isinstance(m, FakeQuantizedLinear)]
    tuned = [p.requires_grad_(True) for m in linears for p in m.parameters(recurse=False)]
    optimizer = torch.optim.AdamW(tuned, lr=learning_rate, weight_decay=0.0)
    rng, turn, losses = random.Random(SEED), list[int](), list[float]()
    for step in range(1, steps + 1):
        if not turn:
            turn = rng.sample(range(len(clips)), len(clips))
        loss = _loss(model, *clips[turn.pop()])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))  # once, so that what is told is what is kept
        progress(f"step {step} of {steps}, CTC loss {losses[-1]:.3f}")
    model.requires_grad_(False)
    return losses


def _told(losses: Sequence[float], clips: int) -> str:
    """The loss in words: clips differ, so rounds over all of them are compared, each before it was learnt from."""
    first, whole = float(np.mean(losses[:clips])), len(losses) // clips * clips
    if whole < 2 * clips:
        return f"mean CTC loss a character {first:.3f}"
    return (
        f"mean CTC loss a character {first:.3f} in the first round over the clips, "
        f"{np.mean(losses[whole - clips : whole]):.3f} in the last whole one"
    )


def _loss(model: nn.Module, audio: Any, labels: Any) -> torch.Tensor:
    """CTC loss of one clip over its number of characters; audio (1, samples), labels (tokens,)."""
    import torch
    from torch.nn.functional import ctc_loss, log_softmax

    log_p = log_softmax(model(torch.from_numpy(audio)).logits, dim=-1).transpose(0, 1)  # (frames, 1, vocab)
    blank: Any = getattr(model.config, "pad_token_id")  # noqa: B009
    frames, tokens = torch.tensor([log_p.shape[0]]), torch.tensor([len(labels)])
    # A text that is longer than the clip has frames would be an infinite loss.
    return ctc_loss(log_p, torch.from_numpy(labels)[None], frames, tokens, blank, "mean", zero_infinity=True)
