"""A process that holds one variant and answers requests: the side that imports engines.

Started by `bench.client` as `python -m bench.worker REQUESTS REPLIES`, two file descriptors of private pipes. A request
is a line of JSON, {"do": NAME, ...}; replies are lines of JSON: any number of {"progress": TEXT}, then {"ok": {...}} or
{"error": {"kind": ..., "message": ...}}. Whatever a library prints goes to the log that the parent gave as stdout.
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
        self._forward: Any = None
        self._family: Any = None
        self._files: dict[str, Any] = {}  # what the artefact carries beside weights
        self._inputs: tuple[tuple[Any, ...], Any] | None = None
        self._met: set[tuple[int, float]] = set()
        self._compiles = False  # whether opening and first passes may take minutes

    def build(self, model: str, mode: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Make or find an artefact, and count what it quantizes."""
        from dataclasses import asdict

        from bench import artefacts, modes

        self._compiles = modes.find(mode).NEEDS.compiles  # to count what is quantized it is opened
        with self._patience():
            artefact, coverage = artefacts.prepare(model, mode, settings, lambda text: self._say({"progress": text}))
        return {"artefact": asdict(artefact), "coverage": asdict(coverage)}

    def open(self, digest: str, threads: int) -> dict[str, Any]:
        """Open an artefact; returns the seconds it took."""
        from bench import artefacts, models, modes

        known = artefacts.manifest(digest)
        mode, directory = modes.find(known["mode"]), artefacts.folder(digest)
        self._family = models.families()[known["family"]]
        for name in (*mode.NEEDS.packages, *(self._family.TORCH_MODULES if mode.ENGINE == "torch" else ())):
            importlib.import_module(name)  # it belongs to the process's start, not to the artefact's load
        self._compiles = mode.NEEDS.compiles
        begun = time.perf_counter()
        with self._patience():
            self._forward = mode.open(directory, threads, self._family)
        load_s = time.perf_counter() - begun
        names = ("config.json", "vocab.json", "preprocessor_config.json")
        self._files = {name: json.loads((directory / name).read_text()) for name in names}
        gc.collect()
        gc.freeze()
        return {"load_s": load_s, "remark": mode.check()}

    def visit(self, batch: int, length_s: float, seed: int, input_kind: str) -> dict[str, Any]:
        """Timed passes over one prepared input; the first ones of a shape are cold."""
        key = (batch, length_s, seed, input_kind)
        if self._inputs is None or self._inputs[0] != key:
            self._inputs = key, self._family.inputs(length_s, batch, seed, input_kind)
        x = self._inputs[1]
        passes: list[tuple[str, float]] = []
        gc.collect()
        gc.disable()  # a collection would fall into somebody's pass
        try:
            if (batch, length_s) not in self._met:
                self._met.add((batch, length_s))
                with self._patience():
                    passes.append(("cold", self._timed(x)))
            passes.append(("discarded", self._timed(x)))
            kept: list[float] = []
            wanted = 1 if passes[-1][1] > SINGLE_PASS_OVER_S else VISIT_PASSES
            while len(kept) < wanted or (wanted > 1 and sum(kept) < VISIT_S):
                kept.append(self._timed(x))
        finally:
            gc.enable()
        return {"passes": passes + [("kept", s) for s in kept]}

    def transcribe(self, path: str) -> dict[str, Any]:
        """The text of a .npy file, (samples,) float32 at 16 kHz; long audio is passed in overlapping chunks.

        Seconds are those of the forward passes alone.
        """
        from dataclasses import asdict

        import numpy as np

        from bench import longform

        config, seconds = self._files["config.json"], 0.0

        def forward(x: Any) -> Any:
            nonlocal seconds
            begun = time.perf_counter()
            logits = self._forward(x)
            seconds += time.perf_counter() - begun
            return logits

        def progress(done: int, count: int) -> None:
            if count > 1:
                self._say({"progress": f"{done}/{count}"})

        kernels, strides = self._family.frontend(config)
        x = self._family.prepare(np.load(path, allow_pickle=False), self._files["preprocessor_config.json"])
        gc.disable()  # a collection would fall into somebody's pass
        try:
            logits = longform.logits(forward, x, kernels, strides, progress)
        finally:
            gc.enable()
        return {"seconds": seconds, **asdict(self._family.decode(logits, self._files["vocab.json"], config))}

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Signs of life while something is compiled, which may take minutes; but not for ever, since it may hang."""
        over = threading.Event()

        def tell() -> None:
            begun = time.monotonic()
            while not over.wait(HEARTBEAT_S) and (s := time.monotonic() - begun) < LONGEST_COMPILATION_S:
                self._say({"progress": f"at it for {s:.0f} s; compiling takes a while"})

        thread = threading.Thread(target=tell, daemon=True)
        if self._compiles:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self._compiles:
                thread.join()

    def _timed(self, x: Any) -> float:
        begun = time.perf_counter()
        self._forward(x)
        return time.perf_counter() - begun


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
    while True:
        request = json.loads(waiting.get())
        do = request.pop("do")
        if do == "quit":
            os._exit(0)
        try:
            answer = {"ok": getattr(worker, do)(**request)}
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
    expected = {c.__name__ for c in type(e).__mro__} & {"ModelError", "ModeError"}
    return {"kind": "unavailable" if expected else "error", "message": text}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
