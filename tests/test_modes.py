"""Every mode on a tiny local model with real torch: built, opened, compared with the original, counted."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from noise import snr_db
from tiny_model import CONFIG, save

from bench import artefacts, device, models, modes, paths
from bench.models import Array, Family, wav2vec2
from bench.modes import (
    Cost,
    Mode,
    ModeError,
    Needs,
    Option,
    _onnx_integers,
    _openvino,
    _torch,
    probe,
    torch_int8_static,
)
from bench.paths import ROOT
from bench.records import COVERAGE_LENGTH_S, Artefact, SpecError, Variant

# Signal to noise of the logits against fp32, dB: what the precision gives at least, here and elsewhere. bf16 keeps 8
# bits of a mantissa (about 50 dB for one rounding), int8 with one scale a tensor about 40 dB for one layer.
SNR_DB = {
    "torch-fp32": 120.0,
    "torch-bf16": 30.0,
    "torch-int8-dynamic": 20.0,
    "torch-int8-dynamic-per-channel": 20.0,
    "torchao-int8-dynamic": 25.0,
    "torchao-int8-weight-only": 35.0,
    "torch-int8-static": 1.0,  # as for onnx-int8-static, and no peak is cut off; against what is stored, see below
    "torch-int8-qat": 10.0,  # tuning has changed the weights
    "onnx-fp32": 100.0,
    "onnx-int8-dynamic": 25.0,
    "onnx-int8-static": 3.0,  # frames of a random extractor differ by far less than their activations peak
    "onnx-int4": 12.0,
    "openvino-fp32": 100.0,
    "openvino-bf16": 30.0,
    "openvino-int8-weight-only": 30.0,
    "openvino-int8-static": 8.0,
}
STORED = {
    "torch-fp32": 32,
    "torch-bf16": 16,
    "torch-int8-dynamic": 8,
    "torch-int8-dynamic-per-channel": 8,
    "torchao-int8-dynamic": 8,
    "torchao-int8-weight-only": 8,
    "torch-int8-static": 8,
    "torch-int8-qat": 8,
    "onnx-fp32": 32,
    "onnx-int8-dynamic": 8,
    "onnx-int8-static": 8,
    "onnx-int4": 4,
    "openvino-fp32": 32,
    "openvino-bf16": 16,
    "openvino-int8-weight-only": 8,
    "openvino-int8-static": 8,
}
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
        "encoder linears": (8, 16),
        "head": (8, 16),
        "attention products": (None, 16),
    },
    "openvino-int8-static": {
        "positional conv": (16, 16),
        "encoder linears": (8, 8),
        "head": (8, 8),
        "attention products": (None, 8),
    },
}
HALF_BIASES = ("openvino-int8-weight-only", "openvino-int8-static")
EXTRACTOR["openvino-int8-weight-only"] = {(8, 16): 7}
EXTRACTOR["torch-int8-static"] = {(32, 32): 4, (8, 8): 3}
ALL = sorted(modes.modes())

# What torch says of its own quantized tensors, which one mode uses knowingly.
pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.ao|quantized tensor|TypedStorage)")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wav2Vec2ForCTC of a few thousand weights in Hugging Face format."""
    return save(tmp_path_factory.mktemp("tiny"), CONFIG)


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """What is compiled when it is opened is opened once for all of these tests: that takes half a minute."""
    kept: dict[Path, Any] = {}
    compiled = [mode for mode in modes.modes().values() if mode.NEEDS.compiles]
    assert compiled == [torch_int8_static]
    really = torch_int8_static.open

    def open(directory: Path, threads: int, family: Family) -> Any:
        if directory not in kept:
            kept[directory] = really(directory, threads, family)
        return kept[directory]

    with pytest.MonkeyPatch.context() as m:
        m.setattr(torch_int8_static, "open", open)
        yield


@pytest.fixture(scope="module")
def built(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artefact]:
    """Artefacts by mode, each built once, in a data folder of these tests."""
    made: dict[str, Artefact] = {}
    data = tmp_path_factory.mktemp("data")

    def build(mode: str) -> Artefact:
        if mode not in made:
            with pytest.MonkeyPatch.context() as m:
                m.setenv("EARBENCH_DATA", str(data))
                made[mode] = artefacts.prepare(str(tiny), mode, {}, lambda _: None)[0]
        return made[mode]

    build.data = data  # type: ignore[attr-defined]
    return build


@pytest.fixture
def place(built: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.setenv("EARBENCH_DATA", str(built.data))
    return lambda mode: artefacts.folder(built(mode).digest)


def original(tiny: Path, x: Array) -> Array:
    """Logits of plain transformers, nothing of Earbench between."""
    import torch
    from transformers import Wav2Vec2ForCTC

    with torch.inference_mode():
        found: Array = Wav2Vec2ForCTC.from_pretrained(tiny).eval()(torch.from_numpy(x)).logits.numpy()
        return found


@pytest.mark.parametrize("name", ALL)
def test_logits_against_the_original(name: str, tiny: Path, place: Callable[[str], Path]) -> None:
    x = wav2vec2.inputs(2.0, 2, 0, "speech")
    wanted = original(tiny, x)
    found = modes.find(name).open(place(name), 2, models.families()["wav2vec2"])(x)
    assert found.shape == (2, 99, 32)
    assert snr_db(wanted, found) > SNR_DB[name]
    if STORED[name] < 32:
        assert snr_db(wanted, found) < 100  # it really is another precision


@pytest.mark.parametrize("name", ALL)
def test_coverage_is_whole_and_of_the_right_bits(name: str, tiny: Path, place: Callable[[str], Path]) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    mode, family = modes.find(name), models.families()["wav2vec2"]
    directory = place(name)
    config = json.loads((directory / "config.json").read_text())
    parts = mode.coverage(mode.open(directory, 1, family), family, config).parts
    model = Wav2Vec2ForCTC.from_pretrained(tiny)
    # A folded weight norm is one weight where there were two parameters: the norms, one a kernel position, are gone.
    norms = CONFIG["num_conv_pos_embeddings"]
    assert isinstance(norms, int)
    # What training alone uses is no part of an exported graph.
    unused = 0 if mode.ENGINE == "torch" else model.wav2vec2.masked_spec_embed.numel()
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in model.parameters()) - norms - unused
    assert sum(p.macs for p in parts) == sum(family.macs(config, round(COVERAGE_LENGTH_S * 16_000)).values())
    if mode.ENGINE == "openvino" and "int8" in name and _openvino.runs("bf16") == "f32":
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
    plain = STORED[name] if name.endswith("bf16") else 32
    linear = LINEAR.get(name, (plain, plain))
    if name not in EXTRACTOR:
        assert set(mixed) == {(plain, plain)}
    del bits["feature extractor"]
    assert bits == {
        "positional conv": (plain, plain),
        "encoder linears": linear,
        "head": linear,
        "attention products": (None, plain),
        "norms and biases": (plain, plain),
        **OTHERS.get(name, {}),
    }
    linears = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.parameters for p in parts if p.name in ("encoder linears", "head")) == sum(linears)


def test_what_is_compiled_multiplies_the_integers_that_the_artefact_holds(place: Callable[[str], Path]) -> None:
    import torch
    from safetensors.torch import load_file

    directory, family = place("torch-int8-static"), models.families()["wav2vec2"]
    opened = torch_int8_static.open(directory, 2, family)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == paths.cache() / "inductor"
    reference = torch_int8_static.reference(directory, family)
    for length_s in (2.0, 2.3456):
        x = wav2vec2.inputs(length_s, 1, 1, "speech")
        with torch.no_grad():
            wanted = reference(torch.from_numpy(x)).logits.numpy()
        error = opened(x) - wanted
        assert 10 * np.log10(wanted.var() / (error**2).mean()) > 20  # a step of rounding may fall to either side
    tensors = load_file(directory / "model.safetensors")
    assert set(opened.ran) == {n.removesuffix(".weight") for n, t in tensors.items() if t.dtype.itemsize == 1}
    # Were a layer left in floats by the compiler, it would be said.
    config = json.loads((directory / "config.json").read_text())
    without = {n: operators for n, operators in opened.ran.items() if n != "lm_head"}
    left = _torch.count(opened, family, config, torch_int8_static._int8, without)
    assert [(p.weight_bits, p.activation_bits) for p in left.parts if p.name == "head"] == [(8, 32)]


def graph_bytes(file: Path) -> int:
    """What of a file is nodes and their names."""
    if file.suffix == ".onnx":
        return file.stat().st_size - sum(t.ByteSize() for t in onnx.load(file).graph.initializer)
    return file.stat().st_size if file.suffix == ".xml" else 0


@pytest.mark.parametrize("name", ALL)
def test_the_size_is_that_of_the_files_and_near_the_estimate(
    name: str, built: Callable[[str], Artefact], place: Callable[[str], Path]
) -> None:
    files = [f for f in place(name).iterdir() if f.name != artefacts.MANIFEST]
    assert built(name).size_bytes == sum(f.stat().st_size for f in files)
    assert {f.name for f in files} >= {"config.json", "vocab.json", "preprocessor_config.json"}
    mode, family = modes.find(name), models.families()["wav2vec2"]
    config = json.loads((place(name) / "config.json").read_text())
    by_part = family.parameters(config)
    expected = sum(n * mode.STORED_BITS.get(p, mode.STORED_BITS[""]) // 8 for p, n in by_part.items())
    graph = sum(map(graph_bytes, files))  # as large for a tiny model as for a big one
    assert expected < built(name).size_bytes - graph < expected + 75_000  # names, scales, biases and norms


def test_size_on_disk_follows_the_bits(built: Callable[[str], Artefact]) -> None:
    sizes = {name: built(name).size_bytes for name in ALL}
    assert all(sizes[name] < sizes["torch-fp32"] for name in ALL if STORED[name] < 32)


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


def graph(directory: Path) -> Any:
    return onnx.load(directory / "model.onnx").graph


def test_the_products_of_dynamic_onnx_hold_int8(place: Callable[[str], Path]) -> None:
    found = graph(place("onnx-int8-dynamic"))
    tensors = {t.name: t for t in found.initializer}
    products = {n.name: tensors[n.input[1]] for n in found.node if n.op_type == "MatMulInteger"}
    assert len(products) == 2 * 6 + 2 and {"lm_head", "wav2vec2.encoder.layers.1.attention.v_proj"} < set(products)
    for weight in products.values():
        assert weight.data_type == onnx.TensorProto.INT8
        assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max(axis=0).min() > 60  # every column has a scale
    left = [n for n in found.node if n.op_type in ("MatMul", "Gemm")]
    assert {n.name.rpartition("/")[2] for n in left} == {"qk", "av"}  # no linear layer was skipped
    assert not any(n.op_type == "ConvInteger" for n in found.node)


def test_every_linear_layer_of_onnx_int4_is_packed(place: Callable[[str], Path]) -> None:
    found = graph(place("onnx-int4"))
    packed = [n for n in found.node if n.op_type == "MatMulNBits"]
    assert len(packed) == 2 * 6 + 2 and "lm_head" in {n.name for n in packed}
    tensors = {t.name: t for t in found.initializer}
    for node in packed:
        told = {a.name: a.i for a in node.attribute}
        assert (told["bits"], told["block_size"], told["accuracy_level"]) == (4, 32, 1)
        blocks = -(-told["K"] // 32)
        assert list(tensors[node.input[1]].dims) == [told["N"], blocks, 16]  # two weights a byte
    assert not any(n.op_type == "Gemm" for n in found.node)


@pytest.mark.parametrize("float_convs", [0, 2, 7])
def test_static_onnx_keeps_exactly_the_first_convolutions_float(
    float_convs: int, place: Callable[[str], Path], tmp_path: Path
) -> None:
    mode = modes.find("onnx-int8-static")
    settings = modes.complete(mode, {"float_convs": float_convs})
    clips = [(wav2vec2.inputs(1.0, 1, seed, "speech"), np.array([], np.int64)) for seed in (0, 1)]
    mode.build(place("onnx-fp32"), clips, settings, tmp_path, lambda _: None)
    found = graph(tmp_path)
    tensors = {t.name: t.data_type for t in found.initializer}
    dequantized = {n.output[0]: tensors.get(n.input[0]) for n in found.node if n.op_type == "DequantizeLinear"}
    # From the sound on, each convolution by whom it reads from.
    source, extractor = {o: n for n in found.node for o in n.output}, []
    node = next(n for n in found.node if n.name == "wav2vec2/Transpose")
    while node.input[0] in source:
        node = source[node.input[0]]
        extractor += [node] if node.op_type == "Conv" else []
    kept = [n.input[1] in tensors for n in reversed(extractor)]
    assert kept == [i < float_convs for i in range(7)]
    products = [n for n in found.node if n.op_type in ("MatMul", "Gemm") and not n.name.endswith(("/qk", "/av"))]
    assert len(products) == 2 * 6 + 2
    for product in (*products, *(n for n, is_float in zip(reversed(extractor), kept, strict=True) if not is_float)):
        assert dequantized[product.input[1]] == onnx.TensorProto.INT8
        assert product.input[0] in dequantized  # so the engine can multiply integers


@pytest.mark.parametrize(("x86", "reduced"), [(False, False), (True, True)])
def test_static_onnx_for_other_processors(
    x86: bool, reduced: bool, tiny: Path, place: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arm's kernels want signed activations; x86 without VNNI sums in 16 bits, where 8-bit weights overflow."""
    monkeypatch.setattr(_onnx_integers, "x86", lambda: x86)
    monkeypatch.setattr(_onnx_integers, "reduced", lambda: reduced)
    mode = modes.find("onnx-int8-static")
    clips = [(wav2vec2.inputs(1.0, 1, seed, "speech"), np.array([], np.int64)) for seed in (0, 1)]
    told = mode.build(place("onnx-fp32"), clips, modes.complete(mode, {}), tmp_path, lambda _: None)
    assert told["range"] == ("7 bits" if reduced else "8 bits")
    found = graph(tmp_path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in found.initializer}
    zeros = {tensors[n.input[2]].dtype for n in found.node if n.op_type == "QuantizeLinear"}
    assert zeros == {np.dtype(np.uint8 if x86 else np.int8)}
    weights = [w for w in tensors.values() if w.dtype == np.int8 and w.ndim > 1]
    assert len(weights) == 6 + 2 * 6 + 2
    assert {int(np.abs(w.astype(int)).max()) for w in weights} <= ({63, 64} if reduced else {127, 128})
    x = wav2vec2.inputs(2.0, 1, 0, "speech")
    assert snr_db(original(tiny, x), mode.open(tmp_path, 2, models.families()["wav2vec2"])(x)) > SNR_DB[mode.NAME] - 2


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
        modes.find(name).open(directory, 1, models.families()["wav2vec2"])
    assert not (tmp_path / "ran").exists()


def test_opening_sets_the_threads(place: Callable[[str], Path]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            modes.find("torch-fp32").open(place("torch-fp32"), threads, models.families()["wav2vec2"])
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
    digest = artefacts.prepare(str(lean), "torch-fp32", {}, lambda _: None)[0].digest
    mode, family = modes.find("torch-fp32"), models.families()["wav2vec2"]
    directory = artefacts.folder(digest)
    opened = mode.open(directory, 1, family)
    x = wav2vec2.inputs(1.0, 1, 0, "speech")
    np.testing.assert_allclose(opened(x), original(tiny, x), atol=1e-5)
    assert mode.coverage(opened, family, json.loads((directory / "config.json").read_text())).macs_ratio(32) == 1


# --- the list, the contract, the probe


def mode_files() -> dict[str, ModuleType]:
    files = [f.stem for f in (ROOT / "bench" / "modes").glob("*.py") if not f.stem.startswith("_")]
    return {stem: importlib.import_module(f"bench.modes.{stem}") for stem in files if stem != "probe"}


def test_every_mode_file_is_in_the_list() -> None:
    assert {m.NAME for m in mode_files().values()} == set(modes.modes())
    for stem, module in mode_files().items():
        assert modes.modes()[module.NAME] is module
        assert module.NAME.replace("-", "_") == stem
    assert next(iter(modes.modes())) == "torch-fp32"  # the original is the baseline
    assert set(ALL) == set(SNR_DB) == set(STORED)  # a new mode gets its bounds here


@pytest.mark.parametrize("name", ALL)
def test_a_mode_keeps_the_contract(name: str) -> None:
    mode = modes.find(name)
    kinds = {
        "NEEDS": Needs,
        "SETTINGS": dict,
        "OFFERED": tuple,
        "CALIBRATES": bool,
        "COST": Cost,
        "STORED_BITS": dict,
        "VERSION": int,
    }
    assert set(kinds) < set(Mode.__annotations__)
    for attribute in Mode.__annotations__:
        assert isinstance(getattr(mode, attribute), kinds.get(attribute, str)), attribute
    for method, wanted in inspect.getmembers(Mode, inspect.isfunction):
        if not method.startswith("_"):
            assert list(inspect.signature(getattr(mode, method)).parameters) == [
                p for p in inspect.signature(wanted).parameters if p != "self"
            ]
    assert (
        mode.NAME.startswith(mode.ENGINE)
        and mode.ENGINE in ("torch", "onnx", "openvino")
        and mode.LABEL
        and mode.WEIGHTS
        and mode.ACTIVATIONS
    )
    for given in ({}, *mode.OFFERED):
        assert set(modes.complete(mode, given)) == set(mode.SETTINGS)
    assert ({"clips", "data"} <= set(mode.SETTINGS)) == mode.CALIBRATES
    assert not mode.BASE or list(modes.modes()).index(mode.BASE) < list(modes.modes()).index(name)
    assert min(mode.STORED_BITS.values()) == STORED[name] and "" in mode.STORED_BITS


def test_unknown_mode() -> None:
    with pytest.raises(ModeError) as e:
        modes.find("int3")
    assert str(e.value) == f"There is no mode “int3”. Allowed: {', '.join(modes.modes())}."


def test_the_probe_tells_of_every_mode_and_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))
    probe._known.clear()
    found = probe.availability()
    assert list(found) == list(modes.modes())
    assert found["torch-fp32"] == probe.Availability("available")
    assert found["torch-int8-dynamic"].state == "available" and "engine" in found["torch-int8-dynamic"].remark
    fast = modes.find("torch-bf16").NEEDS.fast_isa & device.isa()
    assert found["torch-bf16"].state == ("available" if fast else "emulated")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(subprocess, "run", never)
    assert probe.availability() == found
    probe._known.clear()
    assert probe.availability() == found, "the file remembers for the next process"
    probe._known.clear()
    monkeypatch.setattr(device, "cpu_name", lambda: "another processor")
    with pytest.raises(AssertionError, match="asked again"):  # what was remembered is of another device
        probe.availability()


class Broken:
    """A mode whose check or package fails."""

    NEEDS = Needs(packages=("json",), fast_isa=frozenset({"a flag of no processor"}))

    def __init__(self, reason: str = "", package: str = "json", to_build: str = "json") -> None:
        self.reason = reason
        self.NEEDS = Needs((package,), Broken.NEEDS.fast_isa, (to_build,))

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
    v = Variant.named("demo", "openvino-int8-static:float_convs=0:data=/a b:fast=true:rate=0.5", 2)
    assert dict(v.settings) == {"float_convs": 0, "data": "/a b", "fast": True, "rate": 0.5}
    assert v.mode == "openvino-int8-static" and Variant.named("demo", v.spelled, 2) == v
    with pytest.raises(SpecError, match="got “torch-fp32:x”"):
        Variant.named("demo", "torch-fp32:x", 2)
    with pytest.raises(ModeError, match="torch-fp32 has no setting “clips”"):
        modes.check(Variant.named("demo", "torch-fp32:clips=3", 2))


def test_every_entry_of_the_menu_can_be_asked_for() -> None:
    for text in modes.menu():
        modes.check(Variant.named("demo", text, 1))
