"""int8 weights of the linear layers by torchao; activations stay float.

A third of the size at almost no loss of accuracy. It is not faster, because the integers are converted to floats before
each product. It is useful where the memory of the weights is the limit, and it shows how much of the loss of other
modes comes from quantized activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.torchao import engine


class Int8WeightOnly(engine.TorchaoMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torchao-int8-weight-only",
        label="int8 weights only, linear layers (torchao)",
        engine="torch",
        weights=Precision(
            8, "weights of the linear layers become 8-bit integers, one scale per row; everything else stays fp32"
        ),
        activations=Precision(32, "fp32: the weights become floats again at every pass"),
        needs=Needs(packages=("torch", "transformers", "torchao", "safetensors")),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"linear": 8, "": 32},
        float_reference="torch-fp32",
        min_snr_db=33.0,
        min_random_snr_db=35.0,
        code="""from torchao.quantization import Int8WeightOnlyConfig, quantize_

quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))""",
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Quantize every nn.Linear."""
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        progress("quantizing the linear layers")
        for module in source.values():
            quantize_(module, Int8WeightOnlyConfig(set_inductor_config=False))
        progress("writing the weights")
        engine.save(source, out)
        return {}


MODE = Int8WeightOnly()
