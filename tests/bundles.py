"""Runs and evaluations made by hand, whose bundles several test files send around and spoil."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.bundle import to_text
from bench.core.paths import ROOT
from bench.core.records import (
    Artefact,
    ClipRecord,
    Coverage,
    Device,
    Failure,
    Opening,
    Part,
    Pass,
    Prediction,
    Reading,
    Transcription,
    Visit,
    Word,
)
from bench.core.specs import EvaluationSpec, Placement, RunSpec, Variant
from bench.core.store import Store

TWO = Placement("cpu", 2)
FP32, INT8 = Variant("demo", "torch-fp32", TWO), Variant("demo", "torch-int8-dynamic", TWO, (("skip", "head"),))
SPEC = RunSpec((FP32, INT8), (1.0, 5.0), (1, 2), 12, 0.05, 7, "noise")
BOARD = Device("0123456789ab", "bøard", "Cortex-A76", 4, ("asimd",), 8 * 10**9, "os", "aarch64", {"torch": "2.13.0"})
ARTEFACT = Artefact("5f70bf18", "seed 0", 4 * 10**8, 1.5, 10**9, True, {"quantized engine": "x86"}, 10**6)
OPENING = Opening(2.5, 0.25, None, 3 * 10**9, "on one core")
COVERAGE = Coverage((Part("head", 8, 8, 24_576, 6_119_424, 1), Part("products", None, 32, 0, 95_256_576)))
READING = Reading(1, 2, 3, 0.25, -3.5, 2.4e9, False)


def store_at(folder: Path) -> Store:
    folder.mkdir(exist_ok=True)
    return Store(folder / "earbench.db")


def reference_store(folder: Path) -> Store:
    """The stored data of an older version: real runs and evaluations, some interrupted."""
    (folder / "earbench.db").write_bytes(
        gzip.decompress((ROOT / "tests" / "reference" / "earbench.db.gz").read_bytes())
    )
    return Store(folder / "earbench.db")


def measure(store: Store, run_id: str, size: float, rounds: int, *, ended: str | None = "target reached") -> None:
    """A group at this size: fp32 at 100 ms and int8 at 50 ms a second of audio."""
    group = store.start_group(run_id, "demo", TWO, 1, size, [0, 1])
    for number in range(rounds):
        for position, s in enumerate((0.1 * size, 0.05 * size)):
            cold = (Pass("cold", 1.0),) if number == 0 else ()
            kept = (Pass("kept", s * (1 + number / 97), (("encode", 0.1 + 0.2), ("decode", 1 / 3))), Pass("kept", s))
            visit = Visit(position, number, position, 1.7e9 + number, (*cold, Pass("discarded", s), *kept), READING)
            store.add_visit(group, visit)
    if ended:
        store.end_group(group, ended)


def interrupted_run(store: Store, device: Device = BOARD) -> str:
    """A run that was interrupted, resumed and interrupted again, with failures before and after."""
    run_id = store.create_run(SPEC, device)
    store.set_state(run_id, "running")
    store.set_variant(run_id, 0, artefact=ARTEFACT, opening=OPENING, coverage=COVERAGE)
    measure(store, run_id, 1.0, 3)
    measure(store, run_id, 5.0, 2, ended=None)
    store.add_failure(run_id, Failure(1, "5 s", "killed", "It was killed.", "last\nwords \x1b[0m ![a](b)"))
    store.supersede_unfinished(run_id)
    store.add_failure(run_id, Failure(None, "run", "error", "“quoted” 'text'"))
    measure(store, run_id, 5.0, 4, ended=None)
    store.set_state(run_id, "interrupted", "The program ended.")
    return run_id


def finished_run(store: Store, device: Device = BOARD, spec: RunSpec = SPEC) -> str:
    run_id = store.create_run(spec, device)
    for position in (0, 1):
        store.set_variant(run_id, position, artefact=ARTEFACT, opening=OPENING, coverage=COVERAGE)
    measure(store, run_id, 1.0, 10)
    measure(store, run_id, 5.0, 10)
    store.set_state(run_id, "done")
    return run_id


def evaluation(store: Store, device: Device = BOARD, **change: Any) -> str:
    """Two clips; the second one is not transcribed by int8."""
    spec = EvaluationSpec(**{"variants": (FP32, INT8), "dataset": "/clips of the board", "digest": "d", **change})
    run_id = store.create_run(spec, device)
    clips = [ClipRecord(0, "a", "/clips/a.wav", "ONE TWO"), ClipRecord(1, "b", "/clips/b.wav", "THREE")]
    store.set_clips(run_id, clips)
    said = Transcription("ONE TOO", (Word("ONE", 0.0, 0.25, 0.99), Word("TOO", 0.3, 0.5, 1 / 3)))
    store.add_predictions(run_id, 1.25, [Prediction(0, 0, 0.1, said), Prediction(1, 0, 0.05, said, paired=False)])
    store.add_predictions(run_id, 2.5, [Prediction(0, 1, 0.2, Transcription("", ()))])
    store.add_failure(run_id, Failure(1, "clip b", "hung", "It hung."))
    store.set_state(run_id, "failed", "It failed.")
    return run_id


def spoilt(store: Store, run_id: str, change: Callable[[Any], object]) -> bytes:
    """A bundle in which one thing was changed."""
    document = json.loads(to_text(store.bundle(run_id)))
    change(document)
    return json.dumps(document).encode()
