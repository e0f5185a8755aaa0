"""32-bit floating point on OpenVINO: the engine's gain alone, without quantization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.openvino import engine


class Fp32(engine.OpenVinoMode):
    """See the module."""

    FLOATS = "f32"
    SPEC = ModeSpec(
        name="openvino-fp32",
        label="fp32 (OpenVINO)",
        engine="openvino",
        weights=Precision(32, "all weights stay 32-bit floating point"),
        activations=Precision(32, "32-bit floating point"),
        needs=Needs(packages=("openvino",)),
        cost=Cost(memory_bytes=130_000_000, memory_copies=2.0, disk_copies=1.1),
        stores={"": 32},
        base="onnx-fp32",
        float_reference="openvino-fp32",
        min_snr_db=80.0,
        min_random_snr_db=100.0,
        version=2,
        code=engine.code("f32"),
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Write the weights without quantization."""
        for network in family.read_networks(out):
            progress("converting from ONNX")
            graph = engine.read(source, network)
            progress("writing the weights")
            engine.save(graph, out / f"{network.name}{engine.ENDING}", self.FLOATS)
        return {}


MODE = Fp32()
