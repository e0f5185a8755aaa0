"""Two texts' word differences as HTML: what was heard, with what differs marked in colour and in shape."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.core.records import Word
from bench.core.scoring import Piece

# Colours are legible on light and dark ground; each kind also differs in its line, for those who see no colour.
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
    """The hypothesis with its differences from the reference marked."""
    out = []
    for piece in pieces:
        heard, said = escape(" ".join(piece.hypothesis)), escape(" ".join(piece.reference))
        if piece.kind == "equal":
            out.append(heard)
        elif piece.kind == "substitute":
            out.append(f'<span class="sub" title="instead of: {said}">{heard}</span>')
        elif piece.kind == "insert":
            out.append(f'<span class="ins" title="not in the reference">{heard}</span>')
        else:
            out.append(f'<span class="del" title="not heard">{said}</span>')
    return _text(" ".join(out))


def by_confidence(words: Sequence[Word]) -> str:
    """The words, the fainter the less sure the model is of them; the figure is in the tooltip."""
    return _text(
        " ".join(
            f'<span style="opacity: {0.35 + 0.65 * w.confidence:.2f}" title="confidence {w.confidence:.0%}, '
            f'{w.begin_s:.1f} to {w.end_s:.1f} s">{escape(w.text)}</span>'
            for w in words
        )
    )


def _text(html: str) -> str:
    return f'{STYLE}<div class="eb-text">{html or "<span class=none>no words</span>"}</div>'
