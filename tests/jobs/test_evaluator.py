"""Evaluations with real workers and a tiny model: what is stored, cancelled, resumed, broken."""

import errno
import hashlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LIGHT, PROMPT_S, wait_for

from bench.artefacts import cache
from bench.core.lease import Refused
from bench.core.specs import EvaluationSpec, Placement, RunSpec, SpecError, Variant
from bench.core.store import Store
from bench.datasets import dataset
from bench.datasets.folder import DatasetError
from bench.device import cpu, host
from bench.families.family import ModelError
from bench.jobs import measure, memory
from bench.jobs.evaluation import samples_file
from bench.jobs.manager import Jobs
from bench.results import evaluation
from bench.sound import audio
from bench.workers.client import Pool, Worker

MODES = LIGHT


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Five clips of noise with texts, 0.5 to 1.3 s."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["path,text"]
    for i in range(5):
        audio.write_wav(folder / f"{i}.wav", 0.1 * rng.standard_normal(8000 + 3200 * i).astype(np.float32))
        lines.append(f"{i}.wav,WORD NUMBER {i}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def manager(data_folder: Path) -> Jobs:
    """A job manager with a database of its own."""
    return Jobs(Store(data_folder / "earbench.db"))


def spec(model: Path | str, clips: Path, **more: object) -> EvaluationSpec:
    """Both modes over all clips."""
    return EvaluationSpec(tuple(Variant(str(model), mode, Placement("cpu", 1)) for mode in MODES), str(clips), **more)  # type: ignore[arg-type]


def test_every_variant_hears_every_clip_once(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    run_id = manager.start(spec(tiny_model, clips))
    assert manager.live and manager.live.kind == "evaluation"
    assert manager.wait(120)
    found = manager.store.evaluation(run_id)
    assert found and found.state == "done" and found.message is None
    heard = manager.store.predictions(run_id)
    assert [(h.clip, h.variant) for h in heard] == [(c, v) for c in range(5) for v in range(2)]
    assert all(h.seconds > 0 for h in heard)
    assert [c.length_s for c in manager.store.clips(run_id)] == pytest.approx([0.5, 0.7, 0.9, 1.1, 1.3])
    result = evaluation.result(manager.store, run_id)
    assert result and [s.words.reference_count for s in result.scores] == [15, 15]
    assert result.scores[0].comparison.delta == 0
    assert manager.store.runs() == []  # it is no benchmark
    records = manager.store.variants(found)
    assert all(r.artefact and r.opening and r.coverage for r in records)


def test_a_clip_that_cannot_be_read_is_named_and_left_out(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    (clips / "2.wav").write_bytes(b"no sound at all")
    run_id = manager.start(spec(tiny_model, clips))
    assert manager.wait(120)
    found = manager.store.evaluation(run_id)
    assert found and found.state == "done" and found.message == "1 of 5 clips can't be read; the rest is kept."
    (failure,) = manager.store.failures(run_id)
    assert failure.stage == "clip 2.wav" and failure.kind == "unreadable" and failure.variant is None
    assert {h.clip for h in manager.store.predictions(run_id)} == {0, 1, 3, 4}


def test_no_samples_stay_in_the_cache(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.ones(8, np.float32)
    with samples_file(samples) as path:
        assert np.array_equal(np.load(path), samples)
    assert not list((data_folder / "cache").glob("sound-*"))

    def full_disk(path: Path, samples: Any) -> None:
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"), samples_file(samples):
        pass
    assert not [f for f in (data_folder / "cache").rglob("*") if f.suffix == ".npy"]


def test_no_clip_that_can_be_read_is_a_failed_evaluation(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    for path in clips.glob("*.wav"):
        path.write_bytes(b"no sound at all")
    run_id = manager.start(spec(tiny_model, clips))
    assert manager.wait(120)
    found = manager.store.evaluation(run_id)
    assert found and found.state == "failed" and found.message
    assert "no clip could be read" in found.message


def test_cancel_keeps_what_was_heard_and_resume_hears_the_rest(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, gate = audio.decode, threading.Event()

    def slow(path: Path) -> audio.Sound:
        if path.name == "2.wav" and not gate.is_set():
            wait_for(lambda: manager.live and manager.live.cancelled, "the cancel")
        return decode(path)

    monkeypatch.setattr("bench.jobs.evaluation.audio.decode", slow)
    run_id = manager.start(spec(tiny_model, clips))
    wait_for(lambda: len(manager.store.predictions(run_id)) == 4, "two clips")
    manager.cancel()
    assert manager.wait(PROMPT_S)
    found = manager.store.evaluation(run_id)
    assert found and found.state == "cancelled"
    before = manager.store.predictions(run_id)
    assert {h.clip for h in before} == {0, 1}
    gate.set()
    assert manager.resume(run_id) == run_id
    assert manager.wait(120)
    after = manager.store.predictions(run_id)
    assert after[:4] == before and len(after) == 10
    assert manager.store.evaluation(run_id).state == "done"  # type: ignore[union-attr]


def test_variants_that_memory_sets_apart_are_told_as_not_paired(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for one worker: while one is open, there is not enough for another.
    def available() -> int:
        pool = getattr(manager.live, "pool", None)
        return 10**9 if pool and any("worker" in w.name for w in pool._live) else 10**12

    monkeypatch.setattr(cpu, "available_memory_bytes", available)
    monkeypatch.setattr(memory, "open_bytes", lambda *_: 10**11)
    run_id = manager.start(spec(tiny_model, clips))
    assert manager.wait(120)
    heard = manager.store.predictions(run_id)
    assert len(heard) == 10 and [h.paired for h in heard] == [h.variant == 0 for h in heard]
    r = evaluation.result(manager.store, run_id)
    assert r and [s.unpaired for s in r.scores] == [0, 5]
    (doubt,) = [d for d in evaluation.doubts(r) if "another time" in d]
    assert doubt.startswith(f"{MODES[1]} transcribed the clips at another time than the original")
    assert [row["unpaired_clips"] for row in evaluation.summary_rows(r)] == [0, 5]


def test_the_first_pass_after_a_pause_counts_for_nothing(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    ask, pause = Worker.ask, Worker.pause

    def noted(self: Worker, do: str, *rest: Any, **what: Any) -> Any:
        if do == "predict":
            asked.append((self.name, len(np.load(what["path"]))))
        return ask(self, do, *rest, **what)

    def paused(self: Worker) -> None:
        asked.append((self.name, 0))
        pause(self)

    monkeypatch.setattr(Worker, "ask", noted)
    monkeypatch.setattr(Worker, "pause", paused)
    run_id = manager.start(replace(spec(tiny_model, clips), limit=2))
    assert manager.wait(120)
    for name in {n for n, _ in asked}:
        lengths = [n for who, n in asked if who == name]
        first, second = (round(c.length_s * 16_000) for c in manager.store.clips(run_id) if c.length_s)
        # started, opened, cold, then a moment before each
        assert lengths == [0, 0, first, 0, 4000, first, 0, 4000, second, 0]


def test_resume_refuses_clips_that_changed(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    asked = spec(tiny_model, clips)
    found = dataset.of(asked)
    run_id = manager.store.create_run(replace(asked, digest=found.digest), host.device())
    manager.store.set_clips(run_id, measure.clips_of(found))
    manager.store.set_state(run_id, "cancelled")
    was = (clips / "3.wav").read_bytes()
    (clips / "3.wav").write_bytes(was[:-1] + bytes([was[-1] ^ 1]))  # as long as before, under the same name
    with pytest.raises(Refused, match="not what they were"):
        manager.resume(run_id)
    (clips / "3.wav").write_bytes(was)
    manifest = (clips / "manifest.csv").read_text()
    (clips / "manifest.csv").write_text("path,text\n0.wav,OTHER WORDS\n")
    with pytest.raises(Refused, match="not what they were"):
        manager.resume(run_id)
    (clips / "manifest.csv").write_text(manifest)
    assert manager.resume(run_id) == run_id
    manager.cancel()
    assert manager.wait(10)


def test_a_folder_is_stored_as_its_whole_path_with_a_digest(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips.parent)
    run_id = manager.start(spec(tiny_model, Path("clips")))
    manager.cancel()
    assert manager.wait(10)
    found = manager.store.evaluation(run_id)
    assert found and found.spec.dataset == str(clips) and found.spec.digest == dataset.find(str(clips)).digest
    monkeypatch.chdir("/")  # resumed by a server that was started elsewhere
    assert manager.resume(run_id) == run_id
    manager.cancel()
    assert manager.wait(10)


def test_clips_that_were_found_are_not_looked_for_again(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(tiny_model, clips, limit=2)
    found = dataset.of(asked)
    monkeypatch.setattr(dataset, "find", lambda *_: pytest.fail("they were found already"))
    run_id = manager.start(asked, found)
    manager.cancel()
    assert manager.wait(10)
    assert [c.id for c in manager.store.clips(run_id)] == [c.id for c in found.clips] and len(found.clips) == 2


def test_a_killed_worker_fails_its_variant_alone(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = Pool.start

    def noted(self: Pool, name: str, placement: Placement) -> object:
        worker = start(self, name, placement)
        if name == f"The worker of {MODES[1]}":
            started.append(worker.pid)
        return worker

    monkeypatch.setattr(Pool, "start", noted)
    run_id = manager.start(spec(tiny_model, clips))
    wait_for(lambda: len(manager.store.predictions(run_id)) >= 2, "the first clip")
    os.kill(started[0], signal.SIGKILL)
    assert manager.wait(120)
    found = manager.store.evaluation(run_id)
    assert found and found.state == "done" and found.message
    assert found.message.startswith("1 of 2 variants failed")
    (failure,) = manager.store.failures(run_id)
    assert failure.variant == 1 and failure.kind in ("killed", "out of memory")
    assert len([h for h in manager.store.predictions(run_id) if h.variant == 0]) == 5


def test_what_can_not_be_started_says_so(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    with pytest.raises(DatasetError):
        manager.start(spec(tiny_model, clips / "nowhere"))
    with pytest.raises(ModelError):
        manager.start(spec("no-such-model", clips))
    with pytest.raises(SpecError):
        EvaluationSpec((), str(clips))
    assert manager.store.evaluations() == []


def test_what_no_memory_can_hold_is_refused(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available_memory_bytes", lambda: 10**8)
    with pytest.raises(Refused, match=r"needs about \d\.\d GB of memory, and 0\.1 GB are free\. Close other programs"):
        manager.start(spec(tiny_model, clips))
    assert manager.store.evaluations() == [] and manager.holder() is None


def test_a_limit_draws_clips_by_the_seed(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    one, same = (dataset.of(spec(tiny_model, clips, limit=2, seed=3)).clips for _ in range(2))
    assert one == same and len(one) == 2


def test_an_interrupted_evaluation_is_marked_at_the_next_start(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    run_id = manager.store.create_run(spec(tiny_model, clips), host.device())
    assert Jobs(manager.store).store.evaluation(run_id).state == "interrupted"  # type: ignore[union-attr]


def test_a_second_job_is_refused_and_the_same_one_is_joined(manager: Jobs, tiny_model: Path, clips: Path) -> None:
    request = spec(tiny_model, clips)
    first = manager.start(request)
    assert manager.start(request) == first
    with pytest.raises(Refused, match=r"An evaluation is under way.*nothing else was started.*Wait for it"):
        manager.start(RunSpec((Variant(str(tiny_model), MODES[0], Placement("cpu", 1)),), (1.0,)))
    with pytest.raises(Refused, match="An evaluation is under way"):
        manager.start(replace(request, seed=7))
    assert [e.id for e in manager.store.evaluations()] == [first] and not manager.store.runs()
    manager.cancel()
    assert manager.wait(10)


def test_who_saw_the_clips_while_it_was_built_is_left_out(
    manager: Jobs, tiny_model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is what a calibrated mode leaves; here one is given that names a clip."""
    real = cache.manifest_of
    seen = hashlib.sha256((clips / "1.wav").read_bytes()).hexdigest()

    def manifest(digest: str) -> dict[str, Any]:
        found = real(digest)
        return found | {"clips": [seen] if found["mode"] == MODES[1] else []}

    monkeypatch.setattr(cache, "manifest_of", manifest)
    run_id = manager.start(spec(tiny_model, clips))
    assert manager.wait(120)
    (failure,) = manager.store.failures(run_id)
    assert (failure.variant, failure.stage, failure.kind) == (1, "build", "unfair")
    assert "looked at 1 of these 5 clips while it was built" in failure.message and ":data=FOLDER" in failure.message
    assert {h.variant for h in manager.store.predictions(run_id)} == {0}
