"""A process that holds one variant and answers requests: the side that imports engines.

Started by `bench.workers.client` as `python -m bench.workers.process REQUESTS REPLIES`, two file descriptors of private
pipes. A request is a line of JSON, {"do": NAME, ...}; replies are lines of JSON: any number of {"progress": TEXT}, then
{"ok": {...}} or {"error": {"kind": ..., "message": ...}}. Whatever a library prints goes to the log that the parent
gave as stdout.
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

# A visit: one discarded pass, then at least so many timed ones that take at least so long; one where a pass is long.
VISIT_PASSES = 3
VISIT_S = 0.3
SINGLE_PASS_OVER_S = 2.0
HEARTBEAT_S = 10.0
LONGEST_COMPILATION_S = 1800.0

# How torch, the C++ library and the loader say that there is no memory, where they don't raise MemoryError.
_NO_MEMORY = ("allocate memory", "not enough memory", "bad_alloc", "failed to map segment")

Say = Callable[[dict[str, Any]], None]


class Worker:
    """The state of the process and its answers, one method a request."""

    def __init__(self, say: Say) -> None:
        """`say` sends a reply to the parent."""
        self._say = say
        self._family: Any = None
        self._networks: dict[str, Any] = {}  # opened, by name
        self._files: dict[str, Any] = {}  # what the artefact carries beside weights
        self._inputs: tuple[tuple[Any, ...], Any] | None = None
        self._met: set[tuple[int, float]] = set()
        self._compiles = False  # whether opening and first passes may take minutes

    def build(self, model: str, mode: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Make or find an artefact, and count what it quantizes."""
        from dataclasses import asdict

        from bench import modes
        from bench.artefacts import build

        self._compiles = modes.find(mode).SPEC.needs.compiles  # to count what is quantized it is opened
        with self._patience():
            artefact, coverage = build.prepare(model, mode, settings, lambda text: self._say({"progress": text}))
        return {"artefact": asdict(artefact), "coverage": asdict(coverage)}

    def open(self, digest: str, placement: str) -> dict[str, Any]:
        """Open an artefact; returns the seconds it took."""
        from bench import modes
        from bench.artefacts import cache
        from bench.core.specs import Placement
        from bench.families import families

        manifest = cache.manifest_of(digest)
        mode, directory = modes.find(manifest["mode"]), cache.folder(digest)
        self._family = families()[manifest["family"]]
        for name in (
            *mode.SPEC.needs.packages,
            *(self._family.TORCH_MODULES if mode.SPEC.engine == "torch" else ()),
        ):
            importlib.import_module(name)  # it belongs to the process's start, not to the artefact's load
        self._compiles = mode.SPEC.needs.compiles
        networks = self._family.read_networks(directory)
        begun = time.perf_counter()
        with self._patience():
            self._networks = dict(mode.open(directory, Placement.parse(placement), self._family, networks))
        load_s = time.perf_counter() - begun
        self._files = self._family.read_files(directory)
        gc.collect()
        gc.freeze()
        return {"load_s": load_s, "remark": mode.check()}

    def visit(self, batch: int, size: float, seed: int, input_kind: str) -> dict[str, Any]:
        """Timed passes of fixed work over one prepared input; the first ones of a shape are cold.

        A pass is (kind, seconds, ((phase, seconds), ...)).
        """
        key = (batch, size, seed, input_kind)
        if self._inputs is None or self._inputs[0] != key:
            self._inputs = key, self._family.inputs(size, batch, seed, input_kind, self._files)
        feed, stop = self._inputs[1], self._family.steps(self._files["config.json"], size)
        passes: list[tuple[Any, ...]] = []
        gc.collect()
        gc.disable()  # a collection would fall into somebody's pass
        try:
            if (batch, size) not in self._met:
                self._met.add((batch, size))
                with self._patience():
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
        """The prediction for a .npy file, (samples,) float32 at 16 kHz; seconds are those of its networks alone."""
        from dataclasses import asdict

        import numpy as np

        from bench.families.network import UntilEnd
        from bench.families.session import Timed

        def progress(done: int, count: int) -> None:
            if count > 1:
                self._say({"progress": f"{done}/{count}"})

        feed = self._family.prepare(np.load(path, allow_pickle=False), self._files)
        timed = Timed(self._networks)
        gc.disable()  # a collection would fall into somebody's pass
        try:
            stop = UntilEnd(progress=progress)
            outputs = self._family.run(timed.networks, feed, self._files, stop, lambda phase: None)
        finally:
            gc.enable()
        return {"seconds": timed.seconds, "output": asdict(self._family.predict(outputs, self._files))}

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Signs of life while something is compiled, which may take minutes; but not for ever, since it may hang."""
        over = threading.Event()

        def tell() -> None:
            begun = time.monotonic()
            while not over.wait(HEARTBEAT_S) and (s := time.monotonic() - begun) < LONGEST_COMPILATION_S:
                self._say({"progress": f"compiling, {s:.0f} s so far; it takes a while"})

        thread = threading.Thread(target=tell, daemon=True)
        if self._compiles:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self._compiles:
                thread.join()

    def _timed(self, feed: Any, stop: Any) -> tuple[float, list[tuple[str, float]]]:
        """One pass: its seconds, and those of its phases."""
        phases: list[tuple[str, float]] = []
        last = 0.0
        family, networks, files = self._family, self._networks, self._files

        def mark(phase: str) -> None:
            nonlocal last
            now = time.perf_counter()
            phases.append((phase, now - last))
            last = now

        begun = last = time.perf_counter()
        family.run(networks, feed, files, stop, mark)
        return time.perf_counter() - begun, phases


def main() -> None:
    """Answer requests until told to quit or until the parent's end of the pipe closes."""
    requests, replies = os.fdopen(int(sys.argv[1]), "r"), os.fdopen(int(sys.argv[2]), "w", buffering=1)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            waiting.put(line)
        os._exit(0)  # the parent is gone: nobody wants what is being computed

    threading.Thread(target=listen, daemon=True).start()

    lock = threading.Lock()  # signs of life come from a thread of their own

    def say(reply: dict[str, Any]) -> None:
        with lock:
            replies.write(json.dumps(reply) + "\n")

    worker = Worker(say)
    answers: dict[str, Callable[..., dict[str, Any]]] = {
        "build": worker.build,
        "open": worker.open,
        "visit": worker.visit,
        "predict": worker.predict,
    }
    while True:
        request = json.loads(waiting.get())
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


def _error(e: Exception) -> dict[str, str]:
    """A failure's kind and sentence. Imports nothing: the import may be what failed."""
    text = str(e).strip() or type(e).__name__
    if isinstance(e, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        advice = "Memory ran out. Close other programs, or choose a smaller model, batch or length."
        return {"kind": "out of memory", "message": f"{advice} ({text.splitlines()[0]})"}
    by_people = any(c.__name__ == "EarbenchError" for c in type(e).__mro__)
    return {"kind": "unavailable" if by_people else "error", "message": text}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
