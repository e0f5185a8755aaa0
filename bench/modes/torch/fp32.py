"""The original: 32-bit floating point on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.torch import engine


class Fp32(engine.TorchMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torch-fp32",
        label="fp32, the original (PyTorch)",
        engine="torch",
        weights=Precision(32, "all weights stay 32-bit floating point"),
        activations=Precision(32, "32-bit floating point"),
        needs=Needs(packages=("torch", "transformers", "safetensors")),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"": 32},
        float_reference="torch-fp32",
        first=True,
        min_snr_db=100.0,
        min_random_snr_db=120.0,
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Write the weights without quantization."""
        progress("writing the weights")
        engine.save(source, out)
        return {}


MODE = Fp32()
