"""Workers as real processes with real engines: what they answer, how they end, and what is said of it.

Most hold ONNX Runtime, which starts in a tenth of the time of torch; what torch does without memory is its own test.

Every worker here is a noisy one: a library that prints replies of its own to stdout and stderr, without end.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import LIGHT, PROMPT_S, alive, own_cache, wait_for

from bench.artefacts import cache as artefacts
from bench.core import paths
from bench.core.specs import Placement
from bench.workers.client import Cancelled, Pool, Worker, WorkerError

SHORT = {"batch": 1, "size": 1.0, "seed": 0, "input_kind": "speech"}
LONG = {"batch": 16, "size": 30.0, "seed": 0, "input_kind": "noise"}  # a visit of seconds, about 2 GB
LIMIT_S = 120.0

_NOISE = """
import os, sys, threading, time

def chatter():
    while True:
        os.write(1, b'{"ok": {"passes": "of a library"}}\\n')
        os.write(2, b'{"error": {"kind": "noise", "message": "of a library"}}\\n')
        time.sleep(0.02)

if "bench.workers.process" in sys.orig_argv:
    print('{"ok": 1}', flush=True)
    threading.Thread(target=chatter, daemon=True).start()
"""

pytestmark = pytest.mark.timeout(200)


class Stable:
    """Opened workers, lent from test to test; one that a test ended is replaced when the next one is wanted."""

    def __init__(self, digest: str, of_torch: str) -> None:
        self.digest, self.of_torch, self.pool = digest, of_torch, Pool()
        self._workers: list[Worker] = []

    def workers(self, count: int) -> list[Worker]:
        """So many workers that run and hold the tiny model, on one thread each."""
        if self.pool.cancelled:
            self.close()
            self.pool = Pool()
        self._workers = [w for w in self._workers if alive(w.pid)]
        missing = [self.pool.start("The worker", Placement("cpu", 1)) for _ in range(count - len(self._workers))]
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda w: w.ask("open", LIMIT_S, digest=self.digest, placement="cpu/1"), missing))
        self._workers += missing
        for worker in self._workers:
            worker.resume()
        return self._workers[:count]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


@pytest.fixture(scope="module")
def stable(tiny_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stable]:
    folder, library = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("library")
    (folder / "cache").symlink_to(cache)  # nothing of it is broken or counted here
    (library / "sitecustomize.py").write_text(_NOISE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EARBENCH_DATA", str(folder))
        patch.setenv("PYTHONPATH", str(library))
        builder = Pool().start("The builder", Placement("cpu", 2))
        try:
            asked = {
                mode: {"model": str(tiny_model), "mode": mode, "settings": {}} for mode in (LIGHT[0], "torch-fp32")
            }
            digests = [builder.ask("build", LIMIT_S, **what)["artefact"]["digest"] for what in asked.values()]
        finally:
            builder.close()
        workers = Stable(*digests)
        yield workers
        workers.close()


def test_noise_of_a_library_goes_to_the_log_and_never_into_an_answer(stable: Stable) -> None:
    [worker] = stable.workers(1)
    for _ in range(3):
        answer = worker.ask("visit", LIMIT_S, **SHORT)
        assert {kind for kind, _, _ in answer["passes"]} <= {"cold", "discarded", "kept"}
        assert all(seconds > 0 for _, seconds, _ in answer["passes"])
    assert "of a library" in worker.log_tail()
    libraries = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "onnxruntime" in libraries and "llvmlite" not in libraries, (
        "librosa, which needs llvmlite, is for spectrograms"
    )


def test_no_library_reports_what_it_is_used_for(
    tiny_model: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO and NNCF import a package that tells their makers, if there is one: here it leaves a trace."""
    reporter, trace = tmp_path / "library" / "openvino_telemetry", tmp_path / "trace"
    reporter.mkdir(parents=True)
    (reporter / "__init__.py").write_text(f"open({str(trace)!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(reporter.parent))
    own_cache(data_folder)
    artefacts.remove(
        [kept.digest for kept in artefacts.kept() if kept.mode != LIGHT[0]]
    )  # all but what it is built from
    subprocess.run([sys.executable, "-c", "import openvino"], capture_output=True, timeout=LIMIT_S, check=False)
    assert trace.exists()
    trace.unlink()
    worker = Pool().start("The builder", Placement("cpu", 2))
    try:
        what = {"model": str(tiny_model), "mode": "openvino-int8-weight-only", "settings": {}}
        assert not worker.ask("build", LIMIT_S, **what)["artefact"]["from_cache"]
    finally:
        worker.close()
    asked = subprocess.run(
        [sys.executable, "-m", "bench.modes.probe"], capture_output=True, timeout=LIMIT_S, check=True, cwd=paths.ROOT
    )
    assert json.loads(asked.stdout)["openvino-int8-weight-only"]["state"] == "available"
    assert not trace.exists()


def test_an_idle_worker_gains_no_cpu_time_while_its_neighbour_is_visited(stable: Stable) -> None:
    pair = stable.workers(2)
    for idle, visited in (pair, pair[::-1]):
        idle.ask("visit", LIMIT_S, **SHORT)  # so that all of its threads are there
        idle.pause()
        wait_for(lambda idle=idle: thread_states(idle.pid) == {"T"}, "the stop of every thread")
        visited.resume()
        before, neighbour = cpu_ticks(idle.pid), cpu_ticks(visited.pid)
        for _ in range(3):
            visited.ask("visit", LIMIT_S, **SHORT)
        assert cpu_ticks(idle.pid) == before
        assert cpu_ticks(visited.pid) > neighbour


def test_too_large_a_visit_is_named_and_the_worker_lives(stable: Stable) -> None:
    worker = stable.pool.start("The worker", Placement("cpu", 1))
    worker.ask("open", LIMIT_S, digest=stable.of_torch, placement="cpu/1")
    for spare_bytes, length_s in ((100e6, 60.0), (700e6, 30.0)):  # not even the input fits; the input fits, a pass not
        size = psutil.Process(worker.pid).memory_info().vms
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (size + int(spare_bytes), resource.RLIM_INFINITY))
        with pytest.raises(WorkerError) as caught:
            worker.ask("visit", LIMIT_S, **{**LONG, "batch": 64, "size": length_s})
        assert caught.value.kind == "out of memory", (caught.value, caught.value.log)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert worker.ask("visit", LIMIT_S, **SHORT)["passes"]
    worker.close()


def test_a_worker_killed_from_outside_during_a_visit(stable: Stable) -> None:
    [worker] = stable.workers(1)
    with visiting(worker) as answer:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"was killed \(SIGKILL\): often because memory ran out") as caught:
            answer.result(10)
    assert caught.value.kind == "killed"
    assert "of a library" in caught.value.log
    with pytest.raises(WorkerError, match=r"was killed \(SIGKILL\): often because memory ran out"):
        worker.ask("visit", LIMIT_S, **SHORT)
    worker.close()
    assert not alive(worker.pid)
    assert not worker.log_path.exists()


def test_a_worker_that_crashes_or_ends_by_itself_is_named(stable: Stable) -> None:
    for number, kind, text in ((signal.SIGSEGV, "crashed", "SIGSEGV"), (None, "died", "exit code 0")):
        worker = stable.pool.start("The worker", Placement("cpu", 1))
        try:
            if number:
                worker.signal(number)
            with pytest.raises(WorkerError, match=text) as caught:
                worker.ask("quit", LIMIT_S)
            assert caught.value.kind == kind
        finally:
            worker.close()


def test_a_worker_stopped_from_outside_counts_as_hung_and_is_ended(stable: Stable) -> None:
    worker = stable.pool.start("The worker", Placement("cpu", 1))
    try:
        os.kill(worker.pid, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(WorkerError, match="no sign of life") as caught:
            worker.ask("open", 1.0, digest=stable.digest, placement="cpu/1")
        assert 1.0 <= time.monotonic() - begun < PROMPT_S
        assert caught.value.kind == "hung"
        assert not alive(worker.pid)
    finally:
        worker.close()


def test_cancel_ends_visit_build_and_stop_promptly(
    stable: Stable, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [visited] = stable.workers(1)
    pool = stable.pool
    stopped = pool.start("The stopped one", Placement("cpu", 1))
    stopped.pause()
    monkeypatch.setenv("EARBENCH_DATA", str(tmp_path))  # an empty cache: there is something to build
    builder, stage = pool.start("The builder", Placement("cpu", 1)), threading.Event()
    try:
        with ThreadPoolExecutor() as threads:
            built = threads.submit(
                builder.ask,
                "build",
                LIMIT_S,
                lambda text: stage.set() if text == "loading the float model" else None,
                model=str(tiny_model),
                mode="torch-fp32",
                settings={},
            )
            assert stage.wait(LIMIT_S)
            with visiting(visited) as answer:
                begun = time.monotonic()
                pool.cancel()
                for future in (built, answer):
                    with pytest.raises(Cancelled):
                        future.result(10)
                with pytest.raises(Cancelled):
                    stopped.ask("visit", LIMIT_S, **SHORT)
                for worker in (visited, stopped, builder):
                    worker.close()
                seconds = time.monotonic() - begun
        assert seconds < PROMPT_S
        assert not [w for w in (visited, stopped, builder) if alive(w.pid)]
        with pytest.raises(Cancelled):
            pool.start("One more", Placement("cpu", 1))
    finally:
        for worker in (stopped, builder):
            worker.close()


_SERVER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from bench.core.records import Placement
from bench.workers.client import Pool

digest, long = sys.argv[1], json.loads(sys.argv[2])
pool = Pool()
workers = [pool.start(name, Placement("cpu", 1)) for name in ("visited", "stopped", "starting")]
with ThreadPoolExecutor() as threads:
    list(threads.map(lambda w: w.ask("open", 120, digest=digest, placement="cpu/1"), workers[:2]))
workers[1].pause()
print(*(w.pid for w in workers), flush=True)
workers[0].ask("visit", 120, **long)
"""


def test_workers_of_a_dead_server_end_during_a_long_pass_and_when_stopped(stable: Stable) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, stable.digest, json.dumps(LONG)],
        cwd=paths.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids: list[int] = []
    try:
        assert server.stdout
        pids = [int(word) for word in server.stdout.readline().split()]
        visited, stopped, _ = pids
        busy = cpu_ticks(visited)
        wait_for(lambda: cpu_ticks(visited) > busy + 50, "the long pass")
        assert psutil.Process(stopped).status() == psutil.STATUS_STOPPED
        server.kill()
        server.wait(10)
        wait_for(lambda: not any(alive(pid) for pid in pids), "the workers' end", PROMPT_S)
    finally:
        server.kill()
        server.wait(10)
        for pid in filter(alive, pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class visiting:  # noqa: N801
    """A long visit under way in a thread of its own; gives its future answer."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._threads = worker, ThreadPoolExecutor(1)

    def __enter__(self) -> Future[Any]:
        before = cpu_ticks(self._worker.pid)
        answer = self._threads.submit(self._worker.ask, "visit", LIMIT_S, **LONG)
        wait_for(lambda: cpu_ticks(self._worker.pid) > before + 50, "the visit")
        assert not answer.done()
        return answer

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()


def thread_states(pid: int) -> set[str]:
    """The states of a process's threads, as the kernel's letters; T is stopped."""
    return {stat.read_text().rsplit(") ", 1)[1][0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}


def cpu_ticks(pid: int) -> int:
    """Time that a process has taken from the processor, user and system, in the kernel's ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])
