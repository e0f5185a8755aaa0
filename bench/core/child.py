"""Short-lived child processes that answer one request with one line of JSON."""

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

# Each of these grants access to the dashboard, or to the Hugging Face hub as its owner.
SECRETS = ("EARBENCH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def environment(**more: str) -> dict[str, str]:
    """The environment for a child process: this process's own without the secrets, plus `more`."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS} | more


def ask(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run `python -m MODULE ...` and return the JSON object that it prints last; {"error": cause} if it fails."""
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
    """Kill a child and its process group, unless it was already reaped. Waits at most 1 s."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a driver may block it in the kernel
        process.wait(1)


def death(code: int | None, log: IO[bytes]) -> str:
    """Why a child gave no answer, as a sentence from its exit code and the last 2000 bytes of its log."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
    log_lines = log.read().decode(errors="replace").strip().splitlines()
    last_words = f' It said last: "{log_lines[-1]}"' if log_lines else ""
    if code is None:
        return f"its process can't be ended.{last_words}"
    if code == -signal.SIGXCPU:
        return "it took too much processor time and was given up."
    if code == -signal.SIGKILL:
        return f"its process was killed, probably for want of memory.{last_words}"
    if code < 0:
        return f"its process crashed ({signal.Signals(-code).name}).{last_words}"
    return f"its process ended with exit code {code}.{last_words}"
