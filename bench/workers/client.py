"""The parent's handle on workers: start, send requests, pause, kill, and explain why a worker died.

A worker is its own process group in this session. The whole group can be stopped or killed, and if this process dies,
the kernel sends SIGHUP to a stopped orphan.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.core import child, paths
from bench.core.child import Child, Pipe
from bench.core.errors import EarbenchError
from bench.core.specs import Placement
from bench.device import cpu, kinds

LOW_MEMORY_RATIO = 0.02  # free share of the usable memory below which a worker is killed
LOG_TAIL_LINES = 15


class Cancelled(Exception):
    """The job was cancelled and its workers were killed."""


class WorkerError(EarbenchError):
    """A worker can't answer. `kind` is a word for people, `log` the end of its output."""

    def __init__(self, kind: str, message: str, log: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.kind, self.log = kind, log


def end_orphans() -> None:
    """Kill the workers of servers that died.

    If a container's first process is in the server's session, the kernel does not send SIGHUP to stopped orphans. A
    worker is identified by its log file, whose name begins with its server's process id.
    """
    for process in psutil.process_iter(["cmdline"]):
        if "bench.workers.process" in (process.info["cmdline"] or ()):
            with contextlib.suppress(OSError, ValueError):
                log = Path(f"/proc/{process.pid}/fd/1").readlink()
                server = int(log.name.split("-")[0])
                if log.parent == paths.logs() and not psutil.pid_exists(server):
                    os.killpg(process.pid, signal.SIGKILL)


class Pool:
    """All workers of one job, so that another thread can cancel them together."""

    def __init__(self) -> None:
        """Create an empty pool."""
        self._lock = threading.RLock()  # a signal handler may call `cancel` within `start` or `drop` of its thread
        self._live: list[Worker] = []
        self._cancelled = False

    def start(self, name: str, placement: Placement) -> Worker:
        """Start a new worker. Raises Cancelled."""
        with self._lock:
            if self._cancelled:
                raise Cancelled
            worker = Worker(name, placement, self)
            self._live.append(worker)
            if self.cancelled:  # by a signal handler, while the process was being started
                worker.signal(signal.SIGKILL)
            return worker

    def drop(self, worker: Worker) -> None:
        """Remove a worker that has ended."""
        with self._lock:
            if worker in self._live:
                self._live.remove(worker)

    def cancel(self) -> None:
        """Kill all workers and refuse to start new ones; pending and later requests raise Cancelled."""
        with self._lock:
            self._cancelled = True
            for worker in self._live:
                worker.signal(signal.SIGKILL)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled


class Worker:
    """One worker process. Not thread-safe, except for `signal`."""

    def __init__(self, name: str, placement: Placement, pool: Pool) -> None:
        """Start the process; `name` is used in messages."""
        self.name, self._pool = name, pool
        self.log_path = paths.logs() / f"{os.getpid()}-{time.time_ns()}.log"
        self._oom_kills = cpu.oom_kills()
        self._requests, self._replies = Pipe(to_child=True), Pipe()
        self._lines_left: list[bytes] = []
        environment = child.environment(
            EARBENCH_DATA=str(paths.data_folder()), **kinds.find(placement.device).environment(placement)
        )
        self._log = self.log_path.open("w+b")
        try:
            self._child = Child(
                child.python("bench.workers.process", self._requests.child_end, self._replies.child_end),
                self._log,
                pipes=(self._requests, self._replies),
                env=environment,
            )
        except OSError as e:
            self._log.close()
            raise WorkerError(
                "out of memory" if e.errno == errno.ENOMEM else "error", f"{name} can't start: {e}"
            ) from e

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._child.pid

    def ask(self, do: str, timeout_s: float, on_progress: Callable[[str], None] | None = None, **what: Any) -> Any:
        """Send a request and wait for its reply; each progress message restarts the timeout.

        Raises WorkerError if the worker fails, dies, hangs or uses up the device's memory, Cancelled if the pool was
        cancelled.
        """
        with contextlib.suppress(BrokenPipeError):
            self._requests.write_line(json.dumps({"do": do, **what}).encode())
        for line in self._lines(timeout_s):
            reply = json.loads(line)
            if "progress" in reply:
                if on_progress:
                    on_progress(reply["progress"])
            elif "error" in reply:
                raise WorkerError(reply["error"]["kind"], reply["error"]["message"], self.log_tail())
            else:
                return reply["ok"]
        raise self._death()

    def pause(self) -> None:
        """Stop the group: idle engines busy-wait and collect garbage."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the group."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the group if it still exists."""
        self._child.signal(number)

    def close(self) -> None:
        """Kill the process and release its resources."""
        self.signal(signal.SIGKILL)
        self._child.wait()
        self._requests.close()
        self._replies.close()
        self._log.close()
        self._pool.drop(self)
        self.log_path.unlink(missing_ok=True)

    def log_tail(self) -> str:
        """Return the last lines of the worker's output."""
        return "\n".join(self._child.log_lines(LOG_TAIL_LINES))

    def _lines(self, timeout_s: float) -> Iterator[bytes]:
        """Yield lines of the reply pipe until it closes; each must arrive in time. Raises WorkerError, Cancelled."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._lines_left:
                yield self._lines_left.pop(0)
                deadline = time.monotonic() + timeout_s
            ready, _, _ = select.select([self._replies], [], [], min(1.0, max(0.0, deadline - time.monotonic())))
            if ready:
                lines = self._replies.read_lines()
                if lines is None:
                    return
                self._lines_left += lines
            elif time.monotonic() >= deadline:
                raise self._end("hung", f"{self.name} gave no sign of life for too long and was ended")
            elif cpu.available_memory_bytes() < LOW_MEMORY_RATIO * cpu.memory_bytes():
                raise self._end(
                    "out of memory",
                    f"{self.name} took the last memory of this device and was ended. Close other programs, or choose "
                    "a smaller model, batch or length.",
                )

    def _end(self, kind: str, message: str) -> WorkerError:
        self.signal(signal.SIGKILL)
        self._child.wait()
        if self._pool.cancelled:
            raise Cancelled
        return WorkerError(kind, message, self.log_tail())

    def _death(self) -> WorkerError:
        """Return the error that explains why the worker closed its pipe. Raises Cancelled."""
        if self._child.wait(5) is None:  # it closed the pipe but is still running
            self.signal(signal.SIGKILL)
            self._child.wait()
        if self._pool.cancelled:
            raise Cancelled
        oom_kills = cpu.oom_kills()
        memory_ran_out = oom_kills is not None and self._oom_kills is not None and oom_kills > self._oom_kills
        death = self._child.death(self.name, memory_ran_out=memory_ran_out)
        advice = ""
        if death.kind == "out of memory":
            advice = " Close other programs, or choose a smaller model, batch or length."
        return WorkerError(death.kind, death.sentence + advice, self.log_tail())
