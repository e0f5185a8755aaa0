"""Transcriptions with real workers that stay warm."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import LIGHT, alive, wait_for

from bench.core.lease import Refused
from bench.core.specs import Placement, RunSpec, Variant
from bench.core.store import Store
from bench.jobs import memory, recordings, transcription
from bench.jobs.benchmark import Progress
from bench.jobs.manager import Jobs
from bench.jobs.transcribing import Recording
from bench.jobs.transcription import Busy
from bench.workers.client import Cancelled

NOISE = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)


@pytest.fixture
def manager(data_folder: Path) -> Iterator[Jobs]:
    """A job manager with a database of its own, whose workers end with the test."""
    manager = Jobs(Store(data_folder / "earbench.db"))
    yield manager
    manager.transcriber.close()


@pytest.fixture
def variants(tiny_model: Path) -> list[Variant]:
    """Two variants of the tiny model."""
    return [Variant(str(tiny_model), mode, Placement("cpu", 1)) for mode in LIGHT]


def pids(manager: Jobs) -> list[int]:
    """The warm workers' processes."""
    return [w.pid for w in manager.transcriber._workers.values()]


def test_workers_stay_warm_and_cost_only_the_forward_pass(manager: Jobs, variants: list[Variant]) -> None:
    said: list[str] = []

    def observe(progress: Progress) -> None:
        said.append(progress.stage)

    first = manager.transcriber.transcribe(NOISE, variants, observe)
    assert any(text.startswith("preparing") for text in said) and any(text.startswith("opening") for text in said)
    warm = pids(manager)
    said.clear()
    second = manager.transcriber.transcribe(NOISE, variants, observe)
    assert pids(manager) == warm and manager.transcriber.warm == variants
    assert said == [f"transcribing with {v.mode}" for v in variants]
    assert [t.variant for t in second] == variants
    for a, b in zip(first, second, strict=True):
        assert a.transcription == b.transcription and a.transcription is not None
        assert b.seconds is not None and b.seconds > 0 and not b.error


def test_long_audio_tells_its_chunks_and_equals_its_length(manager: Jobs, variants: list[Variant]) -> None:
    steps: list[Progress] = []
    (found,) = manager.transcriber.transcribe(np.tile(NOISE, 45), variants[:1], steps.append)
    chunks = [p for p in steps if "chunk" in p.stage]
    assert [p.stage for p in chunks] == [f"transcribing with {LIGHT[0]}: chunk {i}/3" for i in (1, 2, 3)]
    assert [p.done_ratio for p in chunks] == pytest.approx([1 / 3, 2 / 3, 1])
    first, second, last = (p.eta_s for p in chunks)
    assert first is None and second is not None and second > 0 and last == 0
    assert found.transcription
    assert all(w.end_s <= 45 for w in found.transcription.words)


def test_a_failed_variant_says_so_and_the_others_go_on(manager: Jobs, variants: list[Variant]) -> None:
    bad = [
        Variant("no-such-model", "torch-fp32", Placement("cpu", 1)),
        Variant(variants[0].model, "no-such-mode", Placement("cpu", 1)),
    ]
    found = manager.transcriber.transcribe(NOISE, [bad[0], variants[0], bad[1]])
    assert "no-such-model" in found[0].error and "no-such-mode" in found[2].error
    assert found[1].transcription and not found[1].error


def test_a_dead_worker_is_named_once_and_replaced(manager: Jobs, variants: list[Variant]) -> None:
    manager.transcriber.transcribe(NOISE, variants[:1])
    os.kill(pids(manager)[0], signal.SIGKILL)
    (found,) = manager.transcriber.transcribe(NOISE, variants[:1])
    assert "killed" in found.error and found.transcription is None
    (found,) = manager.transcriber.transcribe(NOISE, variants[:1])
    assert found.transcription and not found.error


def test_refused_while_a_benchmark_runs_whose_start_closes_the_workers(manager: Jobs, variants: list[Variant]) -> None:
    manager.transcriber.transcribe(NOISE, variants)
    warm = pids(manager)
    manager.start(RunSpec(tuple(variants), (1.0,), repeats=1000))
    assert not any(alive(pid) for pid in warm)
    with pytest.raises(Refused, match="benchmark is under way"):
        manager.transcriber.transcribe(NOISE, variants)
    manager.cancel()
    assert manager.wait(10)
    assert manager.transcriber.transcribe(NOISE, variants[:1])[0].transcription


def test_a_benchmark_is_refused_while_somebody_transcribes(manager: Jobs, variants: list[Variant]) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def observe(progress: Progress) -> None:
        if progress.stage.startswith("transcribing"):
            inside.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=manager.transcriber.transcribe, args=(NOISE, variants[:1], observe))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(Refused, match="a transcription"):
        manager.start(RunSpec(tuple(variants), (1.0,)))
    with pytest.raises(Busy, match="Another recording"):
        manager.transcriber.transcribe(NOISE, variants, wait_s=0.05)
    go_on.set()
    thread.join(60)
    assert not thread.is_alive()


def test_cancel_ends_a_transcription_and_the_next_one_works(manager: Jobs, variants: list[Variant]) -> None:
    manager.transcriber.transcribe(NOISE, variants[:1])
    long = np.tile(NOISE, 600)
    caught: list[type[BaseException]] = []

    def run() -> None:
        try:
            manager.transcriber.transcribe(long, variants)
        except Cancelled as e:
            caught.append(type(e))

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: manager.transcriber._busy.locked(), "the transcription")
    time.sleep(0.05)
    manager.transcriber.cancel()
    thread.join(5)
    assert caught == [Cancelled]
    assert manager.transcriber.transcribe(NOISE, variants[:1])[0].transcription


def test_idle_workers_end_after_a_while(manager: Jobs, variants: list[Variant]) -> None:
    manager.transcriber._warm_s = 2.0
    manager.transcriber.transcribe(NOISE, variants[:1])
    (pid,) = pids(manager)
    wait_for(lambda: not alive(pid), "the worker to be ended")
    assert not manager.transcriber.warm


def test_where_memory_holds_one_they_take_turns(
    manager: Jobs, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "available_memory_bytes", lambda: 10**9 if manager.transcriber.warm else 10**12)
    monkeypatch.setattr(memory, "open_bytes", lambda *_: 10**11)
    found = manager.transcriber.transcribe(NOISE, variants)
    assert all(t.transcription and not t.error for t in found)
    assert manager.transcriber.warm == variants[-1:]


def test_want_of_memory_is_told_with_a_way_out(
    manager: Jobs, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "available_memory_bytes", lambda: 1000)
    (found,) = manager.transcriber.transcribe(NOISE, variants[:1])
    assert "needs about" in found.error and "Leave it out" in found.error


def test_nothing_is_left_of_the_audio(manager: Jobs, variants: list[Variant], data_folder: Path) -> None:
    manager.transcriber.transcribe(NOISE, variants[:1])
    assert not [path for path in data_folder.rglob("*.npy") if path.is_file()]


def test_a_job_that_is_cancelled_while_it_opens_a_model_says_so(manager: Jobs, variants: list[Variant]) -> None:
    job = manager.transcribe(Recording("noise", "noise.wav", np.tile(NOISE, 600), keep_audio=True), variants)
    wait_for(lambda: job.progress.stage.startswith("opening"), "a model to be opened")
    manager.cancel()
    assert job.wait(10) and job.problem == "The transcription was cancelled." and job.transcript is None
    again = manager.transcribe(Recording("noise", "noise.wav", NOISE, "a reference", keep_audio=True), variants)
    assert again.wait(60) and not again.problem
    (kept,) = manager.store.transcripts()
    assert kept == again.transcript and kept.reference == "a reference" and recordings.audio_path(kept)
    assert kept.length_s == 1.0 and [t.variant for t in kept.texts] == variants
