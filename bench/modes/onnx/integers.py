"""Shared by ONNX Runtime's quantized modes: restore module names, and detect layers left in float."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.device import cpu

# Processors that accumulate products of 8-bit integers directly in 32 bits.
_FULL_RANGE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_SUFFIXES = ("_quant", "_Q4")  # suffixes that quantizers add to node names


def x86() -> bool:
    """Return whether this is an x86 processor, whose integer products need unsigned activations."""
    return platform.machine().lower() in ("x86_64", "amd64")


def reduced() -> bool:
    """Return whether to use 7 bits: x86 without VNNI accumulates 8-bit products in 16 bits first, which overflows."""
    return x86() and not _FULL_RANGE & cpu.isa()


def remark() -> str:
    """Return a remark if weights are reduced to 7 bits here."""
    return "7-bit weights: this processor's 8-bit products would overflow" if reduced() else ""


@contextmanager
def scraps(directory: Path) -> Iterator[None]:
    """Put the intermediate files of ONNX Runtime's quantizers into the artefact's folder, so that they are counted."""
    previous = tempfile.tempdir
    tempfile.tempdir = str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = previous


def save(model: Any, file: Path) -> None:
    """Write an `onnx.ModelProto` with quantized linear layers, its nodes named after modules.

    Raises RuntimeError if a product with a weight is still float: the quantizers silently skip what they don't support.
    """
    import onnx

    floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    skipped = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in floats]
    if skipped:
        raise RuntimeError(f"ONNX Runtime left {', '.join(skipped)} in floating point.")
    for node in model.graph.node:
        for suffix in _SUFFIXES:
            node.name = node.name.removesuffix(suffix)
    del model.graph.value_info[:]  # inferred shapes, no longer needed
    onnx.save(model, file)
