"""Text from people, programs and files within Markdown."""

from __future__ import annotations

_MEANS_SOMETHING = frozenset("\\`*_{}[]<>#|$~:&")


def plain(text: str) -> str:
    """Escape text, so that Markdown leaves it unchanged. Not for the beginning of a line, where more has a meaning.

    Line breaks and other control characters become spaces: what is after them would begin a line.
    """
    return "".join(f"\\{c}" if c in _MEANS_SOMETHING else c if c >= " " else " " for c in text)
