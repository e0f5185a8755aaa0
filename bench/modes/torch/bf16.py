"""16-bit brain floating point on PyTorch: half the size, and fast on processors with bfloat16 instructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.torch import engine


class Bf16(engine.TorchMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torch-bf16",
        label="bf16 (PyTorch)",
        engine="torch",
        weights=Precision(16, "all weights become 16-bit (bfloat16)"),
        activations=Precision(16, "16-bit (bfloat16)"),
        needs=Needs(
            packages=("torch", "transformers", "safetensors"), fast_isa=frozenset({"avx512_bf16", "amx_bf16", "bf16"})
        ),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"": 16},
        float_reference="torch-fp32",
        min_snr_db=33.0,
        min_random_snr_db=30.0,
        code="model = model.to(torch.bfloat16)\naudio = audio.to(torch.bfloat16)",
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Round every weight to bfloat16 and write it."""
        import torch

        progress("rounding to bf16")
        engine.save({name: module.to(torch.bfloat16) for name, module in source.items()}, out)
        return {}


MODE = Bf16()
