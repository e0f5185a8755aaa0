"""Activations of an ONNX graph on real examples, from which quantization ranges are calibrated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.families.family import Array
from bench.families.network import Feed
from bench.modes import channel_scales
from bench.modes.mode import Progress

_GELU_IS_ZERO = -4.0  # below this, |GELU| is under 2e-4, a small part of a step
_FRAMES, _ALL_FRAMES = 256, 4096  # frames kept per clip, and in all: of more clips, one from each of the first


def convolutions(graph: Any, sensitive: Sequence[str]) -> list[Any]:
    """Return the nodes of an ONNX graph that are sensitive convolutions, in execution order."""
    nodes = {node.name: node for node in graph.node if node.op_type == "Conv"}
    return [nodes[name] for name in sensitive if name in nodes]


def into_gelu(graph: Any) -> set[str]:
    """Return the names of tensors that only GELU reads."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {name for name, kinds in readers.items() if kinds == {"Gelu"}}


def watch(
    onnx_file: Path,
    tensors: Collection[str],
    feeds: Sequence[Feed],
    folder: Path,
    progress: Progress,
    look: Callable[[str, Array], None],
) -> None:
    """Run the network up to the named tensors on every feed and call `look` with each tensor's name and values."""
    import onnx
    import onnxruntime

    names = list(tensors)
    model = onnx.load(onnx_file)
    nodes, weights, needed = model.graph.node, model.graph.initializer, set(names)
    for i in reversed(range(len(nodes))):
        if needed.isdisjoint(nodes[i].output):
            del nodes[i]
        else:
            needed.update(nodes[i].input)
    for i in reversed(range(len(weights))):
        if weights[i].name not in needed:
            del weights[i]
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(model, folder / "watched.onnx")
    del model
    session = onnxruntime.InferenceSession(folder / "watched.onnx", providers=["CPUExecutionProvider"])
    for number, feed in enumerate(feeds, 1):
        progress(f"recording activations, clip {number} of {len(feeds)}")
        for name, values in zip(names, session.run(names, dict(feed)), strict=True):
            look(name, values)


def grids(
    onnx_file: Path, gelus: Mapping[str, bool], feeds: Sequence[Feed], folder: Path, progress: Progress
) -> dict[str, channel_scales.Grid]:
    """Return the grid of each (1, channels, frames) tensor by name; `gelus`: name -> whether only GELU reads it."""
    samples: dict[str, list[Array]] = {name: [] for name in gelus}
    ends: dict[str, tuple[Array, Array]] = {}
    rng = np.random.default_rng(0)
    frames = max(1, min(_FRAMES, _ALL_FRAMES // max(1, len(feeds))))

    def look(name: str, values: Array) -> None:
        x = values[0]  # (channels, frames)
        low, high = ends.get(name, (np.float32(0), np.float32(0)))
        ends[name] = np.minimum(low, x.min(1)), np.maximum(high, x.max(1))
        if len(samples[name]) < _ALL_FRAMES:
            samples[name].append(x[:, np.sort(rng.permutation(x.shape[1])[:frames])])

    if gelus:
        watch(onnx_file, gelus, feeds, folder, progress, look)
    grids_by_name = {}
    for number, (name, gelu) in enumerate(gelus.items(), 1):
        progress(f"choosing ranges, {number} of {len(gelus)}")
        low, high = ends[name]
        if gelu:
            low = np.maximum(low, np.float32(_GELU_IS_ZERO))
        grids_by_name[name] = channel_scales.grid(np.concatenate(samples.pop(name), 1), low, high, gelu)
    return grids_by_name
