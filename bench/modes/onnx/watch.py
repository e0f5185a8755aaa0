"""What flows through an ONNX graph while it runs on real examples: the ranges of activations are found in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.families.family import Array
from bench.families.network import Feed
from bench.modes import channel_scales
from bench.modes.mode import Progress

_GELU_IS_ZERO = -4.0  # below, GELU is nearer to zero than 2e-4, a small part of a step
_FRAMES, _ALL_FRAMES = 256, 4096  # that are kept of a clip, and of all: where clips are more, one each of the first


def convolutions(graph: Any, sensitive: Sequence[str]) -> list[Any]:
    """The nodes of an ONNX graph that are sensitive convolutions, in the order in which they run."""
    nodes = {node.name: node for node in graph.node if node.op_type == "Conv"}
    return [nodes[name] for name in sensitive if name in nodes]


def into_gelu(graph: Any) -> set[str]:
    """Tensors that nothing reads but GELU."""
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
    """Run the network as far as the named tensors on every feed; `look` sees each of them."""
    import onnx
    import onnxruntime

    names = list(tensors)
    watched = onnx.load(onnx_file)
    nodes, weights, needed = watched.graph.node, watched.graph.initializer, set(names)
    for i in reversed(range(len(nodes))):
        if needed.isdisjoint(nodes[i].output):
            del nodes[i]
        else:
            needed.update(nodes[i].input)
    for i in reversed(range(len(weights))):
        if weights[i].name not in needed:
            del weights[i]
    del watched.graph.output[:]
    for name in names:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(watched, folder / "watched.onnx")
    del watched
    session = onnxruntime.InferenceSession(folder / "watched.onnx", providers=["CPUExecutionProvider"])
    for number, feed in enumerate(feeds, 1):
        progress(f"watching the network, clip {number} of {len(feeds)}")
        for name, found in zip(names, session.run(names, dict(feed)), strict=True):
            look(name, found)


def grids(
    onnx_file: Path, gelus: Mapping[str, bool], feeds: Sequence[Feed], folder: Path, progress: Progress
) -> dict[str, channel_scales.Grid]:
    """By the name of each (1, channels, frames) tensor, its grid; `gelus` says whether nothing but GELU reads it."""
    seen: dict[str, list[Array]] = {name: [] for name in gelus}
    ends: dict[str, tuple[Array, Array]] = {}
    rng = np.random.default_rng(0)
    frames = max(1, min(_FRAMES, _ALL_FRAMES // max(1, len(feeds))))

    def look(name: str, found: Array) -> None:
        x = found[0]  # (channels, frames)
        low, high = ends.get(name, (np.float32(0), np.float32(0)))
        ends[name] = np.minimum(low, x.min(1)), np.maximum(high, x.max(1))
        if len(seen[name]) < _ALL_FRAMES:
            seen[name].append(x[:, np.sort(rng.permutation(x.shape[1])[:frames])])

    if gelus:
        watch(onnx_file, gelus, feeds, folder, progress, look)
    out = {}
    for number, (name, gelu) in enumerate(gelus.items(), 1):
        progress(f"choosing ranges, {number} of {len(gelus)}")
        low, high = ends[name]
        if gelu:
            low = np.maximum(low, np.float32(_GELU_IS_ZERO))
        out[name] = channel_scales.grid(np.concatenate(seen.pop(name), 1), low, high, gelu)
    return out
