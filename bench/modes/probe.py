"""The modes' availability. `python -m bench.modes.probe` prints it as JSON; `availability()` runs that in a subprocess.

Probing imports the engines, which takes seconds, and the dashboard's process must not import them. `at_hand()` never
waits: a thread probes once for all sessions.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.core import child, paths
from bench.device import cpu, host
from bench.modes import modes
from bench.modes.mode import Mode

State = Literal["available", "emulated", "unavailable"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a mode runs on this device: `remark` says how, or why not and how to fix it."""

    state: State
    remark: str = ""
    builds: bool = True  # False: only imported artefacts can be opened


RETRY_S = 60.0  # how long `at_hand` returns a failed probe before it tries again

_answer: dict[str, Availability] = {}
_lock = threading.Lock()  # held while probing: callers at the same time probe only once
_background_lock = threading.Lock()
_background: threading.Thread | None = None
_failure: tuple[float, dict[str, Availability]] | None = None  # when the background's last probe failed, and its result


def availability() -> dict[str, Availability]:
    """Return every mode's availability by name, cached for these library versions and this processor. May wait."""
    global _failure
    with _lock:
        if not _answer:
            answer = _ask()
            if isinstance(answer, str):
                unavailable = {name: Availability("unavailable", f"asking failed: {answer}") for name in modes()}
                _failure = (time.monotonic(), unavailable)
                return unavailable
            _answer.update(answer)
        return dict(_answer)


def at_hand(*, may_start: bool = True) -> dict[str, Availability] | None:
    """Return every mode's availability, or None while a thread of this process probes. Never waits for engines.

    `may_start=False` starts no such thread, because a probe would disturb a measurement: then None if it needs one.
    """
    global _background
    if _answer:
        return dict(_answer)
    with _background_lock:
        if _background and _background.is_alive():
            return None
        if _answer:
            return dict(_answer)
        if _failure and time.monotonic() - _failure[0] < RETRY_S:
            return _failure[1]
        if remembered := _remembered(_key()):
            _answer.update(remembered)
            return remembered
        if not may_start:
            return None
        _background = threading.Thread(target=availability, name="probe", daemon=True)
        _background.start()
        return None


def _ask() -> dict[str, Availability] | str:
    """Return the availability from the disk cache or from a subprocess; an error message if that fails."""
    key = _key()
    if remembered := _remembered(key):
        return remembered
    answer = child.ask("bench.modes.probe", timeout_s=300)
    if "error" in answer:
        return str(answer["error"])
    cached: dict[str, Any] = {"key": key, "modes": answer}
    with suppress(OSError):  # a full disk: the answer holds for this process alone
        file = _cache_file()
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(cached))
        partial.replace(file)
    return {name: Availability(**fields) for name, fields in cached["modes"].items()}


def _key() -> str:
    """What the answer depends on: versions of the libraries, the processor, the list of modes, the compiler."""
    packages = {p for mode in modes().values() for p in (*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages)}
    return json.dumps(
        [host.versions(tuple(sorted(packages))), cpu.cpu_name(), sys.prefix, sorted(modes()), shutil.which("g++")]
    )


def _remembered(key: str) -> dict[str, Availability]:
    """Return the availability in the disk cache; empty if there is none of this key."""
    try:
        cached = json.loads(_cache_file().read_text())
        if cached["key"] == key:
            return {name: Availability(**fields) for name, fields in cached["modes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or it has another form
        pass
    return {}


def _cache_file() -> Path:
    return (paths.cache() / "modes.json").resolve()  # a link to it stays one


def probe(mode: Mode) -> Availability:
    """Import a mode's packages and call its check. Runs in a separate process."""
    for package in mode.SPEC.needs.packages:
        if problem := _import_problem(package):
            return Availability("unavailable", problem)
    try:
        remark = mode.check()
    except Exception as e:
        return Availability("unavailable", str(e))
    fast_isa = mode.SPEC.needs.fast_isa
    state: State = "available"
    if fast_isa and not fast_isa & cpu.isa():
        state = "emulated"
        remark = f"emulated: this processor has none of {', '.join(sorted(fast_isa))}, so expect it to be slow"
    problem = next(filter(None, map(_import_problem, mode.SPEC.needs.build_packages)), "")
    if problem:
        remark = "; ".join(filter(None, [remark, f"opens what was built elsewhere; to build here, {problem}"]))
    return Availability(state, remark, not problem)


def _import_problem(package: str) -> str:
    """Return what is wrong with a package, and the fix; "" if it can be imported."""
    try:
        importlib.import_module(package)
    except Exception as e:  # a broken engine may raise anything at import
        return f"{package} can't be imported ({e}); fix: {sys.executable} -m pip install -r requirements.txt"
    return ""


if __name__ == "__main__":
    print(json.dumps({name: asdict(probe(mode)) for name, mode in modes().items()}))
