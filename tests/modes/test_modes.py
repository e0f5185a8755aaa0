"""Every mode on a tiny local model with real torch: built, opened, compared with the original, counted."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import own_cache
from networks import FAMILY, calibration, exercise, forward, inputs, opened
from noise import snr_db
from prepared import Prepared
from tiny_model import CONFIG

from bench import modes
from bench.artefacts import build as artefacts_build
from bench.artefacts import cache
from bench.core import child, paths
from bench.core.paths import ROOT
from bench.core.specs import Placement, SpecError, Variant
from bench.device import cpu
from bench.families import catalogue
from bench.families.family import Array, Family
from bench.families.network import Profile
from bench.modes import probe
from bench.modes.mode import Cost, Mode, ModeError, ModeSpec, Needs, Option, Precision
from bench.modes.onnx import integers
from bench.modes.openvino import engine as openvino_engine
from bench.modes.torch import engine as torch_engine
from bench.modes.torchao import int8_static

# (bits of the weights, bits of the activations) of the linear layers, where they are not those of everything else.
LINEAR = {
    "torch-int8-dynamic": (8, 8),
    "torch-int8-dynamic-per-channel": (8, 8),
    "torchao-int8-dynamic": (8, 8),
    "torchao-int8-weight-only": (8, 32),
    "torch-int8-static": (8, 8),
    "torch-int8-qat": (8, 8),
    "onnx-int8-dynamic": (8, 8),
    "onnx-int8-static": (8, 8),
    "onnx-int4": (4, 32),
}
# Of the feature extractor: (bits of the weights, bits of the activations) -> convolutions.
EXTRACTOR = {"onnx-int8-static": {(32, 32): 1, (8, 8): 6}, "openvino-int8-static": {(16, 16): 1, (8, 8): 6}}
# Further parts that are of other bits than 32 or of a bf16 mode's 16. Activations of 16 bits are those of a processor
# that multiplies in bf16.
OTHERS: dict[str, dict[str, tuple[int | None, int]]] = {
    "openvino-int8-weight-only": {
        "positional conv": (16, 16),
        "norms and biases": (32, 32),
        "encoder linears": (8, 16),
        "head": (8, 16),
        "attention products": (None, 16),
    },
    "openvino-int8-static": {
        "positional conv": (16, 16),
        "norms and biases": (32, 32),
        "encoder linears": (8, 8),
        "head": (8, 8),
        "attention products": (None, 8),
    },
}
HALF_BIASES = ("openvino-int8-weight-only", "openvino-int8-static")
EXTRACTOR["openvino-int8-weight-only"] = {(8, 16): 7}
EXTRACTOR["torch-int8-static"] = {(32, 32): 4, (8, 8): 3}
# Of everything else, where it is not 32 bits; of OpenVINO's int8 modes the parts stand in OTHERS.
PLAIN = {
    "torch-bf16": (16, 16),
    "openvino-bf16": (16, 16),
    "openvino-int8-weight-only": (8, 16),
    "openvino-int8-static": (8, 8),
}
ALL = sorted(modes.modes())
REVIEWED = {*LINEAR, *PLAIN, "torch-fp32", "onnx-fp32", "openvino-fp32"}  # whose bits stand in these tables
SPECS = {name: mode.SPEC for name, mode in modes.modes().items()}

# What torch says of its own quantized tensors, which one mode uses knowingly.
pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.ao|quantized tensor|TypedStorage)")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """What is compiled when it is opened is opened once for all of these tests: that takes half a minute."""
    kept: dict[Path, Any] = {}
    compiled = [mode for mode in modes.modes().values() if mode.SPEC.needs.compiles]
    assert compiled == [int8_static.MODE]
    really = int8_static.MODE.open

    def open(directory: Path, placement: Placement, family: Family, networks: Any) -> Any:
        import torch

        if directory not in kept:
            kept[directory] = really(directory, placement, family, networks)
        torch.set_num_threads(placement.threads)  # as it really does; of another number it would compile again
        return kept[directory]

    with pytest.MonkeyPatch.context() as m:
        m.setattr(int8_static.MODE, "open", open)
        yield


@pytest.fixture(scope="module")
def built(every_mode: SimpleNamespace) -> Callable[[str], Prepared]:
    """Artefacts by mode."""
    return lambda mode: every_mode.artefacts[mode]


@pytest.fixture
def place(every_mode: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The folders of artefacts by mode."""
    monkeypatch.setenv("EARBENCH_DATA", str(every_mode.data))
    return lambda mode: cache.folder(every_mode.artefacts[mode].digest)


def original(tiny: Path, x: Array) -> Array:
    """Logits of plain transformers, nothing of Earbench between."""
    import torch
    from transformers import Wav2Vec2ForCTC

    with torch.inference_mode():
        logits: Array = Wav2Vec2ForCTC.from_pretrained(tiny).eval()(torch.from_numpy(x)).logits.numpy()
        return logits


def profile(directory: Path) -> Profile:
    """What a pass of an artefact computes, at the size for which it is counted."""
    return FAMILY.profile(json.loads((directory / "config.json").read_text()), FAMILY.COVERAGE_SIZE)


@pytest.mark.parametrize("name", ALL)
def test_logits_against_the_original(name: str, tiny: Path, place: Callable[[str], Path]) -> None:
    # What is compiled would be compiled once more for another batch: not compiled, it runs with the snippets.
    x = inputs(2.0, batch=1 if SPECS[name].needs.compiles else 2)
    logits = forward(name, place(name))(x)
    assert logits.shape == (len(x), 99, 32)
    snr = snr_db(original(tiny, x), logits)
    assert snr > SPECS[name].min_random_snr_db
    if SPECS[name].weights.bits < 32:
        assert snr < 100  # it really is another precision


@pytest.mark.parametrize("name", ALL)
def test_coverage_is_whole_and_of_the_right_bits(name: str, tiny: Path, place: Callable[[str], Path]) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    directory, spec = place(name), SPECS[name]
    networks = {"model": opened(name, directory, threads=1)}
    parts = modes.find(name).coverage(networks, profile(directory), exercise()).parts
    model = Wav2Vec2ForCTC.from_pretrained(tiny)
    # A folded weight norm is one weight where there were two parameters: the norms, one a kernel position, are gone.
    norms = CONFIG["num_conv_pos_embeddings"]
    assert isinstance(norms, int)
    # What training alone uses is no part of an exported graph.
    unused = 0 if spec.engine == "torch" else model.wav2vec2.masked_spec_embed.numel()
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in model.parameters()) - norms - unused
    assert sum(p.macs for p in parts) == profile(directory).macs
    if spec.engine == "openvino" and spec.weights.bits == 8 and openvino_engine.runs("bf16") == "f32":
        parts = tuple(replace(p, activation_bits=16) if p.activation_bits == 32 and p.macs else p for p in parts)
    if name in HALF_BIASES:  # the positional convolution's is stored as its weights are
        (half,) = (p for p in parts if p.name == "norms and biases" and p.weight_bits == 16)
        assert half.parameters == CONFIG["hidden_size"]
        parts = tuple(p for p in parts if p != half)
    bits = {p.name: (p.weight_bits, p.activation_bits) for p in parts}
    # Of the extractor's seven convolutions some run in int8 and some do not.
    mixed = {(p.weight_bits, p.activation_bits): p.nodes for p in parts if p.name == "feature extractor"}
    assert mixed == EXTRACTOR.get(name, {bits["feature extractor"]: 7})
    assert len(bits) == len(parts) - len(mixed) + 1  # no other part is of two precisions
    linear = spec.stores.get("linear", spec.stores[""]), spec.activations.bits  # what a new mode says of itself
    assert linear == LINEAR.get(name, linear)
    plain = spec.stores[""], 32 if "linear" in spec.stores else spec.activations.bits
    assert plain == PLAIN.get(name, (32, 32)) or name not in REVIEWED
    if name not in EXTRACTOR:
        assert set(mixed) == {plain}
    del bits["feature extractor"]
    assert bits == {
        "positional conv": plain,
        "encoder linears": linear,
        "head": linear,
        "attention products": (None, plain[1]),
        "norms and biases": plain,
        **OTHERS.get(name, {}),
    }
    linears = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.parameters for p in parts if p.name in ("encoder linears", "head")) == sum(linears)


def test_what_is_compiled_multiplies_the_integers_that_the_artefact_holds(place: Callable[[str], Path]) -> None:
    import torch
    from safetensors.torch import load_file

    directory = place("torch-int8-static")
    compiled = opened("torch-int8-static", directory)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == paths.cache() / "inductor"
    reference = int8_static.reference(directory, FAMILY)
    for length_s in (2.0, 2.3456):
        x = inputs(length_s, seed=1)
        with torch.no_grad():
            logits = reference(torch.from_numpy(x)).logits.numpy()
        error = compiled.start()({"x": x})["logits"] - logits
        assert 10 * np.log10(logits.var() / (error**2).mean()) > 20  # a step of rounding may fall to either side
    tensors = load_file(directory / "model.safetensors")
    assert set(compiled.ran) == {n.removesuffix(".weight") for n, t in tensors.items() if t.dtype.itemsize == 1}
    # Were a layer left in floats by the compiler, it would be said.
    without = {n: operators for n, operators in compiled.ran.items() if n != "lm_head"}
    quantized = int8_static.MODE.quantized
    left = torch_engine.count({"model": compiled}, profile(directory), exercise(), quantized, {"model": without})
    assert [(p.weight_bits, p.activation_bits) for p in left.parts if p.name == "head"] == [(8, 32)]


def graph_bytes(file: Path) -> int:
    """What of a file is nodes and their names."""
    if file.suffix == ".onnx":
        return file.stat().st_size - sum(t.ByteSize() for t in onnx.load(file).graph.initializer)
    return file.stat().st_size if file.suffix == ".xml" else 0


@pytest.mark.parametrize("name", ALL)
def test_the_size_is_that_of_the_files_and_near_the_estimate(
    name: str, built: Callable[[str], Prepared], place: Callable[[str], Path]
) -> None:
    files = [f for f in place(name).iterdir() if f.name != cache.MANIFEST]
    assert built(name).size_bytes == sum(f.stat().st_size for f in files)
    assert {f.name for f in files} >= {"config.json", "vocab.json", "preprocessor_config.json"}
    stores = SPECS[name].stores
    expected = sum(w.parameters * stores.get(w.kind, stores[""]) // 8 for w in profile(place(name)).works)
    graph = sum(map(graph_bytes, files))  # as large for a tiny model as for a big one
    assert expected < built(name).size_bytes - graph < expected + 75_000  # names, scales, biases and norms


def test_size_on_disk_follows_the_bits(built: Callable[[str], Prepared]) -> None:
    sizes = {name: built(name).size_bytes for name in ALL}
    assert all(sizes[name] < sizes["torch-fp32"] for name in ALL if SPECS[name].weights.bits < 32)


TORCH_AO = ["torch-int8-dynamic", "torch-int8-dynamic-per-channel"]


@pytest.mark.parametrize("name", TORCH_AO)
def test_the_state_dict_holds_int8(name: str, place: Callable[[str], Path]) -> None:
    import torch

    state = torch.load(place(name) / "weights.pt", weights_only=True)
    packed = {k: v for k, v in state.items() if k.endswith("._packed_params._packed_params")}
    # 2 layers of 4 + 2 linears, the projection and the head
    assert len(packed) == 2 * 6 + 2
    for weight, _ in packed.values():
        assert weight.dtype == torch.qint8
        assert (weight.qscheme() == torch.per_channel_affine) == name.endswith("per-channel")
        # The range is used, and by every row where every row has a scale.
        peaks = weight.int_repr().int().abs().amax(dim=1)
        assert (peaks.min() if name.endswith("per-channel") else peaks.max()) > 120
    floats = [k for k, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() > 1]
    assert all(".conv" in k for k in floats if not k.endswith("masked_spec_embed")), floats


@pytest.mark.parametrize("name", ["torchao-int8-dynamic", "torchao-int8-weight-only", "torch-int8-qat"])
def test_the_safetensors_hold_int8(name: str, place: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file

    tensors = load_file(place(name) / "model.safetensors")
    integers = {k: v for k, v in tensors.items() if k.endswith("._weight_qdata")}
    assert len(integers) == 2 * 6 + 2
    for weight in integers.values():
        assert weight.itemsize == 1 and weight.int().abs().amax(dim=1).min() > 120  # every row uses its range
    floats = [k for k, v in tensors.items() if v.is_floating_point() and v.dim() > 1 and v.shape[-1] > 1]
    assert all(".conv" in k for k in floats if not k.endswith("masked_spec_embed")), floats


def graph(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The nodes of an ONNX artefact, and its tensors by name."""
    whole = onnx.load(directory / "model.onnx").graph
    return whole.node, {tensor.name: tensor for tensor in whole.initializer}


def test_the_products_of_dynamic_onnx_hold_int8(place: Callable[[str], Path]) -> None:
    nodes, tensors = graph(place("onnx-int8-dynamic"))
    products = {n.name: tensors[n.input[1]] for n in nodes if n.op_type == "MatMulInteger"}
    assert len(products) == 2 * 6 + 2 and {"lm_head", "wav2vec2.encoder.layers.1.attention.v_proj"} < set(products)
    for weight in products.values():
        assert weight.data_type == onnx.TensorProto.INT8
        assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max(axis=0).min() > 60  # every column has a scale
    left = [n for n in nodes if n.op_type in ("MatMul", "Gemm")]
    assert {n.name.rpartition("/")[2] for n in left} == {"qk", "av"}  # no linear layer was skipped
    assert not any(n.op_type == "ConvInteger" for n in nodes)


def test_every_linear_layer_of_onnx_int4_is_packed(place: Callable[[str], Path]) -> None:
    nodes, tensors = graph(place("onnx-int4"))
    packed = [n for n in nodes if n.op_type == "MatMulNBits"]
    assert len(packed) == 2 * 6 + 2 and "lm_head" in {n.name for n in packed}
    for node in packed:
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (4, 32, 1)
        blocks = -(-attributes["K"] // 32)
        assert list(tensors[node.input[1]].dims) == [attributes["N"], blocks, 16]  # two weights a byte
    assert not any(n.op_type == "Gemm" for n in nodes)


def build_static(base: Path, directory: Path, **settings: Any) -> dict[str, str]:
    """Build `onnx-int8-static` on two clips from an fp32 artefact; returns what was chosen."""
    mode = modes.find("onnx-int8-static")
    for file in FAMILY.FILES:
        (directory / file).write_bytes((base / file).read_bytes())
    clips = calibration(inputs(1.0, seed=0), inputs(1.0, seed=1))
    return mode.build(base, FAMILY, clips, modes.complete(mode, settings), directory, lambda _: None)


@pytest.mark.parametrize("float_convs", [0, 2, 7])
def test_static_onnx_keeps_exactly_the_first_convolutions_float(
    float_convs: int, place: Callable[[str], Path], tmp_path: Path
) -> None:
    build_static(place("onnx-fp32"), tmp_path, float_convs=float_convs)
    nodes, tensors = graph(tmp_path)
    types = {name: tensor.data_type for name, tensor in tensors.items()}
    dequantized = {n.output[0]: types.get(n.input[0]) for n in nodes if n.op_type == "DequantizeLinear"}
    # From the sound on, each convolution by whom it reads from.
    source, extractor = {o: n for n in nodes for o in n.output}, []
    node = next(n for n in nodes if n.name == "wav2vec2/Transpose")
    while node.input[0] in source:
        node = source[node.input[0]]
        extractor += [node] if node.op_type == "Conv" else []
    kept = [n.input[1] in tensors for n in reversed(extractor)]
    assert kept == [i < float_convs for i in range(7)]
    products = [n for n in nodes if n.op_type in ("MatMul", "Gemm") and not n.name.endswith(("/qk", "/av"))]
    assert len(products) == 2 * 6 + 2
    for product in (*products, *(n for n, is_float in zip(reversed(extractor), kept, strict=True) if not is_float)):
        assert dequantized[product.input[1]] == onnx.TensorProto.INT8
        assert product.input[0] in dequantized  # so the engine can multiply integers


@pytest.mark.parametrize(("x86", "reduced"), [(False, False), (True, True)])
def test_static_onnx_for_other_processors(
    x86: bool, reduced: bool, tiny: Path, place: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arm's kernels want signed activations; x86 without VNNI sums in 16 bits, where 8-bit weights overflow."""
    monkeypatch.setattr(integers, "x86", lambda: x86)
    monkeypatch.setattr(integers, "reduced", lambda: reduced)
    details = build_static(place("onnx-fp32"), tmp_path)
    assert details["range"] == ("7 bits" if reduced else "8 bits")
    nodes, tensors = graph(tmp_path)
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    zeros = {arrays[n.input[2]].dtype for n in nodes if n.op_type == "QuantizeLinear"}
    assert zeros == {np.dtype(np.uint8 if x86 else np.int8)}
    weights = [w for w in arrays.values() if w.dtype == np.int8 and w.ndim > 1]
    assert len(weights) == 6 + 2 * 6 + 2
    assert {int(np.abs(w.astype(int)).max()) for w in weights} <= ({63, 64} if reduced else {127, 128})
    x = inputs(2.0)
    logits = forward("onnx-int8-static", tmp_path)(x)
    assert snr_db(original(tiny, x), logits) > SPECS["onnx-int8-static"].min_random_snr_db - 2


@pytest.mark.parametrize("name", TORCH_AO)
def test_a_pickle_in_the_place_of_the_int8_weights_is_not_run(
    name: str, place: Callable[[str], Path], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    directory = tmp_path / "artefact"
    directory.mkdir()
    (directory / "config.json").write_text((place(name) / "config.json").read_text())
    (directory / "weights.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        opened(name, directory, threads=1)
    assert not (tmp_path / "ran").exists()


def test_opening_sets_the_threads(place: Callable[[str], Path]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            opened("torch-fp32", place("torch-fp32"), threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_lean_configuration_opens_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of others may name only what differs from the architecture's defaults."""
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path / "data"))
    lean = tmp_path / "lean"
    lean.mkdir()
    for file in ("model.safetensors", "vocab.json"):
        (lean / file).write_bytes((tiny / file).read_bytes())
    named = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], **CONFIG}
    (lean / "config.json").write_text(json.dumps(named))
    digest = artefacts_build.prepare(str(lean), "torch-fp32", {}, lambda _: None)[0].digest
    directory = cache.folder(digest)
    network = opened("torch-fp32", directory, threads=1)
    x = inputs(1.0)
    np.testing.assert_allclose(network.start()({"x": x})["logits"], original(tiny, x), atol=1e-5)
    coverage = modes.find("torch-fp32").coverage({"model": network}, profile(directory), exercise())
    assert coverage.macs_ratio(32) == 1


def test_a_damaged_artefact_is_built_again_and_gives_the_same(tiny_model: Path, data_folder: Path) -> None:
    """What repairs it does not depend on the mode: see also the tests of the cache, and of a worker that builds."""
    own_cache(data_folder)
    prepare = partial(artefacts_build.prepare, str(tiny_model), "openvino-fp32", {}, lambda _: None)
    artefact, _ = prepare()
    assert artefact.from_cache
    x, directory = inputs(1.0), cache.folder(artefact.digest)
    logits = forward("openvino-fp32", directory)(x)
    weights = max(directory.iterdir(), key=lambda f: f.stat().st_size)
    intact = weights.read_bytes()
    broken = bytearray(intact)
    broken[len(broken) // 2] ^= 1
    weights.write_bytes(broken)
    again, _ = prepare()
    assert again.digest == artefact.digest and not again.from_cache
    assert weights.read_bytes() == intact
    np.testing.assert_array_equal(forward("openvino-fp32", directory)(x), logits)


# --- the list, the contract, the probe


def mode_files() -> dict[str, Mode]:
    """The modes that the files of the engines' packages hold, by package and file."""
    files = sorted(f.relative_to(ROOT / "bench" / "modes") for f in (ROOT / "bench" / "modes").glob("*/*.py"))
    names = [".".join(f.with_suffix("").parts) for f in files]
    modules = {name: importlib.import_module(f"bench.modes.{name}") for name in names}
    return {name: module.MODE for name, module in modules.items() if hasattr(module, "MODE")}


def test_every_mode_file_is_in_the_list() -> None:
    files = mode_files()
    assert set(files) == set(modes.ORDER) and len(set(modes.ORDER)) == len(modes.ORDER)
    assert list(modes.modes().values()) == [files[name] for name in modes.ORDER]
    for file, mode in files.items():
        assert mode.name.replace("-", "_").endswith(file.rpartition(".")[2])
        assert modes.modes()[mode.name] is mode
    assert next(iter(modes.modes())) == modes.original() == "torch-fp32"  # the original is the baseline
    assert set(modes.first()) <= set(ALL) and modes.original() in modes.first()


@pytest.mark.parametrize("name", ALL)
def test_a_mode_keeps_the_contract(name: str) -> None:
    mode, spec = modes.find(name), SPECS[name]
    kinds = {
        "weights": Precision,
        "activations": Precision,
        "needs": Needs,
        "cost": Cost,
        "settings": dict,
        "stores": dict,
        "offered": tuple,
        "version": int,
        "first": bool,
        "min_snr_db": float,
        "min_random_snr_db": float,
    }
    assert isinstance(mode, Mode) and isinstance(spec, ModeSpec)
    assert set(kinds) < {field.name for field in fields(ModeSpec)}
    for field in fields(ModeSpec):
        assert isinstance(getattr(spec, field.name), kinds.get(field.name, str)), field.name
    for method, declared in inspect.getmembers(Mode, inspect.isfunction):
        if not method.startswith("_"):
            parameters = inspect.signature(getattr(type(mode), method)).parameters
            assert parameters.keys() == inspect.signature(declared).parameters.keys(), method
    assert mode.name == spec.name == name
    assert spec.engine
    assert spec.label and spec.weights.text and spec.activations.text
    for settings in ({}, *spec.offered):
        assert set(modes.complete(mode, settings)) == set(spec.settings)
    assert ({"clips", "data"} <= set(spec.settings)) == bool(spec.data)
    order = list(modes.modes())
    assert not spec.base or order.index(spec.base) < order.index(name)
    assert min(spec.stores.values()) == spec.weights.bits and "" in spec.stores
    # Every mode has its bounds, and the engine's own fp32 mode beside which it is shown.
    assert spec.min_snr_db > 0 and spec.min_random_snr_db > 0
    reference = SPECS[spec.float_reference]
    assert reference.engine == spec.engine and reference.weights.bits == reference.activations.bits == 32
    assert mode.supports(FAMILY, catalogue.find(catalogue.default()).config) == ""


def test_unknown_mode() -> None:
    with pytest.raises(ModeError) as e:
        modes.find("int3")
    assert str(e.value) == f"There is no mode “int3”. Allowed: {', '.join(modes.modes())}."


def test_the_probe_tells_of_every_mode_and_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    probe._answer.clear()
    availability = probe.availability()
    assert list(availability) == list(modes.modes())
    assert availability["torch-fp32"] == probe.Availability("available")
    dynamic = availability["torch-int8-dynamic"]
    assert dynamic.state == "available" and "engine" in dynamic.remark
    fast = modes.find("torch-bf16").SPEC.needs.fast_isa & cpu.isa()
    assert availability["torch-bf16"].state == ("available" if fast else "emulated")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(child, "ask", never)
    assert probe.availability() == availability
    probe._answer.clear()
    assert probe.availability() == availability, "the file remembers for the next process"
    probe._answer.clear()
    monkeypatch.setattr(cpu, "cpu_name", lambda: "another processor")
    with pytest.raises(AssertionError, match="asked again"):  # what was remembered is of another device
        probe.availability()


class Broken:
    """A mode whose check or package fails."""

    def __init__(self, reason: str = "", package: str = "json", to_build: str = "json") -> None:
        self.reason = reason
        self.SPEC = SimpleNamespace(needs=Needs((package,), frozenset({"a flag of no processor"}), (to_build,)))

    def check(self) -> str:
        if self.reason:
            raise RuntimeError(self.reason)
        return "a remark"


def test_the_probe_gives_reasons() -> None:
    missing = probe.probe(Broken(package="no_such_package_here"))  # type: ignore[arg-type]
    assert missing.state == "unavailable"
    assert "no_such_package_here can't be imported" in missing.remark and "requirements.txt" in missing.remark
    assert probe.probe(Broken("no engine")) == probe.Availability("unavailable", "no engine")  # type: ignore[arg-type]
    slow = probe.probe(Broken())  # type: ignore[arg-type]
    assert slow.state == "emulated" and "a flag of no processor" in slow.remark and slow.builds
    opens = probe.probe(Broken(to_build="no_such_package_here"))  # type: ignore[arg-type]
    assert opens.state == "emulated" and not opens.builds
    assert "opens what was built elsewhere; to build here, no_such_package_here can't be imported" in opens.remark


# --- settings


def test_a_setting_is_read_in_its_type_or_refused() -> None:
    number, rate, kind = Option(4, "", 0, 7), Option(1e-4, "", 0, 1), Option("bf16", "", allowed=("bf16", "f32"))
    assert number.read("n", 0) == 0 and rate.read("r", 1) == 1.0 and kind.read("k", "f32") == "f32"
    assert type(rate.read("r", 1)) is float
    assert Option("", "").read("data", 7) == "7"  # a folder may be named so
    for option, value, allowed in (
        (number, 8, "whole numbers from 0 to 7"),
        (number, 1.5, "whole numbers from 0 to 7"),
        (number, True, "whole numbers from 0 to 7"),
        (rate, -0.1, "numbers from 0 to 1"),
        (kind, "int4", "bf16, f32"),
        (Option(5, "", 1), 0, "whole numbers from 1"),
    ):
        with pytest.raises(ModeError) as e:
            option.read("n", value)
        assert str(e.value) == f"Setting n: got {value!r}; allowed: {allowed}."


def test_a_variant_is_spelled_as_it_is_read() -> None:
    v = Variant.parse("demo", "openvino-int8-static:float_convs=0:data=/a b:fast=true:rate=0.5", Placement("cpu", 2))
    assert dict(v.settings) == {"float_convs": 0, "data": "/a b", "fast": True, "rate": 0.5}
    assert v.mode == "openvino-int8-static" and Variant.parse("demo", v.spelled, Placement("cpu", 2)) == v
    with pytest.raises(SpecError, match="got “torch-fp32:x”"):
        Variant.parse("demo", "torch-fp32:x", Placement("cpu", 2))
    with pytest.raises(ModeError, match="torch-fp32 has no setting “clips”"):
        modes.check(Variant.parse("demo", "torch-fp32:clips=3", Placement("cpu", 2)))


def test_every_entry_of_the_menu_can_be_asked_for() -> None:
    for text in modes.menu():
        modes.check(Variant.parse("demo", text, Placement("cpu", 1)))
