"""Reading the files and commands by which the system describes itself."""

from __future__ import annotations

import subprocess
from pathlib import Path


def read_text(path: str) -> str | None:
    """A file's text without surrounding blanks; None if it is empty or can't be read."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
