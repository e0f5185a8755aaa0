"""Variants prepared in a process of their own, since the tests' process never imports torch, as the dashboard's.

`python -m tests.prepared MODEL OUT [--save] [--logits CLIP] VARIANT...` writes OUT/prepared.json and, with a clip, the
logits of each variant as OUT/VARIANT.npy. --save makes the tiny model first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.core.paths import ROOT
from bench.core.records import Coverage, coverage_from


@dataclass(frozen=True)
class Prepared:
    """A variant in the cache of a data folder."""

    digest: str
    from_cache: bool
    size_bytes: int
    details: dict[str, str]
    coverage: Coverage


def prepare(
    model: object,
    variants: Sequence[str],
    data: Path,
    out: Path,
    *,
    save: bool = False,
    clip: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
) -> dict[str, Prepared]:
    """Prepare variants of a model, spelled as users do, in one process that is not this one.

    What would be compiled for half a minute when it is opened is opened without: the same logits by float products.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.prepared", str(model), str(out), *variants]
    command += ["--save"] if save else []
    command += ["--logits", str(clip)] if clip else []
    environment = {**os.environ, "EARBENCH_DATA": str(data), "TORCH_COMPILE_DISABLE": "1", **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-4000:]
    return read(out)


def read(out: Path) -> dict[str, Prepared]:
    """What a process wrote, by variant."""
    prepared = json.loads((out / "prepared.json").read_text())
    return {v: Prepared(**{**values, "coverage": coverage_from(values["coverage"])}) for v, values in prepared.items()}


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--logits", type=Path)
    arguments = parser.parse_args()
    if arguments.save:
        from tests.tiny_model import CONFIG, save

        save(Path(arguments.model), CONFIG)
    prepared = {v: _prepare(arguments.model, v, arguments.logits, arguments.out) for v in arguments.variants}
    (arguments.out / "prepared.json").write_text(json.dumps(prepared))


def _prepare(model: str, spelled: str, clip: Path | None, out: Path) -> dict[str, Any]:
    import numpy as np
    import soundfile

    from bench import modes
    from bench.artefacts import build, cache
    from bench.core.specs import Placement, Variant
    from bench.families import families

    placement = Placement("cpu", 1)
    variant = Variant.parse(model, spelled, placement)
    artefact, coverage = build.prepare(model, variant.mode, dict(variant.settings), lambda _: None)
    mode, family, folder = modes.find(variant.mode), families()["wav2vec2"], cache.folder(artefact.digest)
    if mode.SPEC.needs.compiles:  # it was counted without being compiled, which is not what runs elsewhere
        cache.coverage_file(artefact.digest).unlink(missing_ok=True)
    if clip:
        x, _ = soundfile.read(clip, dtype="float32")
        networks = mode.open(folder, placement, family, family.read_networks(folder))
        logits = networks["model"].start()(family.prepare(x, family.read_files(folder)))["logits"]
        np.save(out / f"{spelled}.npy", logits)
    return {
        "digest": artefact.digest,
        "from_cache": artefact.from_cache,
        "size_bytes": artefact.size_bytes,
        "details": artefact.details,
        "coverage": asdict(coverage),
    }


if __name__ == "__main__":
    _main()
