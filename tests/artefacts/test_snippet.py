"""The code beside a result is what it claims to be: it runs, and it times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import modes
from bench.artefacts.snippet import code
from bench.core.records import Artefact, VariantRecord
from bench.core.specs import Placement, Variant


@pytest.mark.parametrize("mode", list(modes.modes()))
def test_the_code_runs_as_shown(tiny_model: Path, mode: str, tmp_path: Path) -> None:
    text = code(VariantRecord(Variant(str(tiny_model), mode, Placement("cpu", 1))), 0.5, 2)
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1"}  # what is compiled runs without as well, only slower
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d ± \d+\.\d ms\n\Z", done.stdout, re.MULTILINE), done.stdout  # quantizers talk before


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
