"""The worker process, which holds one variant and answers requests. Only this side imports engines.

Started by `bench.workers.client` as `python -m bench.workers.process REQUESTS REPLIES`, two file descriptors of private
pipes. A request is a line of JSON, {"do": NAME, ...}; replies are lines of JSON: any number of {"progress": TEXT}, then
{"ok": {...}} or {"error": {"kind": ..., "message": ...}}. The output of libraries goes to stdout and stderr, which the
parent has redirected to the worker's log.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A visit is one discarded pass, then timed passes: at least so many and for at least so long, or one if a pass is long.
VISIT_PASSES = 3
VISIT_S = 0.3
SINGLE_PASS_OVER_S = 2.0
HEARTBEAT_S = 10.0
LONGEST_COMPILATION_S = 1800.0

# Out-of-memory messages of torch, the C++ library and the loader, which don't raise MemoryError.
_NO_MEMORY = ("allocate memory", "not enough memory", "bad_alloc", "failed to map segment")

Say = Callable[[dict[str, Any]], None]


class Worker:
    """The state of the process, with one method per request."""

    def __init__(self, say: Say) -> None:
        """`say` sends a reply to the parent."""
        self._say = say
        self._family: Any = None
        self._networks: dict[str, Any] = {}  # opened networks by name
        self._files: dict[str, Any] = {}  # the artefact's files other than weights
        self._inputs: tuple[tuple[Any, ...], Any] | None = None
        self._seen_shapes: set[tuple[int, float]] = set()
        self._compiles = False  # whether opening and first passes compile, which may take minutes

    def build(self, model: str, mode: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Build an artefact or take it from the cache, and count its coverage."""
        from dataclasses import asdict

        from bench import modes
        from bench.artefacts import build

        self._compiles = modes.find(mode).SPEC.needs.compiles  # counting the coverage opens the artefact
        with self._heartbeats():
            artefact, coverage = build.prepare(model, mode, settings, lambda text: self._say({"progress": text}))
        return {"artefact": asdict(artefact), "coverage": asdict(coverage)}

    def start(self, digest: str, begun_s: float) -> dict[str, Any]:
        """Import what opening the artefact needs, and return the seconds since `begun_s`.

        `begun_s` is the parent's `time.monotonic()`, which is one clock for all processes of a device.
        """
        with _explained(digest):
            self._import(digest)
        return {"start_s": time.monotonic() - begun_s}

    def open(self, digest: str, placement: str) -> dict[str, Any]:
        """Open an artefact and return the load time in seconds. Imports first, if `start` was not asked."""
        from bench.artefacts import cache
        from bench.core.specs import Placement

        with _explained(digest):
            mode, directory = self._import(digest), cache.folder(digest)
            self._compiles = mode.SPEC.needs.compiles
            networks = self._family.read_networks(directory)
            start_s = time.perf_counter()
            with self._heartbeats():
                self._networks = dict(mode.open(directory, Placement.parse(placement), self._family, networks))
            load_s = time.perf_counter() - start_s
            self._files = self._family.read_files(directory)
        gc.collect()
        gc.freeze()
        return {"load_s": load_s, "remark": mode.check()}

    def _import(self, digest: str) -> Any:
        """Import what opening the artefact needs and return its mode. Imports are start time, not load time."""
        from bench import modes
        from bench.artefacts import cache
        from bench.families import families

        manifest = cache.manifest_of(digest)
        mode = modes.find(manifest["mode"])
        self._family = families()[manifest["family"]]
        if mode.SPEC.engine == "torch":
            self._family.import_torch()
        for name in mode.SPEC.needs.packages:
            importlib.import_module(name)
        return mode

    def visit(self, batch: int, size: float, seed: int, input_kind: str) -> dict[str, Any]:
        """Run and time passes of fixed work on one prepared input; the first pass of a shape is cold.

        Returns passes as (kind, seconds, ((phase, seconds), ...)).
        """
        key = (batch, size, seed, input_kind)
        if self._inputs is None or self._inputs[0] != key:
            self._inputs = key, self._family.inputs(size, batch, seed, input_kind, self._files)
        feed, stop = self._inputs[1], self._family.steps(self._files["config.json"], size)
        passes: list[tuple[Any, ...]] = []
        gc.collect()
        gc.disable()  # a collection would be timed as part of a pass
        try:
            if (batch, size) not in self._seen_shapes:
                self._seen_shapes.add((batch, size))
                with self._heartbeats():
                    passes.append(("cold", *self._timed(feed, stop)))
            passes.append(("discarded", *self._timed(feed, stop)))
            kept: list[tuple[float, Any]] = []
            count = 1 if passes[-1][1] > SINGLE_PASS_OVER_S else VISIT_PASSES
            while len(kept) < count or (count > 1 and sum(seconds for seconds, _ in kept) < VISIT_S):
                kept.append(self._timed(feed, stop))
        finally:
            gc.enable()
        return {"passes": passes + [("kept", *timed) for timed in kept]}

    def predict(self, path: str) -> dict[str, Any]:
        """Predict from a .npy file, (samples,) float32 at 16 kHz; the seconds are those of the networks alone."""
        from dataclasses import asdict

        import numpy as np

        from bench.families.network import UntilEnd
        from bench.families.session import Timed

        def progress(done: int, count: int) -> None:
            if count > 1:
                self._say({"progress": f"{done}/{count}"})

        feed = self._family.prepare(np.load(path, allow_pickle=False), self._files)
        timed = Timed(self._networks)
        gc.disable()  # a collection would be timed as part of a pass
        try:
            stop = UntilEnd(progress=progress)
            outputs = self._family.run(timed.networks, feed, self._files, stop, lambda phase: None)
        finally:
            gc.enable()
        return {"seconds": timed.seconds, "output": asdict(self._family.predict(outputs, self._files))}

    @contextmanager
    def _heartbeats(self) -> Iterator[None]:
        """Send heartbeats during a compilation, which may take minutes; not forever, because it may hang."""
        finished = threading.Event()

        def beat() -> None:
            start_s = time.monotonic()
            while not finished.wait(HEARTBEAT_S) and (elapsed_s := time.monotonic() - start_s) < LONGEST_COMPILATION_S:
                self._say({"progress": f"compiling, {elapsed_s:.0f} s so far; it takes a while"})

        thread = threading.Thread(target=beat, daemon=True)
        if self._compiles:
            thread.start()
        try:
            yield
        finally:
            finished.set()
            if self._compiles:
                thread.join()

    def _timed(self, feed: Any, stop: Any) -> tuple[float, list[tuple[str, float]]]:
        """Run one pass and return its seconds and those of its phases."""
        phases: list[tuple[str, float]] = []
        last_s = 0.0
        family, networks, files = self._family, self._networks, self._files

        def mark(phase: str) -> None:
            nonlocal last_s
            now_s = time.perf_counter()
            phases.append((phase, now_s - last_s))
            last_s = now_s

        start_s = last_s = time.perf_counter()
        family.run(networks, feed, files, stop, mark)
        return time.perf_counter() - start_s, phases


def main() -> None:
    """Answer requests until a quit request comes or the parent's end of the pipe closes."""
    requests, replies = os.fdopen(int(sys.argv[1]), "r"), os.fdopen(int(sys.argv[2]), "w", buffering=1)
    queued: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            queued.put(line)
        os._exit(0)  # the parent has gone: the current result is not needed

    threading.Thread(target=listen, daemon=True).start()

    lock = threading.Lock()  # heartbeats come from another thread

    def say(reply: dict[str, Any]) -> None:
        with lock:
            replies.write(json.dumps(reply) + "\n")

    worker = Worker(say)
    answers: dict[str, Callable[..., dict[str, Any]]] = {
        "build": worker.build,
        "start": worker.start,
        "open": worker.open,
        "visit": worker.visit,
        "predict": worker.predict,
    }
    while True:
        request = json.loads(queued.get())
        do = request.pop("do")
        if do == "quit":
            os._exit(0)
        try:
            if do not in answers:
                raise ValueError(f"Got the request {do!r}. Allowed: quit, {', '.join(answers)}.")
            answer = {"ok": answers[do](**request)}
        except Exception as e:
            traceback.print_exc()
            answer = {"error": _error(e)}
        say(answer)


@contextmanager
def _explained(digest: str) -> Iterator[None]:
    """Raise an error in plain words if an artefact can't be opened because it is damaged or its mode can't run."""
    try:
        yield
    except Exception as e:
        if not isinstance(e, MemoryError) and not any(phrase in str(e) for phrase in _NO_MEMORY):
            _explain(e, digest)
        raise


def _explain(e: Exception, digest: str) -> None:
    from bench import modes
    from bench.artefacts import cache
    from bench.core.errors import EarbenchError
    from bench.modes.mode import ModeError

    if damaged := cache.damaged_files(digest):
        cache.distrust(digest)
        advice = "import it again" if cache.is_imported(digest) else "start again, and it is built anew"
        raise cache.ArtefactError(
            f"The artefact can't be opened: {', '.join(damaged)} in {cache.folder(digest)} is damaged. To go on, "
            f"{advice}. `python -m bench artefacts verify` looks for damage in all artefacts."
        ) from e
    if isinstance(e, EarbenchError):
        return
    mode = modes.find(cache.manifest_of(digest)["mode"])
    try:
        mode.check()
    except Exception as problem:
        raise ModeError(f"{mode.name} can't run here: {problem}") from e


def _error(e: Exception) -> dict[str, str]:
    """Return a failure's kind and message. Imports nothing, because an import may have failed."""
    text = str(e).strip() or type(e).__name__
    if isinstance(e, MemoryError) or any(phrase in text for phrase in _NO_MEMORY):
        advice = "Memory ran out. Close other programs, or choose a smaller model, batch or length."
        return {"kind": "out of memory", "message": f"{advice} ({text.splitlines()[0]})"}
    expected = any(c.__name__ == "EarbenchError" for c in type(e).__mro__)
    return {"kind": "unavailable" if expected else "error", "message": text}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
