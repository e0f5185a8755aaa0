"""What the quantized modes on ONNX Runtime share: names after modules again, and nothing that is left float unseen."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.device import cpu

# Processors that sum products of 8-bit integers in 32 bits at once.
_FULL_RANGE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_ADDED = ("_quant", "_Q4")  # to a node's name, by those who quantize it


def x86() -> bool:
    """Whether this is a processor of that family, whose products want unsigned activations."""
    return platform.machine().lower() in ("x86_64", "amd64")


def reduced() -> bool:
    """On x86 without VNNI the products of 8-bit integers are summed in 16 bits first, which overflows."""
    return x86() and not _FULL_RANGE & cpu.isa()


def remark() -> str:
    """Tells where 8 bits are not quite 8."""
    return "7-bit weights: this processor's 8-bit products would overflow" if reduced() else ""


@contextmanager
def scraps(directory: Path) -> Iterator[None]:
    """ONNX Runtime's quantizers write the model between their steps: beside the artefact, so that it is counted."""
    was = tempfile.tempdir
    tempfile.tempdir = str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = was


def save(model: Any, file: Path) -> None:
    """Write an `onnx.ModelProto` whose linear layers are quantized, its nodes named after modules.

    Raises RuntimeError if a product with a weight is still float: the quantizers skip what they can't do in silence.
    """
    import onnx

    floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    left = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in floats]
    if left:
        raise RuntimeError(f"ONNX Runtime left {', '.join(left)} in floating point.")
    for node in model.graph.node:
        for added in _ADDED:
            node.name = node.name.removesuffix(added)
    del model.graph.value_info[:]  # inferred shapes that nobody needs any more
    onnx.save(model, file)
