"""The word differences of two texts as HTML: the hypothesis, with differences marked by colour and by shape."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.core.records import Word
from bench.core.scoring import Piece

# The colours are legible on light and dark backgrounds. Each kind also has its own line style, for the colour-blind.
STYLE = """<style>
.eb-text { font-size: 1.05rem; line-height: 1.75; overflow-wrap: anywhere; }
.eb-text .sub { background: rgba(224, 123, 40, .22); border-bottom: 2px solid #e07b28; border-radius: 3px; padding: 0 .15em; }
.eb-text .ins { background: rgba(63, 143, 210, .2); border-bottom: 2px dotted #3f8fd2; border-radius: 3px; padding: 0 .15em; }
.eb-text .del { color: #d1495b; text-decoration: line-through; padding: 0 .15em; }
.eb-text .none { color: #76808c; font-style: italic; }
</style>"""  # noqa: E501
LEGEND = (
    f'{STYLE}<div class="eb-text" style="font-size: .85rem"><span class="sub">another word</span> '
    '<span class="ins">a word too many</span> <span class="del">a word missing</span></div>'
)


def marked(pieces: Sequence[Piece]) -> str:
    """Return the hypothesis as HTML, with its differences from the reference marked."""
    out = []
    for piece in pieces:
        hypothesis, reference = escape(" ".join(piece.hypothesis)), escape(" ".join(piece.reference))
        if piece.kind == "equal":
            out.append(hypothesis)
        elif piece.kind == "substitute":
            out.append(f'<span class="sub" title="instead of: {reference}">{hypothesis}</span>')
        elif piece.kind == "insert":
            out.append(f'<span class="ins" title="not in the reference">{hypothesis}</span>')
        else:
            out.append(f'<span class="del" title="missing">{reference}</span>')
    return _text(" ".join(out))


def by_confidence(words: Sequence[Word]) -> str:
    """Return the words as HTML: the less sure the model, the fainter. The tooltip has confidence and times."""
    return _text(
        " ".join(
            f'<span style="opacity: {0.35 + 0.65 * w.confidence:.2f}" title="confidence {w.confidence:.0%}, '
            f'{w.begin_s:.1f} to {w.end_s:.1f} s">{escape(w.text)}</span>'
            for w in words
        )
    )


def _text(html: str) -> str:
    return f'{STYLE}<div class="eb-text">{html or "<span class=none>no words</span>"}</div>'
