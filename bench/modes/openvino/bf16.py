"""16-bit brain floating point on OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.openvino import bfloat16, engine


class Bf16(engine.OpenVinoMode):
    """See the module."""

    FLOATS = "bf16"
    SPEC = ModeSpec(
        name="openvino-bf16",
        label="bf16 (OpenVINO)",
        engine="openvino",
        weights=Precision(16, "all weights become 16-bit (bfloat16)"),
        activations=Precision(16, "16-bit (bfloat16)"),
        needs=Needs(packages=("openvino",), fast_isa=engine.FAST_BF16),
        cost=Cost(memory_bytes=130_000_000, memory_copies=2.0, disk_copies=0.6),
        stores={"": 16},
        base="onnx-fp32",
        float_reference="openvino-fp32",
        min_snr_db=38.0,
        min_random_snr_db=30.0,
        version=3,
        code=engine.code("bf16"),
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Round every weight to bfloat16 and write it."""
        for network in family.read_networks(out):
            progress("converting from ONNX")
            graph = engine.read(source, network)
            bfloat16.store(graph)
            progress("writing the weights")
            engine.save(graph, out / f"{network.name}{engine.ENDING}", self.FLOATS)
        return {}


MODE = Bf16()
