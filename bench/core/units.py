"""Durations and sizes as text."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, depending on its length."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """A number of bytes in MB or GB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
