"""Dynamic int8 of the linear layers, as in `torch.quantization.quantize_dynamic`.

Weights are int8 with one scale per tensor. Activations are quantized to 8 bits on the fly before each linear layer,
with their current range. Everything else stays float.
"""

from __future__ import annotations

from bench.modes.mode import Cost, ModeSpec, Needs, Precision
from bench.modes.torch import dynamic


class Int8Dynamic(dynamic.DynamicMode):
    """See the module."""

    PER_CHANNEL = False
    SPEC = ModeSpec(
        name="torch-int8-dynamic",
        label="int8 dynamic, linear layers (PyTorch)",
        engine="torch",
        weights=Precision(
            8,
            "weights of the linear layers become 8-bit integers; everything else stays fp32",
        ),
        activations=Precision(8, "8-bit integers inside the linear layers, scaled at every pass; fp32 elsewhere"),
        needs=Needs(packages=("torch", "transformers")),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"linear": 8, "": 32},
        float_reference="torch-fp32",
        first=True,
        min_snr_db=27.0,
        min_random_snr_db=20.0,
        code="model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)",
        open_code=dynamic.OPEN_CODE,
    )


MODE = Int8Dynamic()
