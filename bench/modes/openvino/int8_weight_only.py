"""int8 weights on OpenVINO, multiplied as floats: a small file at unchanged accuracy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.specs import Setting
from bench.families.family import Family
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Precision, Progress
from bench.modes.openvino import bfloat16, engine

_COMPRESS = """# Earbench stores the positional convolution, which stays float here, in bfloat16.
graph = nncf.compress_weights(
    graph,
    mode=nncf.CompressWeightsMode.INT8_SYM,
    ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"]),
)
"""


class Int8WeightOnly(engine.OpenVinoMode):
    """See the module."""

    FLOATS = "bf16"
    SPEC = ModeSpec(
        name="openvino-int8-weight-only",
        label="int8 weight-only (OpenVINO)",
        engine="openvino",
        weights=Precision(
            8,
            "matrix products and convolutions are stored in 8-bit integers, one scale per output channel; the "
            "positional convolution, and biases of convolutions, in 16 bits (bfloat16)",
        ),
        activations=Precision(16, "not quantized: 16-bit (bfloat16) where the processor has it"),
        needs=Needs(packages=("openvino",), build_packages=engine.QUANTIZE_PACKAGES),
        cost=Cost(memory_bytes=340_000_000, memory_copies=2.0, disk_copies=0.3),
        stores={"": 8, "grouped convolution": 16},
        base="onnx-fp32",
        float_reference="openvino-fp32",
        min_snr_db=30.0,
        min_random_snr_db=30.0,
        version=3,
        code=engine.code("bf16", _COMPRESS),
        open_code=engine.OPEN_CODE,
    )

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Write every weight in int8 except those of the grouped convolution.

        No kernel multiplies a convolution's int8 weights with floats, so the floats stay in memory beside the engine's
        own copy. The grouped convolution has half of all such weights. In bfloat16, in which they run, they are read
        directly from the file: on base a file larger by 5 MB saves 9 MB of memory, or 19 MB when OpenVINO opens it
        without Earbench.
        """
        import nncf

        nncf.set_log_level(logging.ERROR)
        for network in family.read_networks(out):
            progress("converting from ONNX")
            graph = engine.read(source, network)
            progress("rounding the weights")
            graph = nncf.compress_weights(
                graph,
                mode=nncf.CompressWeightsMode.INT8_SYM,
                ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"], validate=False),
            )
            bfloat16.store_convolutions(graph)
            progress("writing the weights")
            engine.save(graph, out / f"{network.name}{engine.ENDING}", self.FLOATS)
        return {}


MODE = Int8WeightOnly()
