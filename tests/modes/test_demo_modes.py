"""Every mode on the bundled model: built, opened, compared with fp32, counted, weighed, built again when it breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from networks import FAMILY, forward
from noise import snr_db

from bench import modes
from bench.artefacts import build, lookup, recipe
from bench.artefacts import cache as artefacts_cache
from bench.core.paths import ROOT
from bench.core.specs import Placement, Variant
from bench.datasets import dataset
from bench.device import cpu, host
from bench.families import catalogue
from bench.families.family import Array
from bench.modes.openvino import bfloat16
from bench.sound import audio

QUICK: dict[str, dict[str, Any]] = {"torch-int8-qat": {"steps": 2, "clips": 2}, "torch-int8-static": {"clips": 4}}
SIZE_RATIO = {32: (0.98, 1.1), 16: (1.8, 2.1), 8: (2.6, 4.1), 4: (3.0, 8.0)}  # of fp32's size over this one's


@pytest.fixture(scope="module")
def speech() -> Array:
    """(1, samples): a clip that nothing was calibrated on, prepared."""
    clip = dataset.find(str(dataset.bundled()), "evaluate").clips[0]
    files = FAMILY.read_files(Path(catalogue.find("demo").where))
    return FAMILY.prepare(audio.decode(clip.path).samples, files)["x"]


@pytest.fixture(scope="module")
def original(speech: Array) -> Array:
    """Logits of plain transformers, nothing of Earbench between."""
    import torch
    from transformers import Wav2Vec2ForCTC

    with torch.inference_mode():
        model = Wav2Vec2ForCTC.from_pretrained(catalogue.find("demo").where, local_files_only=True).eval()
        logits: Array = model(torch.from_numpy(speech)).logits.numpy()
        return logits


@pytest.mark.filterwarnings("ignore:.*(torch.ao|quantized tensor|TypedStorage)")
@pytest.mark.parametrize("name", modes.modes())
def test_a_mode_on_the_bundled_model(name: str, speech: Array, original: Array, cache: Path, data_folder: Path) -> None:
    import torch

    spec, settings = modes.find(name).SPEC, QUICK.get(name, {})
    # What would be compiled for a minute gives the same logits without; it then multiplies floats.
    with torch.compiler.set_stance("force_eager") if spec.needs.compiles else nullcontext():
        artefact, coverage = build.prepare("demo", name, settings, lambda _: None)
        place = artefacts_cache.folder(artefact.digest)

        # What it claims to store is what the file holds.
        stored = {p.weight_bits for p in coverage.parts if p.weight_bits and p.macs}
        assert min(stored) == min(spec.stores.values()) == spec.weights.bits
        if "int8" in name and not spec.needs.compiles:
            assert min(p.activation_bits for p in coverage.parts) in ((16, 32) if "only" in name else (8,))

        least, most = SIZE_RATIO[min(stored)]
        weights = (Path(catalogue.find("demo").where) / "model.safetensors").stat().st_size
        assert least < weights / artefact.size_bytes < most

        assert snr_db(original, forward(name, place)(speech)) > spec.min_snr_db

        # One bit of the weights is wrong: it is found out and built again, and works as before.
        weights_file = max(place.iterdir(), key=lambda f: f.stat().st_size)
        broken = bytearray(weights_file.read_bytes())
        broken[len(broken) // 2] ^= 1
        weights_file.write_bytes(broken)
        again, _ = build.prepare("demo", name, settings, lambda _: None)
        assert again.digest == artefact.digest and not again.from_cache
        assert weights_file.read_bytes() != bytes(broken)
        assert snr_db(original, forward(name, place)(speech)) > spec.min_snr_db


@pytest.mark.parametrize(
    "spelled", ["openvino-int8-static:float_convs=0:ranges=minmax", "onnx-int8-static:float_convs=0:ranges=minmax"]
)
def test_ranges_from_end_to_end_collapse(
    spelled: str, speech: Array, original: Array, cache: Path, data_folder: Path
) -> None:
    """What menus offer so that people can see it happen does happen, and is int8 from the first convolution on."""
    assert spelled in modes.menu()
    variant = Variant.parse("demo", spelled, Placement("cpu", 2))
    artefact, coverage = build.prepare("demo", variant.mode, dict(variant.settings), lambda _: None)
    extractor = [p for p in coverage.parts if p.name == "feature extractor"]
    assert {(p.weight_bits, p.activation_bits): p.nodes for p in extractor} == {(8, 8): 7}
    assert snr_db(original, forward(variant.mode, artefacts_cache.folder(artefact.digest))(speech)) < 15


@pytest.mark.parametrize("name", ["openvino-bf16", "openvino-int8-weight-only", "openvino-int8-static"])
def test_reading_bf16_changes_no_logits(
    name: str, speech: Array, cache: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attention's scale is no number of bfloat16 here, so the queries' product has to stay as it is."""
    artefact, _ = build.prepare("demo", name, {}, lambda _: None)
    place = artefacts_cache.folder(artefact.digest)
    halved = forward(name, place, threads=1)(speech)
    monkeypatch.setattr(bfloat16, "read", lambda _: None)
    plain = forward(name, place, threads=1)(speech)
    assert snr_db(plain, halved) > 100


@pytest.mark.parametrize("count", [3, 7])
def test_the_first_convolutions_stay_float_on_openvino(count: int, cache: Path, data_folder: Path) -> None:
    import openvino

    settings = {"float_convs": count, "clips": 2}
    artefact, _ = build.prepare("demo", "openvino-int8-static", settings, lambda _: None)
    graph = openvino.Core().read_model(artefacts_cache.folder(artefact.digest) / "model.xml")
    rounded = {}
    for op in graph.get_ops():
        if op.get_type_name() == "Convolution":
            fed = op.input_value(0).get_node().get_type_name()
            rounded[op.get_friendly_name()] = fed == "FakeQuantize"
    assert rounded == {f"wav2vec2.feature_extractor.conv_layers.{i}.conv": i >= count for i in range(7)}


# --- the same bytes as before


REFERENCE: dict[str, Any] = {
    entry["mode"]: entry for entry in json.loads((ROOT / "tests" / "reference" / "artefacts.json").read_text())
}
# Of the libraries with which the reference was built; all of them are in the digests.
VERSIONS = {
    "python": "3.11.7",
    "nncf": "3.4.0",
    "onnx": "1.23.2",
    "onnx_ir": "1.1.0",
    "onnxruntime": "1.32.0",
    "onnxscript": "0.7.2",
    "openvino": "2026.4.1",
    "safetensors": "0.8.0",
    "torch": "2.13.0+cpu",
    "torchao": "0.18.0",
    "transformers": "5.23.0",
}
# OpenVINO numbers the nodes that have no name within a process, so each of its modes is built in one of its own. What
# is tuned is left out: its weights are not the same twice.
PROCESSES = [
    [mode for mode in REFERENCE if not mode.startswith(("openvino", "torch-int8-qat"))],
    *([mode] for mode in REFERENCE if mode.startswith("openvino")),
]
# Build variants of demo and print where they lie, as JSON: MODE...
_BUILD = """
import json, sys
from bench.artefacts import build, cache
from bench.core.specs import Placement, Variant

folders = {}
for mode in sys.argv[1:]:
    variant = Variant.parse("demo", mode, Placement("cpu", 2))
    artefact, _ = build.prepare("demo", variant.mode, dict(variant.settings), lambda _: None)
    folders[mode] = str(cache.folder(artefact.digest))
print(json.dumps(folders))
"""


def other_versions() -> str:
    """The libraries that are not those of the reference; "" if all are."""
    here = host.versions(tuple(VERSIONS))
    return ", ".join(f"{name} {here.get(name)}" for name in VERSIONS if here.get(name) != VERSIONS[name])


def other_machine() -> str:
    """Why bytes may differ from those of the reference here; "" if they may not."""
    if "AMD EPYC" not in cpu.cpu_name() or "avx512_vnni" not in cpu.isa() or any("amx" in f for f in cpu.isa()):
        return f"{cpu.cpu_name()}, where the reference was built on an AMD EPYC with avx512_vnni and without amx"
    if cpu.default_threads() != 2:
        return f"{cpu.default_threads()} usable cores, where the reference was built on 2"
    return other_versions()


@pytest.mark.skipif(bool(other_versions()), reason=f"other versions than the reference's: {other_versions()}")
@pytest.mark.parametrize("spelled", REFERENCE)
def test_digests_are_those_of_the_reference(spelled: str) -> None:
    """What was built before is found again: nothing is built here."""
    variant = Variant.parse("demo", spelled, Placement("cpu", 2))
    mode = modes.find(variant.mode)
    settings = modes.complete(mode, dict(variant.settings))
    identity, _ = FAMILY.identity(catalogue.find("demo"), lambda _: None)
    examples = lookup.examples(mode, FAMILY, settings)
    whole = recipe.full_recipe(recipe.portable_recipe(identity, mode, settings), mode, examples)
    assert recipe.digest_of(whole) == REFERENCE[spelled]["digest"]


def test_every_mode_of_the_reference_is_here() -> None:
    assert {spelled.partition(":")[0] for spelled in REFERENCE} <= set(modes.modes())


@pytest.mark.skipif(bool(other_machine()), reason=f"not like the reference's machine: {other_machine()}")
@pytest.mark.parametrize("spelled", PROCESSES, ids=lambda group: group[0] if len(group) == 1 else "torch and onnx")
def test_files_are_those_of_the_reference(spelled: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """By name, size and, where two builds gave the same bytes, SHA-256."""
    data = tmp_path_factory.getbasetemp() / "reference"  # one for all of these: the base is built once
    environment = {**os.environ, "EARBENCH_DATA": str(data), "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "2"}
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, *spelled], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert built.returncode == 0, built.stderr[-2000:]
    for mode, folder in json.loads(built.stdout.splitlines()[-1]).items():
        assert Path(folder).name == REFERENCE[mode]["digest"]
        files = {f.name: f for f in Path(folder).iterdir() if f.name != artefacts_cache.MANIFEST}
        reference = {entry["name"]: entry for entry in REFERENCE[mode]["files"]}
        assert set(files) == set(reference)
        for name, entry in reference.items():
            digest = recipe.digest_of_file(files[name])
            assert digest["bytes"] == entry["bytes"], (mode, name)
            assert digest["sha256"] == entry["sha256"] or not entry["reproducible"], (mode, name)
