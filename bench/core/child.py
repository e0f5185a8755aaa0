"""Child processes: how they are started, read, ended with their group, and how their death is explained.

`ask` and `run` are for children that answer once and end, `Child` and `Pipe` for those that live on. All of them get
this process's environment without its secrets, and the repository as their working directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, NamedTuple

from bench.core import paths

# Each of these grants access to the dashboard, or to the Hugging Face hub as its owner.
SECRETS = ("EARBENCH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")
LOG_TAIL_BYTES = 8192
_CHUNK_BYTES = 65536


class Death(NamedTuple):
    """Why a child ended: a word for the kind of end, and a sentence."""

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a short-lived child ended. `problem` is "" if it exited with code 0, else a sentence that says what happened.

    `out` is its stdout, `last_words` the last line that it wrote to stderr, "" if there is none.
    """

    out: str = ""
    last_words: str = ""
    problem: str = ""
    timed_out: bool = False


class Pipe:
    """A pipe between this process and one child. `child_end` is the descriptor to name in the child's command."""

    def __init__(self, *, to_child: bool = False) -> None:
        """Open the pipe, from the child by default."""
        read_end, write_end = os.pipe()
        self._end, self.child_end = (write_end, read_end) if to_child else (read_end, write_end)
        self._rest = b""

    def fileno(self) -> int:
        """The descriptor of this process's end, for `select`."""
        return self._end

    def read(self) -> bytes:
        """Wait for bytes and return them; b"" once the child has closed its end."""
        return os.read(self._end, _CHUNK_BYTES)

    def read_lines(self) -> list[bytes] | None:
        """Wait for bytes and return the lines that are complete now; None once the child has closed its end."""
        chunk = self.read()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines if chunk else None

    def write_line(self, line: bytes) -> None:
        """Send a line. Raises BrokenPipeError if the child has closed its end."""
        line += b"\n"
        while line:
            line = line[os.write(self._end, line) :]

    def close_child_end(self) -> None:
        """Close the child's end in this process, so that the pipe ends with the child."""
        if self.child_end >= 0:
            os.close(self.child_end)
        self.child_end = -1

    def close(self) -> None:
        """Close both ends in this process."""
        self.close_child_end()
        if self._end >= 0:
            os.close(self._end)
        self._end = -1


class Child:
    """A child process, the first of a group of its own. The whole group can be stopped or killed."""

    def __init__(
        self,
        command: Sequence[str],
        log: IO[bytes],
        *,
        pipes: Sequence[Pipe] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        own_group: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. Raises OSError, after closing the pipes.

        `log` receives stderr, and stdout unless that is `subprocess.PIPE`. `own_group=False` keeps the child in this
        process's group, so that both are killed together. `env` is by default `environment()`.
        """
        self._log = log
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[pipe.child_end for pipe in pipes],
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                process_group=0 if own_group else None,
                cwd=paths.ROOT,
                env=environment() if env is None else env,
            )
        except OSError:
            for pipe in pipes:
                pipe.close()
            raise
        for pipe in pipes:
            pipe.close_child_end()

    @property
    def pid(self) -> int:
        """The id of the process and, if it has one of its own, of its group."""
        return self._process.pid

    @property
    def out(self) -> IO[bytes]:
        """Its stdout, if it was started with `stdout=subprocess.PIPE`."""
        assert self._process.stdout
        return self._process.stdout

    def close_stdin(self) -> None:
        """Close its stdin, if it was started with `stdin=subprocess.PIPE`."""
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()

    def communicate(self, timeout_s: float) -> bytes:
        """Wait for its end and return its stdout. Raises subprocess.TimeoutExpired."""
        return self._process.communicate(timeout=timeout_s)[0]

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end and return the exit code, negative for a signal; None if it still runs then."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its group, unless it was already reaped."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def end(self) -> None:
        """Kill its group, unless it was already reaped. Waits at most 1 s, as a driver may block it in the kernel."""
        if self._process.returncode is None:
            self.signal(signal.SIGKILL)
            self.wait(1)

    def log_lines(self, count: int) -> list[str]:
        """The last lines of its log, up to `count`, from the last LOG_TAIL_BYTES. It may still be running."""
        try:
            start = max(0, os.fstat(self._log.fileno()).st_size - LOG_TAIL_BYTES)
            # Not by `seek`: the child writes at the same file position.
            tail = os.pread(self._log.fileno(), LOG_TAIL_BYTES, start)
        except (OSError, ValueError):  # ValueError: the log was closed
            return []
        return tail.decode(errors="replace").strip().splitlines()[-count:]

    def death(self, subject: str = "its process", *, memory_ran_out: bool = False) -> Death:
        """Why it ended. `memory_ran_out`: whether the system is known to have killed a process for lack of memory."""
        code = self._process.returncode
        if code is None:
            return Death("hung", f"{subject} can't be ended.")
        if code >= 0:
            return Death("died", f"{subject} ended with exit code {code}.")
        if code == -signal.SIGXCPU:
            return Death("too slow", f"{subject} took too much processor time and was ended.")
        if code == -signal.SIGKILL and memory_ran_out:
            return Death("out of memory", f"{subject} was killed by the system because memory ran out.")
        if code == -signal.SIGKILL:
            return Death("killed", f"{subject} was killed (SIGKILL): often because memory ran out.")
        return Death("crashed", f"{subject} crashed ({_signal_name(-code)}).")

    def explain(self) -> str:
        """`death` as a text, with the last line of the log."""
        return self.death().sentence + _quoted("".join(self.log_lines(1)))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        """Kill its group if it still runs, and close its stdin and stdout."""
        self.end()
        self.close_stdin()
        if self._process.stdout:
            self._process.stdout.close()


def environment(**more: str) -> dict[str, str]:
    """The environment for a child process: this process's own without the secrets, plus `more`."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS} | more


def python(module: str, *arguments: object) -> list[str]:
    """The command `python -m MODULE ...` with this process's Python."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(command: Sequence[str], timeout_s: float, **more: str) -> Outcome:
    """Run a command to its end; its group is killed after `timeout_s`. `more` is added to its environment."""
    with ExitStack() as stack:
        try:
            log = stack.enter_context(tempfile.TemporaryFile())
            child = stack.enter_context(Child(command, log, stdout=subprocess.PIPE, env=environment(**more)))
        except OSError as e:
            return Outcome(problem=f"no process can be started for it: {e.strerror}.")
        try:
            out = child.communicate(timeout_s).decode(errors="replace")
        except subprocess.TimeoutExpired:
            return Outcome(problem=f"it took longer than {timeout_s:g} s and was ended.", timed_out=True)
        return Outcome(out, "".join(child.log_lines(1)), child.explain() if child.wait() else "")


def ask(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run `python -m MODULE ...` and return the JSON object that it prints last; {"error": cause} if it fails."""
    outcome = run(python(module, *arguments), timeout_s, OPENBLAS_NUM_THREADS="1")
    with suppress(IndexError, ValueError):
        answer = json.loads(outcome.out.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    return {"error": outcome.problem or f"its process printed no answer.{_quoted(outcome.last_words)}"}


def _quoted(last_words: str) -> str:
    return f' It said last: "{last_words[-500:]}"' if last_words else ""


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"  # real-time signals have no names
