"""The modes' availability. `python -m bench.modes.probe` prints it as JSON; `availability()` runs that in a subprocess.

Probing imports the engines, and the dashboard's process must not import them.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Literal

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


_known: dict[str, Availability] = {}
_lock = threading.Lock()  # pages that open at the same time probe only once


def availability() -> dict[str, Availability]:
    """Return every mode's availability by name, cached for these library versions and this processor."""
    with _lock:
        if not _known:
            answer = _ask()
            if isinstance(answer, str):
                return {name: Availability("unavailable", f"asking failed: {answer}") for name in modes()}
            _known.update(answer)
        return dict(_known)


def _ask() -> dict[str, Availability] | str:
    """Return the availability from the disk cache or from a subprocess; an error message if that fails."""
    packages = {p for mode in modes().values() for p in (*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages)}
    key = json.dumps(
        [host.versions(tuple(sorted(packages))), cpu.cpu_name(), sys.prefix, sorted(modes()), shutil.which("g++")]
    )
    cache_file = paths.cache() / "modes.json"
    try:
        cached = json.loads(cache_file.read_text())
    except (OSError, ValueError):
        cached = {}
    if cached.get("key") != key:
        answer = child.ask("bench.modes.probe", timeout_s=300)
        if "error" in answer:
            return str(answer["error"])
        cached = {"key": key, "modes": answer}
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        cache_file.write_text(json.dumps(cached))
    return {name: Availability(**fields) for name, fields in cached["modes"].items()}


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
