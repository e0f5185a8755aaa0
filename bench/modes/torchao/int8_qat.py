"""Quantization-aware training (QAT, Jacob et al. 2018, arXiv:1712.05877): linear layers are fine-tuned with rounding.

During tuning, every linear layer's weights are fake-quantized to 8 bits with one symmetric scale per row, and its input
to 8 bits with one scale per frame; gradients pass straight through the rounding. The loss is the family's, CTC for
Wav2Vec2, on labelled clips. Then the weights are quantized exactly as during tuning and run like
`torchao-int8-dynamic`. There are two differences: the input's range is symmetric at inference but asymmetric during
tuning, because torchao lacks a symmetric one there; and where 8-bit products would overflow (x86 without VNNI),
inference uses 7 bits and tuning 8.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.records import LOSS_CURVE
from bench.core.specs import Setting
from bench.families.family import Config, Family
from bench.families.network import Feed
from bench.modes.mode import Cost, Data, ModeError, ModeSpec, Needs, Option, Precision, Progress, calibration
from bench.modes.torchao import engine

if TYPE_CHECKING:
    from torch import nn

SEED = 0
Examples = Sequence[tuple[Feed, Any]]


class Int8Qat(engine.TorchaoMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torch-int8-qat",
        label="int8 QAT: fine-tuned with rounding, linear layers (torchao)",
        engine="torch",
        weights=Precision(
            8,
            "weights of the linear layers are tuned on labelled clips while they are rounded, then become 8-bit "
            "integers, one scale per row; everything else stays fp32",
        ),
        activations=Precision(
            8, "8-bit integers inside the linear layers, one scale per frame, computed at every pass; fp32 elsewhere"
        ),
        needs=Needs(packages=("torch", "transformers", "torchao", "safetensors")),
        # Measured during tuning: 0.7 GB for the demo model and 3.55 GB for base, with weights, gradients, AdamW's two
        # moments, the rounded weights, and activations kept for the backward pass.
        cost=Cost(memory_bytes=700_000_000, memory_copies=8.0, disk_copies=1.0),
        stores={"linear": 8, "": 32},
        settings={
            **calibration(8),
            "steps": Option(16, "of tuning, one clip each: on busy cores one takes base up to a minute", 1, 100_000),
            "learning_rate": Option(
                2e-5, "of AdamW, without decay; what is much larger unlearns what the model knows", 0, 1
            ),
        },
        data="targets",
        float_reference="torch-fp32",
        min_snr_db=15.0,  # lower, because tuning changes the weights
        min_random_snr_db=10.0,
        code="""from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

rounded = {
    "activation_config": IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False),
    "weight_config": IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True),
}
quantize_(model, QATConfig(**rounded, step="prepare"))
# here the model is tuned with CTC on labelled clips; the time of a pass does not depend on it
quantize_(model, QATConfig(step="convert"))
quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))""",
        code_differs="it does not tune the weights, and Earbench does, on clips with their text",
        open_code=engine.OPEN_CODE,
    )

    def check(self) -> str:
        """Return a remark if the range is reduced to 7 bits here."""
        return engine.range_remark()

    def supports(self, family: Family, config: Config) -> str:
        """See Mode."""
        if type(family).loss is Family.loss:
            return f"it is tuned with a loss, and {family.NAME} has none"
        return ""

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Tune every nn.Linear with fake quantization, then quantize it. Raises ModeError without labelled examples."""
        examples = _usable(data.examples, family)
        progress("rounding the linear layers")
        for module in source.values():
            prepare(module)
        losses = _tune(source, family, examples, int(settings["steps"]), float(settings["learning_rate"]), progress)
        progress("quantizing the linear layers")
        ranges = set()
        for module in source.values():
            convert(module)
            ranges.add(engine.to_int8_dynamic(module))
        progress("writing the weights")
        engine.save(source, out)
        return {
            "range": " and ".join(sorted(ranges)),
            "tuning": f"{len(losses)} steps on {len(examples)} clips; {_summary(losses, len(examples))}",
            LOSS_CURVE: " ".join(f"{loss:.4f}" for loss in losses),
        }


MODE = Int8Qat()


def prepare(model: nn.Module) -> None:
    """Add fake quantization of the weight and the input to every nn.Linear, in place."""
    import torch
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    quantize_(model, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))


def convert(model: nn.Module) -> None:
    """Replace fake-quantized linear layers by plain nn.Linear with the tuned float weights, in place."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    quantize_(model, QATConfig(step="convert"))


def _usable(examples: Examples, family: Family) -> Examples:
    """Return the examples with a non-empty target and at most `CALIBRATION_SIZE` long.

    A step keeps all activations for the backward pass, so longer examples would take gigabytes and minutes. Raises
    ModeError if there are none.
    """
    longest = family.CALIBRATION_SIZE
    usable = [(feed, target) for feed, target in examples if np.size(target) and family.size(feed) <= longest]
    if not usable:
        raise ModeError(
            f"{Int8Qat.SPEC.name} is tuned on clips with their text, and none of the {len(examples)} that came has "
            f"text in the model's vocabulary and lasts {longest:g} s at most. Name a folder of labelled clips in its "
            "setting “data”."
        )
    return usable


def _tune(
    models: Mapping[str, nn.Module],
    family: Family,
    examples: Examples,
    steps: int,
    learning_rate: float,
    progress: Progress,
) -> list[float]:
    """Tune the linear layers and return the loss of every step's example, computed before the update.

    Only the linear layers are tuned, without dropout or masking: the few steps should compensate for rounding, not
    retrain the model.
    """
    import torch
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    parameters = []
    for model in models.values():
        model.requires_grad_(False)
        linears = [m for m in model.modules() if isinstance(m, FakeQuantizedLinear)]
        parameters += [p.requires_grad_(True) for m in linears for p in m.parameters(recurse=False)]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    rng, remaining, losses = random.Random(SEED), list[int](), list[float]()
    for step in range(1, steps + 1):
        if not remaining:
            remaining = rng.sample(range(len(examples)), len(examples))
        loss = family.loss(models, *examples[remaining.pop()])
        assert loss is not None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))  # rounded once, so that the reported and the stored loss are equal
        progress(f"step {step} of {steps}, loss {losses[-1]:.3f}")
    for model in models.values():
        model.requires_grad_(False)
    return losses


def _summary(losses: Sequence[float], examples: int) -> str:
    """Describe the loss in words. Examples differ, so means over whole rounds of all examples are compared."""
    first_mean, whole_steps = float(np.mean(losses[:examples])), len(losses) // examples * examples
    if whole_steps < 2 * examples:
        return f"mean loss {first_mean:.3f}"
    return (
        f"mean loss {first_mean:.3f} in the first round over the clips, "
        f"{np.mean(losses[whole_steps - examples : whole_steps]):.3f} in the last whole one"
    )
