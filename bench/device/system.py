"""Reads files and runs commands by which the operating system describes the device."""

from __future__ import annotations

from pathlib import Path

from bench.core import child


def read_text(path: str) -> str | None:
    """A file's text without surrounding NULs, spaces and newlines; None if it is empty or can't be read."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """A command's stripped stdout; None if it is empty or the command fails or takes over 5 s."""
    outcome = child.run(command, timeout_s=5)
    return None if outcome.problem else outcome.out.strip() or None
