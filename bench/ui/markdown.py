"""Text from people and programs within Markdown."""

from __future__ import annotations


def plain(text: str) -> str:
    """Escape text, so that Markdown leaves it unchanged. Not for the beginning of a line, where more has a meaning."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|$~:" else c for c in text)
