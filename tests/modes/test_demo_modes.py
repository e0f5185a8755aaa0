"""Every mode on the bundled model: built, opened, compared with fp32, weighed, the same files as before."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from networks import FAMILY, forward
from noise import snr_db
from prepared import Prepared, prepare

from bench import modes
from bench.artefacts import cache as artefacts_cache
from bench.artefacts import lookup, recipe
from bench.core.paths import ROOT
from bench.core.specs import Placement, Variant
from bench.datasets import dataset
from bench.device import cpu, host
from bench.families import catalogue
from bench.families.family import Array
from bench.modes.openvino import bfloat16
from bench.sound import audio

QAT = "torch-int8-qat:steps=2:clips=2"  # so few that it takes a second: its weights are not the same twice anyway
SIZE_RATIO = {32: (0.98, 1.1), 16: (1.8, 2.1), 8: (2.6, 4.1), 4: (3.0, 8.0)}  # of fp32's size over this one's
REFERENCE: dict[str, Any] = {
    entry["mode"]: entry for entry in json.loads((ROOT / "tests" / "reference" / "artefacts.json").read_text())
}
# OpenVINO numbers the nodes that have no name within a process, so each of its variants is built in one of its own.
PROCESSES = [
    [*(v for v in REFERENCE if not v.startswith(("openvino", "torch-int8-qat"))), QAT],
    *([v] for v in REFERENCE if v.startswith("openvino")),
]
VARIANTS = [QAT if name == "torch-int8-qat" else name for name in modes.modes()]


class Demo:
    """The bundled model's artefacts, each built when it is first asked for, once for all of these tests."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._prepared: dict[str, Prepared] = {}

    def __call__(self, spelled: str) -> tuple[Prepared, Path]:
        """What building told, and the folder."""
        if spelled not in self._prepared:
            (together,) = [variants for variants in PROCESSES if spelled in variants] or [[spelled]]
            environment = {"OMP_NUM_THREADS": "2"}
            self._prepared |= prepare("demo", together, self.data, self.data / spelled, environment=environment)
        prepared = self._prepared[spelled]
        return prepared, self.data / "cache" / "artefacts" / prepared.digest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo"))


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
@pytest.mark.parametrize("spelled", VARIANTS)
def test_a_mode_on_the_bundled_model(spelled: str, speech: Array, original: Array, demo: Demo) -> None:
    import torch

    name = Variant.parse("demo", spelled, Placement("cpu", 2)).mode
    spec = modes.find(name).SPEC
    artefact, place = demo(spelled)

    # What it claims to store is what the file holds.
    stored = {p.weight_bits for p in artefact.coverage.parts if p.weight_bits and p.macs}
    assert min(stored) == min(spec.stores.values()) == spec.weights.bits
    if "int8" in name and not spec.needs.compiles:
        assert min(p.activation_bits for p in artefact.coverage.parts) in ((16, 32) if "only" in name else (8,))

    least, most = SIZE_RATIO[min(stored)]
    weights = (Path(catalogue.find("demo").where) / "model.safetensors").stat().st_size
    assert least < weights / artefact.size_bytes < most

    # What would be compiled for a minute gives the same logits without; it then multiplies floats.
    with torch.compiler.set_stance("force_eager") if spec.needs.compiles else nullcontext():
        assert snr_db(original, forward(name, place)(speech)) > spec.min_snr_db


@pytest.mark.parametrize(
    "spelled", ["openvino-int8-static:float_convs=0:ranges=minmax", "onnx-int8-static:float_convs=0:ranges=minmax"]
)
def test_ranges_from_end_to_end_collapse(spelled: str, speech: Array, original: Array, demo: Demo) -> None:
    """What menus offer so that people can see it happen does happen, and is int8 from the first convolution on."""
    assert spelled in modes.menu()
    artefact, place = demo(spelled)
    extractor = [p for p in artefact.coverage.parts if p.name == "feature extractor"]
    assert {(p.weight_bits, p.activation_bits): p.nodes for p in extractor} == {(8, 8): 7}
    mode = Variant.parse("demo", spelled, Placement("cpu", 2)).mode
    assert snr_db(original, forward(mode, place)(speech)) < 15


@pytest.mark.parametrize("name", ["openvino-bf16", "openvino-int8-weight-only", "openvino-int8-static"])
def test_reading_bf16_changes_no_logits(name: str, speech: Array, demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention's scale is no number of bfloat16 here, so the queries' product has to stay as it is."""
    _, place = demo(name)
    halved = forward(name, place, threads=1)(speech)
    monkeypatch.setattr(bfloat16, "read", lambda _: None)
    plain = forward(name, place, threads=1)(speech)
    assert snr_db(plain, halved) > 100


# --- the same bytes as before


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
@pytest.mark.parametrize("spelled", [spelled for spelled in REFERENCE if spelled != "torch-int8-qat"])
def test_files_are_those_of_the_reference(spelled: str, demo: Demo) -> None:
    """By name, size and, where two builds gave the same bytes, SHA-256."""
    artefact, place = demo(spelled)
    assert artefact.digest == REFERENCE[spelled]["digest"]
    files = {f.name: f for f in place.iterdir() if f.name != artefacts_cache.MANIFEST}
    reference = {entry["name"]: entry for entry in REFERENCE[spelled]["files"]}
    assert set(files) == set(reference)
    for name, entry in reference.items():
        digest = recipe.digest_of_file(files[name])
        assert digest["bytes"] == entry["bytes"], name
        assert digest["sha256"] == entry["sha256"] or not entry["reproducible"], name
