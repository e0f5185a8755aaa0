"""What README and docs hold: fenced blocks, the commands in them, headings and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from bench.core.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line: its words, and the variables that are set before it."""

    words: tuple[str, ...]
    variables: dict[str, str]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(language: str) -> list[Block]:
    """All fenced blocks of a language, in the order of the pages."""
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for page in PAGES
        for text in [page.read_text()]
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a block, without comments; `&&` and `;` separate them as line ends do."""
    parsed = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", ";")), len(words))
            command, words = words[:end], words[end + 1 :]
            split = next((i for i, word in enumerate(command) if not _ASSIGNMENT.match(word)), len(command))
            variables = dict(word.split("=", 1) for word in command[:split])
            parsed.append(Command(tuple(command[split:]), variables))
    return parsed


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    text = prose(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
