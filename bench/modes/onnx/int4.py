"""4-bit weights of the linear layers on ONNX Runtime (MatMulNBits): rounded to nearest, activations stay float.

Every `block_size` weights of an output channel share a scale and a zero point. The products are computed in float32
(accuracy level 1): weights are unpacked block by block during the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Option, Precision, Progress
from bench.modes.onnx import engine, export, integers


class Int4(engine.OnnxMode):
    """See the module."""

    SPEC = ModeSpec(
        name="onnx-int4",
        label="int4 weights, linear layers (ONNX Runtime)",
        engine="onnx",
        weights=Precision(
            4,
            "weights of the linear layers become 4-bit integers, one scale and zero point per block; everything else "
            "stays fp32",
        ),
        activations=Precision(32, "32-bit floating point"),
        needs=Needs(packages=("onnxruntime",), build_packages=("onnx", "onnx_ir")),
        cost=Cost(memory_bytes=120_000_000, memory_copies=2.1, disk_copies=0.3),
        stores={"linear": 4, "": 32},
        settings={
            "block_size": Option(
                32, "how many weights share a scale: fewer is more accurate and larger", allowed=(32, 64, 128)
            )
        },
        base="onnx-fp32",
        float_reference="onnx-fp32",
        min_snr_db=15.0,
        min_random_snr_db=12.0,
        code=export.code(
            """import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

quantizer = MatMulNBitsQuantizer(onnx.load("model.onnx"), bits=4, block_size=$block_size, accuracy_level=1)
quantizer.process()
onnx.save(quantizer.model.model, "model.onnx")"""
        ),
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Quantize every matrix product with a weight."""
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        for network in family.read_networks(out):
            progress("quantizing the linear layers")
            name = f"{network.name}{engine.ENDING}"
            quantizer = MatMulNBitsQuantizer(
                onnx.load(source / name), bits=4, block_size=int(settings["block_size"]), accuracy_level=1
            )
            quantizer.process()
            progress("writing the weights")
            integers.save(quantizer.model.model, out / name)
        return {}


MODE = Int4()
