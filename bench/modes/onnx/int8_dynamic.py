"""Dynamic int8 of the linear layers by ONNX Runtime's `quantize_dynamic`.

Weights are int8 with one scale per output channel. Activations are quantized to 8 bits before each linear layer, with
one scale and one zero point per tensor, computed at every pass. Convolutions stay float, because ONNX Runtime's dynamic
integer convolution, ConvInteger, is slower than the float one. The two products of attention stay float too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.onnx import engine, export, integers


class Int8Dynamic(engine.OnnxMode):
    """See the module."""

    SPEC = ModeSpec(
        name="onnx-int8-dynamic",
        label="int8 dynamic, linear layers (ONNX Runtime)",
        engine="onnx",
        weights=Precision(
            8,
            "weights of the linear layers become 8-bit integers, one scale per output channel; everything else stays "
            "fp32",
        ),
        activations=Precision(8, "8-bit integers inside the linear layers, scaled at every pass; fp32 elsewhere"),
        needs=Needs(packages=("onnxruntime",), build_packages=("onnx",)),
        cost=Cost(memory_bytes=100_000_000, memory_copies=3.2, disk_copies=1.0),
        stores={"linear": 8, "": 32},
        base="onnx-fp32",
        float_reference="onnx-fp32",
        min_snr_db=28.0,
        min_random_snr_db=25.0,
        code=export.code(
            """from onnxruntime.quantization import QuantType, quantize_dynamic

quantize_dynamic(
    "model.onnx", "model.onnx", op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=$reduce_range,
    weight_type=QuantType.QInt8,
)"""
        ),
        open_code=engine.OPEN_CODE,
    )

    def check(self) -> str:
        """Return a remark if the range is reduced to 7 bits here."""
        return integers.remark()

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Quantize every matrix product with a weight."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        for network in family.read_networks(out):
            progress("quantizing the linear layers")
            name = f"{network.name}{engine.ENDING}"
            with integers.scraps(out):
                quantize_dynamic(
                    source / name,
                    out / name,
                    op_types_to_quantize=["MatMul"],
                    per_channel=True,
                    reduce_range=integers.reduced(),
                    weight_type=QuantType.QInt8,
                )
            progress("writing the weights")
            integers.save(onnx.load(out / name), out / name)
        return {"range": "7 bits" if integers.reduced() else "8 bits"}


MODE = Int8Dynamic()
