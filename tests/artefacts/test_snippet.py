"""The script beside a result is what its heading says: it runs, times, and gives the same logits where it says so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forked
import numpy as np
import pytest
from noise import snr_db

from bench import modes
from bench.artefacts.snippet import code, heading
from bench.core.paths import ROOT
from bench.core.records import Artefact, VariantRecord
from bench.core.specs import Placement, Setting, Variant
from bench.modes.mode import ModeError

MODES = list(modes.modes())
SAME, COMPARABLE = "The same without Earbench.", "A comparable script without Earbench: "
# The same weights and the same roundings: the script's logits are no farther from the artefact's than those of the same
# artefact whose input changed in its last bits, by this share of each sample. A value near the middle of two steps is
# rounded to the other one then; another quantization is farther.
LAST_BITS = {32: 1e-7, 16: 1e-3, 8: 1e-7}  # by the bits of activations
MARGIN_DB, EXACT_DB = 4.0, 90.0
IMPORTED = (
    *("torch", "torch._dynamo", "torchao.quantization", "transformers.models.wav2vec2.modeling_wav2vec2"),
    *("onnxscript", "onnxruntime.quantization", "openvino"),
)
# What the artefacts make of the scripts' inputs, and of nearly the same: JSON of [mode, digest, folder, share]
_OPEN = """
import json, sys
import numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
from networks import forward
from bench.artefacts import cache

for mode, digest, folder, share in json.loads({artefacts!r}):
    audio = np.load(folder + "/logits.npz")["audio"]
    moved = audio * (1 + share * np.random.default_rng(0).standard_normal(audio.shape)).astype(np.float32)
    run = forward(mode, cache.folder(digest), threads=1)
    np.savez(folder + "/artefact.npz", logits=run(audio), moved=run(moved))
"""


def record(model: object, mode: str, settings: dict[str, Setting] | None = None, **details: str) -> VariantRecord:
    variant = Variant(str(model), mode, Placement("cpu", 1), tuple((settings or {}).items()))
    return VariantRecord(variant, Artefact("d", "seed 0", 1, 1.0, None, False, details))


@pytest.fixture(scope="module")
def ran(every_mode: SimpleNamespace, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one a mode, in which its script ran as it is shown; then the artefacts ran on the same inputs."""
    folder = tmp_path_factory.mktemp("scripts")
    artefacts = every_mode.artefacts
    scripts = {mode: code(record(tiny_model, mode, **artefacts[mode].details), 0.5, 2) for mode in MODES}
    shares = {mode: LAST_BITS[modes.find(mode).SPEC.activations.bits] for mode in MODES}
    opened = [[mode, artefacts[mode].digest, str(folder / mode), shares[mode]] for mode in MODES]
    scripts["artefacts"] = _OPEN.format(root=str(ROOT), tests=str(ROOT / "tests"), artefacts=json.dumps(opened))
    for name, text in scripts.items():
        (folder / name).mkdir()
        (folder / name / "script.py").write_text(text)
    # What is compiled runs without as well, only slower.
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1", "EARBENCH_DATA": str(every_mode.data)}
    subprocess.run(
        [sys.executable, forked.__file__, ",".join(IMPORTED), *(folder / name for name in scripts)],
        capture_output=True,
        timeout=600,
        cwd=folder,
        env=environment,
        check=False,
    )
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_the_code_runs_as_shown_and_is_what_its_heading_says(
    mode: str, ran: Path, tiny_model: Path, every_mode: SimpleNamespace
) -> None:
    folder, spec = ran / mode, modes.find(mode).SPEC
    assert (folder / forked.LOGITS).is_file(), (folder / forked.ERRORS).read_text()
    printed = (folder / forked.PRINTED).read_text()
    assert re.search(r"^\d+\.\d ± \d+\.\d ms\n\Z", printed, re.MULTILINE), printed  # quantizers talk before
    assert (folder / "artefact.npz").is_file(), (ran / "artefacts" / forked.ERRORS).read_text()
    artefact = np.load(folder / "artefact.npz")
    snr = snr_db(artefact["logits"], np.load(folder / forked.LOGITS)["logits"])
    same = min(snr_db(artefact["logits"], artefact["moved"]), EXACT_DB) - MARGIN_DB
    title = heading(record(tiny_model, mode, **every_mode.artefacts[mode].details))
    if title == SAME:
        assert snr >= same
    else:
        assert title == f"{COMPARABLE}{spec.code_differs}."
        assert snr > 0, "it computes something like it"
        assert snr < same, "it is the same, and may say so"


def test_one_script_runs_alone(tiny_model: Path, tmp_path: Path) -> None:
    """The others run in forks of a process that has imported what they import."""
    (tmp_path / "script.py").write_text(code(record(tiny_model, "onnx-fp32"), 0.5, 2))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d ± \d+\.\d ms\n\Z", done.stdout, re.MULTILINE), done.stdout


def test_what_looks_at_clips_while_it_is_built_is_never_the_same() -> None:
    for mode in modes.modes().values():
        assert mode.SPEC.code_differs or not mode.SPEC.data


def test_settings_are_in_the_script_or_in_its_heading() -> None:
    blocks = record("demo", "onnx-int4", {"block_size": 64})
    assert "bits=4, block_size=64, accuracy_level=1" in code(blocks, 1, 1) and heading(blocks) == SAME
    reduced = record("demo", "onnx-int8-dynamic", range="7 bits")
    assert "reduce_range=True" in code(reduced, 1, 1) and heading(reduced) == SAME
    assert "reduce_range=False" in code(record("demo", "onnx-int8-dynamic", range="8 bits"), 1, 1)
    with pytest.raises(ModeError, match="has no setting “clips”"):
        heading(record("demo", "torch-fp32", {"clips": 3}))


def test_a_setting_that_the_script_does_not_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARBENCH_EXTRA", "tests.toys.family,tests.toys.mode")
    assert (
        heading(record("demo", "toy-halves")) == f"{COMPARABLE}the mode has no plain code, so the float model is timed."
    )
    assert heading(record("toy-random", "torch-fp32")) == "There is no short script for this model."
    int4 = modes.find("onnx-int4")
    monkeypatch.setattr(int4, "SPEC", replace(int4.SPEC, code="model = model"))
    assert heading(record("demo", "onnx-int4")) == SAME
    assert heading(record("demo", "onnx-int4", {"block_size": 64})) == f"{COMPARABLE}it does not use block_size."
    assert (
        heading(record("demo", "onnx-int4", range="7 bits")) == f"{COMPARABLE}on this processor Earbench uses 7 bits."
    )


def test_random_models_are_built_as_earbench_builds_them() -> None:
    assert "Wav2Vec2Config()" in code(
        VariantRecord(Variant("wav2vec2-base-random", "torch-fp32", Placement("cpu", 2))), 5, 1
    )
    built = Artefact("d", "seed 0", 1, 1.0, None, False, {"quantized engine": "x86"})
    large = code(
        VariantRecord(Variant("wav2vec2-large-random", "torch-int8-dynamic", Placement("cpu", 2)), built), 5, 1
    )
    assert "torch.backends.quantized.engine = 'x86'" in large
    assert "hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096" in large
    assert "quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)" in large
    assert "torch.randn(1, 80000)" in large
