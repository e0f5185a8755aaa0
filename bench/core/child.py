"""Short-lived child processes that answer one question with one line of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Any

from bench.core import paths

# Whoever holds one of these may look at the dashboard, or act on the Hugging Face hub as its owner.
SECRETS = ("EARBENCH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child: without secrets, with what is added."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS} | more


def ask(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """The JSON object that `python -m MODULE ...` prints last. If it can't answer: {"error": what became of it}."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
                cwd=paths.ROOT,
                env=environment(OPENBLAS_NUM_THREADS="1"),
            )
        except OSError as e:
            return {"error": f"no process can be started for it: {e.strerror}."}
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"error": f"it took longer than {timeout_s:g} s and was given up."}
        finally:
            end(process)
            if process.stdout:
                process.stdout.close()
        with suppress(IndexError, ValueError):
            answer = json.loads(out.splitlines()[-1])
            if isinstance(answer, dict):
                return answer
        return {"error": death(process.returncode, log)}


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and its group, if it was not collected yet. Waits a second at most."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # the kernel may hold it in a driver
        process.wait(1)


def death(code: int | None, log: IO[bytes]) -> str:
    """What the exit code and the end of the log say of a child that gave no answer."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
    words = log.read().decode(errors="replace").strip().splitlines()
    said = f' It said last: "{words[-1]}"' if words else ""
    if code is None:
        return f"its process can't be ended.{said}"
    if code == -signal.SIGXCPU:
        return "it took too much processor time and was given up."
    if code == -signal.SIGKILL:
        return f"its process was killed, probably for want of memory.{said}"
    if code < 0:
        return f"its process crashed ({signal.Signals(-code).name}).{said}"
    return f"its process ended with exit code {code}.{said}"
