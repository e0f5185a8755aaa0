"""The OpenVINO engine, shared by its modes: convert ONNX to graphs on disk, open and run them, count their coverage.

An artefact has one .xml and one .bin file per network and is opened with OpenVINO alone. Its nodes keep the names of
torch's modules that the ONNX export gives them, so that executed nodes can be traced to modules: see
`bench.modes.onnx.export`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.records import Coverage
from bench.core.specs import Placement
from bench.families.family import Family
from bench.families.network import Feed, Network, Profile
from bench.modes.coverage import Graph, count
from bench.modes.mode import Exercise, Mode
from bench.modes.onnx.engine import ENDING as ONNX_ENDING
from bench.modes.openvino import bfloat16, file_pages
from bench.modes.openvino.bfloat16 import PRODUCTS
from bench.modes.openvino.extractor import over_images

ENDING = ".xml"  # suffix of a network's file, after the network's name
QUANTIZE_PACKAGES = ("nncf",)
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
OPEN_CODE = """import openvino

core = openvino.Core()
graph = core.read_model("model.xml")
floats = graph.get_rt_info(["earbench", "floats"]).astype(str)  # f32 or bf16: else OpenVINO chooses by itself
properties = {"INFERENCE_PRECISION_HINT": floats, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
compiled = core.compile_model(graph, "CPU", properties)


def forward(batch):  # (batch, samples) float32 -> (batch, frames, vocab) float32
    return compiled([batch])[0]"""
_FLOATS = ["earbench", "floats"]  # path in a model's runtime info of the precision in which its floats run
_WEIGHT = "/weight"  # suffix that makes a product's name that of its weight constant
_STORAGE_OPS = ("Convert", "Subtract", "Multiply", "Reshape")  # between a product and its weight, as it is stored
_RECURRENT = ("RNNSeq", "RNNCell")
_EXECUTED = ("Convolution", "FullyConnected", "MatMul", "Subgraph")  # when executed; the last is fused attention


class OpenVinoMode(Mode):
    """A mode whose artefact is one OpenVINO graph per network; floats run in the precision `FLOATS`, f32 or bf16."""

    FLOATS: str

    def check(self) -> str:
        """Return a remark if OpenVINO multiplies in another precision than the mode requests."""
        return remark(self.FLOATS)

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, OpenVinoOpened]:
        """See Mode."""
        return {n.name: OpenVinoOpened(directory / f"{n.name}{ENDING}", n, placement) for n in networks}

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """See Mode; weights are counted in the files, activations in the engine's graph after a pass."""
        exercise(opened)  # some kernels are only selected at the first pass

        def look(network: str, names: set[str]) -> Graph:
            stored, others = _stored(opened[network].file, names)
            compiled = opened[network].compiled
            layers = [w.module for w in profile.works if w.network == network and w.kind == "recurrent"]
            return Graph(stored, _recurrent(compiled, layers) | _executed(compiled, names), others)

        return count(profile, look)


class OpenVinoOpened:
    """A compiled model that implements `Opened`."""

    def __init__(self, file: Path, network: Network, placement: Placement) -> None:
        """Compile a network's file for the CPU; floats run in the precision that the file requests.

        This includes a first short pass, because OpenVINO copies the weights then.
        """
        import openvino

        core, self.file, self.network = openvino.Core(), file, network
        model = core.read_model(file)
        floats = model.get_rt_info(_FLOATS).astype(str)
        if floats == "bf16" and runs("bf16") == "bf16":
            bfloat16.read(model)
        if network.state:
            _keep_state(model, network)
        with file_pages.let_go(file.with_suffix(".bin")):  # `model` keeps this file mapped
            self.compiled = core.compile_model(model, "CPU", _properties(placement.threads, floats))
            self._names = [port.get_any_name() for port in self.compiled.inputs]
            self._outputs = [port.name for port in network.free_outputs]
            self._shared = self._session()
            self._shared(network.smallest())  # the first pass copies the weights

    def start(self) -> Callable[[Feed], Feed]:
        """See Opened. Inputs are read without a copy; the caller owns the results."""
        return self._session() if self.network.state else self._shared

    def _session(self) -> Callable[[Feed], Feed]:
        request, started = self.compiled.create_infer_request(), not self.network.state

        def run(feed: Feed) -> Feed:
            nonlocal started
            if not started:
                _set_state(request, self.network.first_state(feed))
                started = True
            results = request.infer([feed[name] for name in self._names], share_inputs=True)
            return {name: results[i] for i, name in enumerate(self._outputs)}

        return run


def _keep_state(model: Any, network: Network) -> None:
    """Let the engine feed the state back: turn the model's state inputs and outputs into internal variables."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    apply_make_stateful_transformation(model, {name: output for output, name in network.state})


def _set_state(request: Any, first: Mapping[str, Any]) -> None:
    """Set the initial state. A variable's name begins with that of its former input."""
    import openvino

    for variable in request.query_state():
        name = max((n for n in first if variable.name.startswith(n)), key=len)
        variable.state = openvino.Tensor(first[name])


def read(base: Path, network: Network) -> Any:
    """Convert a network of an ONNX artefact to a float `openvino.Model`."""
    import openvino
    from openvino.frontend import FrontEndManager

    file = base / f"{network.name}{ONNX_ENDING}"
    model = openvino.convert_model(file)
    # OpenVINO names a node that produces a result after the result: restore its name in the file.
    source = FrontEndManager().load_by_framework("onnx").load(str(file))
    for i, output in enumerate(source.get_outputs()):
        (name,) = output.get_producing_operation().get_names()
        model.output(i).get_node().input_value(0).get_node().set_friendly_name(name)
    over_images(model)
    return model


def save(model: Any, file: Path, floats: str) -> None:
    """Write the model unchanged, with the precision in which its floats run (f32 or bf16) in its runtime info.

    `compress_to_fp16` must be off: by default OpenVINO writes float weights in 16 bits.
    """
    import openvino

    for op, weight in _weights(model):  # compilation may rename a product, but not its weight
        weight.set_friendly_name(f"{op.get_friendly_name()}{_WEIGHT}")
    model.set_rt_info(floats, _FLOATS)
    openvino.save_model(model, file, compress_to_fp16=False)


def _weights(model: Any) -> list[tuple[Any, Any]]:
    """Return (product node, weight constant) for each product with a weight."""
    pairs = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in PRODUCTS:
            weight = op.input_value(1).get_node()
            while weight.get_type_name() in _STORAGE_OPS:
                weight = weight.input_value(0).get_node()
            if weight.get_type_name() == "Constant":
                pairs.append((op, weight))
    return pairs


def code(floats: str, quantize: str = "") -> str:
    """Return plain code for the same, without a file; `quantize` holds the lines that change `graph` with NNCF."""
    imported = "import nncf\nimport openvino" if quantize else "import openvino"
    return f"""{imported}

graph = openvino.convert_model(model, example_input=audio)
{quantize}properties = {{"INFERENCE_PRECISION_HINT": "{floats}", "INFERENCE_NUM_THREADS": torch.get_num_threads()}}
properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # activations are only quantized where the graph says so
model = openvino.compile_model(graph, "CPU", properties)
audio = audio.numpy()"""


def remark(floats: str) -> str:
    """Return a remark if floats run in another precision than `floats`, which is only a hint to OpenVINO."""
    actual = runs(floats)
    return "" if actual == floats else f"OpenVINO multiplies {actual} on this processor where {floats} is asked for"


@cache
def runs(floats: str) -> str:
    """Return the precision in which OpenVINO multiplies here when `floats` is requested, from a compiled product."""
    from openvino import Core, Model, Type, opset13

    x = opset13.parameter([-1, 64], Type.f32)
    product = opset13.matmul(x, np.ones((64, 64), np.float32), False, False)
    compiled = Core().compile_model(Model([product], [x]), "CPU", _properties(1, floats))
    (actual,) = (_info(op, "runtimePrecision") for op in compiled.get_runtime_model().get_ordered_ops() if _product(op))
    return actual


def _properties(threads: int, floats: str) -> dict[str, str | int]:
    """Return the properties of all modes: one pass at a time, in the requested precision, not OpenVINO's choice."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": floats,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # quantize activations only where the file says so
    }


def module(name: str, names: set[str]) -> str | None:
    """Return the one of `names` that a node belongs to, or None. A node is named MODULE or MODULE/suffix."""
    while name not in names and "/" in name:
        name = name.rpartition("/")[0]
    return name if name in names else None


def _stored(file: Path, names: set[str]) -> tuple[dict[str, tuple[int, int]], Counter[int]]:
    """Return ({node: (bits, elements) of its weight}, elements of all other parameters by bits)."""
    import openvino

    constants: dict[str, list[Any]] = {}  # by node: the constants of its value, if it depends on no input
    stored: dict[str, tuple[int, int]] = {}
    others: Counter[int] = Counter()
    for op in openvino.Core().read_model(file).get_ordered_ops():
        kind, inputs = op.get_type_name(), [value.get_node().get_friendly_name() for value in op.input_values()]
        name = module(op.get_friendly_name(), names)
        if kind == "Constant":
            constants[op.get_friendly_name()] = [op]
        elif inputs and all(i in constants for i in inputs):
            constants[op.get_friendly_name()] = [c for i in inputs for c in constants[i]]
        elif kind in PRODUCTS and name and inputs[1] in constants:  # the weight is the largest; the others are scales
            stored[name] = max((_elements(c), _bits(c)) for c in constants[inputs[1]])[::-1]
        elif kind == "Gather" and op.get_friendly_name() in names and inputs[0] in constants:  # an embedding
            stored[op.get_friendly_name()] = max((_elements(c), _bits(c)) for c in constants[inputs[0]])[::-1]
        elif kind in ("Multiply", "Add"):  # norms and biases; single numbers are scales and belong to no module
            for c in (c for i in inputs for c in constants.get(i, ()) if _elements(c) > 1):
                others[_bits(c)] += _elements(c)
    return stored, others


def _bits(constant: Any) -> int:
    return int(constant.get_output_element_type(0).bitwidth)


def _elements(constant: Any) -> int:
    return int(np.prod(list(constant.get_output_shape(0))))


def _executed(compiled: Any, names: set[str]) -> dict[str, int]:
    """Return the bits of each node's input activations, from the compiled graph."""
    executed: dict[str, int] = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        if _product(op):
            inputs = [value.get_node().get_friendly_name() for value in op.input_values()]
            weights = [name for name in inputs if name.endswith(_WEIGHT)]
            for original in (*_info(op, "originalLayersNames").split(","), *weights):
                name = module(original, names)
                if name and ("/" in name or _info(op, "layerType") != "Subgraph"):  # there only attention multiplies
                    # The input's type, not "runtimePrecision", which is int8 wherever weights are stored in int8.
                    executed[name] = int(op.input_value(0).get_element_type().bitwidth)
                    if name.endswith("/av"):  # the product of the scores may carry the name of their scaling
                        scores = f"{name.removesuffix('av')}qk"
                        if (product := _scores(op)) is not None and scores in names:
                            executed.setdefault(scores, int(product.input_value(0).get_element_type().bitwidth))
    return executed


def _recurrent(compiled: Any, layers: Sequence[str]) -> dict[str, int]:
    """Return the same for whole recurrent layers, matched by execution order because OpenVINO renames them."""
    ops = [op for op in compiled.get_runtime_model().get_ordered_ops() if _info(op, "layerType") in _RECURRENT]
    if len(ops) != len(layers):
        return {}
    return {name: int(op.input_value(0).get_element_type().bitwidth) for name, op in zip(layers, ops, strict=True)}


def _scores(weighted: Any) -> Any | None:
    """Return the product that computes an attention's scores, given the one that multiplies them with the values."""
    op = weighted.input_value(0).get_node()
    while _info(op, "layerType") in ("Softmax", "Eltwise", "FakeQuantize", "Reorder", "Convert", "Subgraph"):
        if not op.input_values():
            return None
        op = op.input_value(0).get_node()
    return op if _product(op) else None


def _product(op: Any) -> bool:
    """Return whether a node of the executed graph multiplies matrices."""
    return _info(op, "layerType") in _EXECUTED


def _info(op: Any, key: str) -> str:
    return str(op.get_rt_info()[key].astype(str))
