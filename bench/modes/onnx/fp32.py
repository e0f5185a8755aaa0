"""32-bit floating point on ONNX Runtime: the engine's gain alone, without quantization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.onnx import engine, export


class Fp32(engine.OnnxMode):
    """See the module."""

    SPEC = ModeSpec(
        name="onnx-fp32",
        label="fp32 (ONNX Runtime)",
        engine="onnx",
        weights=Precision(32, "all weights stay 32-bit floating point"),
        activations=Precision(32, "32-bit floating point"),
        needs=Needs(packages=("onnxruntime",), build_packages=export.PACKAGES),
        cost=Cost(memory_bytes=700_000_000, memory_copies=4.0, disk_copies=1.0),
        stores={"": 32},
        float_reference="onnx-fp32",
        min_snr_db=80.0,
        min_random_snr_db=100.0,
        code=export.code(),
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Export the networks without quantization."""
        for network in family.read_networks(out):
            progress("exporting to ONNX")
            export.export(source[network.name], network, out / f"{network.name}{engine.ENDING}")
        return {}


MODE = Fp32()
