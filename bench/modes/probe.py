"""Which modes run here. `python -m bench.modes.probe` prints it as JSON; `availability()` asks a process of its own.

Asking needs the engines, and the dashboard's process never imports them.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from bench.core import paths
from bench.core.child import environment
from bench.device import cpu, host
from bench.modes import modes
from bench.modes.mode import Mode

State = Literal["available", "emulated", "unavailable"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a mode runs here: `remark` tells how, or why not and what to do."""

    state: State
    remark: str = ""
    builds: bool = True  # else only what was imported can be opened


_known: dict[str, Availability] = {}
_asking = threading.Lock()  # pages that open at once ask once


def availability() -> dict[str, Availability]:
    """Every mode's availability by name, remembered for these library versions on this processor."""
    with _asking:
        if not _known:
            found = _ask()
            if isinstance(found, str):
                return {name: Availability("unavailable", f"asking failed: {found}") for name in modes()}
            _known.update(found)
        return dict(_known)


def _ask() -> dict[str, Availability] | str:
    """What a process of its own says, or what it said before; a sentence if it fails."""
    packages = {p for mode in modes().values() for p in (*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages)}
    key = json.dumps(
        [host.versions(tuple(sorted(packages))), cpu.cpu_name(), sys.prefix, sorted(modes()), shutil.which("g++")]
    )
    remembered = paths.cache() / "modes.json"
    try:
        known = json.loads(remembered.read_text())
    except (OSError, ValueError):
        known = {}
    if known.get("key") != key:
        command = [sys.executable, "-m", "bench.modes.probe"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=paths.ROOT, timeout=300, env=environment()
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            return str(e)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no output"])[-1]
        known = {"key": key, "modes": json.loads(done.stdout.splitlines()[-1])}
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(json.dumps(known))
    return {name: Availability(**found) for name, found in known["modes"].items()}


def probe(mode: Mode) -> Availability:
    """Import what a mode needs and ask it. Runs in a process of its own."""
    for package in mode.SPEC.needs.packages:
        if problem := _importing(package):
            return Availability("unavailable", problem)
    try:
        remark = mode.check()
    except Exception as e:
        return Availability("unavailable", str(e))
    wanted = mode.SPEC.needs.fast_isa
    state: State = "available"
    if wanted and not wanted & cpu.isa():
        state = "emulated"
        remark = f"emulated: this processor has none of {', '.join(sorted(wanted))}, so expect it to be slow"
    problem = next(filter(None, map(_importing, mode.SPEC.needs.build_packages)), "")
    if problem:
        remark = "; ".join(filter(None, [remark, f"opens what was built elsewhere; to build here, {problem}"]))
    return Availability(state, remark, not problem)


def _importing(package: str) -> str:
    """What is wrong with a package, and the fix; "" if it can be imported."""
    try:
        importlib.import_module(package)
    except Exception as e:  # a broken engine may raise anything at import
        return f"{package} can't be imported ({e}); fix: {sys.executable} -m pip install -r requirements.txt"
    return ""


if __name__ == "__main__":
    print(json.dumps({name: asdict(probe(mode)) for name, mode in modes().items()}))
