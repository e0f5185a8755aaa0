"""Reads files and runs commands by which the operating system describes the device."""

from __future__ import annotations

import subprocess
from pathlib import Path


def read_text(path: str) -> str | None:
    """A file's text without surrounding NULs, spaces and newlines; None if it is empty or can't be read."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """A command's stripped stdout; None if it is empty or the command fails or takes over 5 s."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
