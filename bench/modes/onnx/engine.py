"""The ONNX Runtime engine, shared by its modes: open and run networks, and count their coverage."""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.records import Coverage
from bench.core.specs import Placement
from bench.families.family import Family
from bench.families.network import Feed, Network, Profile
from bench.modes.coverage import Graph, count
from bench.modes.mode import Exercise, Mode

ENDING = ".onnx"  # suffix of a network's file, after the network's name
OPEN_CODE = """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    return session.run(["logits"], {"x": batch})[0]"""
RECURRENT = ("GRU", "LSTM")
PRODUCTS = ("MatMul", "Gemm", "Conv", *RECURRENT)
_PROVIDERS = ("CPUExecutionProvider",)
_QUANTIZING = ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM")  # read floats and multiply 8-bit integers
_BITS = {"float": 32, "float16": 16, "int8": 8, "uint8": 8}  # by ONNX Runtime's names of input types
_OTHERS = (".weight", ".bias", ".bias_quantized")  # the last as 32-bit integers


class OnnxMode(Mode):
    """A mode whose artefact has one ONNX file per network."""

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, OnnxOpened]:
        """See Mode."""
        return {n.name: OnnxOpened(directory / f"{n.name}{ENDING}", n, placement) for n in networks}

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """See Mode; weights are counted in the files, activations in a profiled pass of ONNX Runtime."""
        events = _profiled(opened, exercise)

        def look(network: str, names: set[str]) -> Graph:
            stored, others = _stored(opened[network].file, names)
            return Graph(stored, _executed(events[network], names), {32: others})

        return count(profile, look)


class OnnxOpened:
    """An ONNX Runtime session that implements `Opened`."""

    def __init__(self, file: Path, network: Network, placement: Placement, profile: str = "") -> None:
        """Open a network's file on the CPU. `profile` is the prefix of ONNX Runtime's profile file, "" for none."""
        import onnxruntime

        self.file, self.network, self.placement = file, network, placement
        self.session = onnxruntime.InferenceSession(file, self._options(profile), providers=_PROVIDERS)
        self._outputs = [port.name for port in network.free_outputs]
        # Opening leaves freed memory of the weights' size in the heap: return it, so that passes don't add to it.
        with contextlib.suppress(AttributeError, OSError):  # only glibc has malloc_trim
            ctypes.CDLL(None).malloc_trim(0)

    def start(self) -> Callable[[Feed], Feed]:
        """See Opened."""
        return self._with_state() if self.network.state else self._run

    def _options(self, profile: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.placement.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # plans one block for all activations: 66 MB more on base, and no faster
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        return options

    def _run(self, feed: Feed) -> Feed:
        return dict(zip(self._outputs, self.session.run(self._outputs, dict(feed)), strict=True))

    def _with_state(self) -> Callable[[Feed], Feed]:
        """Return a session that keeps its state in ONNX Runtime's memory: fed back from pass to pass without copies."""
        from onnxruntime import OrtValue

        state: dict[str, Any] = {}
        fed_back = dict(self.network.state)
        names = [port.name for port in self.network.outputs]

        def run(feed: Feed) -> Feed:
            if not state:
                first = self.network.first_state(feed)
                state.update({name: OrtValue.ortvalue_from_numpy(x) for name, x in first.items()})
            binding = self.session.io_binding()
            for name, x in feed.items():
                binding.bind_cpu_input(name, x)
            for name, value in state.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name)
            self.session.run_with_iobinding(binding)
            outputs = dict(zip(names, binding.get_outputs(), strict=True))
            state.update({name: outputs.pop(output) for output, name in fed_back.items()})
            return {name: value.numpy() for name, value in outputs.items()}

        return run


def _stored(file: Path, names: set[str]) -> tuple[dict[str, tuple[int | None, int]], int]:
    """Return ({node: (bits, elements) of its weight}, elements of all other parameters)."""
    import onnx

    graph = onnx.load(file).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    stored: dict[str, tuple[int | None, int]] = {}
    used = set()
    for node in graph.node:
        if node.name not in names:
            continue
        if node.op_type == "MatMulNBits":  # weights are packed into bytes and blocks are padded
            sizes = {a.name: a.i for a in node.attribute}
            stored[node.name] = sizes["bits"], sizes["K"] * sizes["N"]
            continue
        places = {"Gather": (0,), "GRU": (1, 2), "LSTM": (1, 2)}.get(node.op_type, (1,))
        weights = [dequantized.get(node.input[i], node.input[i]) for i in places]
        if all(name in tensors for name in weights):
            used.update(weights)
            elements = sum(int(np.prod(tensors[name].dims)) for name in weights)
            stored[node.name] = _bits(tensors[weights[0]]), elements
    # Other parameters, norm weights and biases, keep torch's names.
    others = [t for name, t in tensors.items() if name not in used and name.endswith(_OTHERS)]
    return stored, sum(int(np.prod(t.dims)) for t in others)


def _bits(tensor: Any) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8


def _profiled(opened: Mapping[str, OnnxOpened], exercise: Exercise) -> dict[str, list[Any]]:
    """Return ONNX Runtime's profile of a short pass by network; it includes all fusions and fallbacks."""
    with tempfile.TemporaryDirectory() as folder:
        watched = {n: OnnxOpened(o.file, o.network, o.placement, f"{folder}/{n}") for n, o in opened.items()}
        exercise(watched)
        return {n: json.loads(Path(o.session.end_profiling()).read_text()) for n, o in watched.items()}


def _executed(events: Sequence[Any], names: set[str]) -> dict[str, int]:
    """Return the bits of each node's input activations."""
    executed: dict[str, int] = {}
    for event in events:
        name, suffix, _ = event["name"].partition("_kernel_time")
        kind = event.get("args", {}).get("op_name", "")
        if not suffix or not any(product in kind for product in PRODUCTS):
            continue
        # A fused node is named after the first of its parts: ".../qk/MatMulScaleFusion/", "...conv_token_18".
        name = re.sub(r"_token_\d+$", "", name)
        while name not in names and "/" in name:
            name = name.rpartition("/")[0]
        if name in names:
            (dtype,) = event["args"]["input_type_shape"][0]
            executed[name] = 8 if kind in _QUANTIZING else _BITS[dtype]
    return executed
