"""A transcript's texts side by side, with differences marked; for a new transcript and for the history."""

from __future__ import annotations

from html import escape

import streamlit as st

from bench import modes
from bench.core import scoring
from bench.core.markdown import plain
from bench.core.records import Transcript, VariantText
from bench.core.scoring import Errors
from bench.results import transcripts
from bench.results.charts import style
from bench.results.transcripts import Score
from bench.ui import diff

ABREAST = 3  # columns; with more, each is too narrow to read


def side_by_side(t: Transcript, *, shade: bool = False) -> None:
    """Draw one column per variant. `shade`: show words by confidence instead of differences."""
    base = transcripts.against(t.texts, t.reference)
    several = len({x.variant.model for x in t.texts}) > 1
    for first in range(0, len(t.texts), ABREAST):
        row = t.texts[first : first + ABREAST]
        for column, text in zip(st.columns(len(row) if first == 0 else ABREAST), row, strict=False):
            with column, st.container(border=True):
                st.html(heading(text.variant.spelled, text.variant.model if several else ""))
                _text(text, base, shade)
                _figures(text, t)


def compared(t: Transcript) -> str:
    """Return a sentence that says what the texts are compared with."""
    if scoring.normalise(t.reference):
        return "Words that differ from the reference are marked."
    first = next((x for x in t.texts if x.transcription), None)
    if not first or len(t.texts) < 2:
        return "Type in the spoken text to mark and count errors."
    name = label(first.variant.spelled)
    return f"Words that differ from **{plain(name)}** are marked; type in the spoken text to count errors."


def heading(mode: str, model: str = "") -> str:
    """Return a mode's label with its colour, as HTML."""
    model_html = f" <small>· {escape(model)}</small>" if model else ""
    return (
        f'<div style="font-weight: 600"><span style="display: inline-block; width: .8em; height: .8em; '
        f'margin-right: .45em; border-radius: 3px; background: {style.mode_colour(mode)}"></span>'
        f"{escape(label(mode))}{model_html}</div>"
    )


def label(mode: str) -> str:
    """Return a mode's label, or its name if the mode no longer exists."""
    return modes.menu().get(mode, mode)


def _text(text: VariantText, base: str | None, shade: bool) -> None:
    if text.error or not text.transcription or base is None:
        st.error(plain(text.error) or "There is no text.", icon=":material/error:")
    elif shade:
        st.html(diff.by_confidence(text.transcription.words))
    else:
        st.html(diff.marked(scoring.align(base, text.transcription.text)))


def _figures(text: VariantText, t: Transcript) -> None:
    if not text.transcription:
        return
    s = transcripts.score(text, t)
    lines = [_speed(text, s)] if text.seconds else []
    if scoring.normalise(t.reference) and s.words and s.characters:
        lines += [_errors("WER", s.words, "words"), _errors("CER", s.characters, "characters")]
    elif s.words and text is not next(x for x in t.texts if x.transcription):
        of = f"{s.words.count} of {s.words.reference_count} words" if s.words.count else "no word"
        lines.append(f"Differs in {of} from the first")
    if s.confidence is not None:
        lines.append(f"Mean confidence {s.confidence:.0%}")
    st.caption("  \n".join(lines))


def _speed(text: VariantText, s: Score) -> str:
    assert text.seconds
    parts = [f"**{text.seconds * 1e3:,.0f} ms**"]
    if s.speedup_ratio is not None and s.speedup_ratio != 1:
        parts.append(f"{s.speedup_ratio:.2f} times as fast as the first")
    if s.real_time_ratio is not None:
        parts.append(f"real-time factor {s.real_time_ratio:.3f}")
    return " · ".join(parts)


def _errors(name: str, e: Errors, units: str) -> str:
    rate = "not defined" if e.rate is None else f"{e.rate:.1%}"
    return (
        f"{name} **{rate}**: {e.substitutions} substituted, {e.deletions} missing, {e.insertions} too many, "
        f"of {e.reference_count} {units}"
    )
