"""Dynamic int8 of the linear layers by torchao, PyTorch's current quantization library.

Weights are int8 with one scale per output channel (row). Activations are quantized to 8 bits on the fly before each
linear layer, with one scale per frame. Both are symmetric. Everything else stays float.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.torchao import engine


class Int8Dynamic(engine.TorchaoMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torchao-int8-dynamic",
        label="int8 dynamic, linear layers (torchao)",
        engine="torch",
        weights=Precision(
            8, "weights of the linear layers become 8-bit integers, one scale per row; everything else stays fp32"
        ),
        activations=Precision(
            8, "8-bit integers inside the linear layers, one scale per frame, computed at every pass; fp32 elsewhere"
        ),
        needs=Needs(packages=("torch", "transformers", "torchao", "safetensors")),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"linear": 8, "": 32},
        float_reference="torch-fp32",
        min_snr_db=28.0,
        min_random_snr_db=25.0,
        code="""from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=$reduce_range))""",
        open_code=engine.OPEN_CODE,
    )

    def check(self) -> str:
        """Return a remark if the range is reduced to 7 bits here."""
        return engine.range_remark()

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Quantize every nn.Linear."""
        progress("quantizing the linear layers")
        ranges = {engine.to_int8_dynamic(module) for module in source.values()}
        progress("writing the weights")
        engine.save(source, out)
        return {"range": " and ".join(sorted(ranges))}


MODE = Int8Dynamic()
