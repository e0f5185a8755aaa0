"""Live captions on a page: start, stop, large text for a stage, save."""

from __future__ import annotations

from html import escape

import streamlit as st

from bench.core.store import StoreError
from bench.jobs import recordings
from bench.jobs.captions import Caption, Captions, Snapshot
from bench.jobs.manager import Jobs
from bench.ui import microphone, texts, transcribe
from bench.ui.button import pressed

POLL_S = 0.7
# The newest lines are at the bottom. `column-reverse` keeps them in view as the text grows.
_STYLE = """<style>
.eb-stage.live { display: flex; flex-direction: column-reverse; height: 46vh; overflow-y: auto; }
@media (max-width: 640px) { .eb-stage.live { height: 26vh; } }
.eb-stage p { font-size: clamp(1.4rem, 2.6vw, 2.4rem); line-height: 1.35; margin: 0; overflow-wrap: anywhere; }
.eb-stage .open { opacity: .5; }
</style>"""


def panel(jobs: Jobs) -> None:
    """Draw the live session of this process, from any browser, or the controls to start one."""
    session = jobs.captions
    if session and session.live:
        _live(jobs, session)
        return
    st.caption(
        "The device's microphone, transcribed while you speak. Pale words may still change; the others are final. "
        "Everybody who opens this page sees the same captions."
    )
    device = microphone.pick("t_live")
    variants = transcribe.variants(jobs)
    if why := jobs.busy("live captions"):
        st.caption(f":material/block: {why}")
    ready = device is not None and bool(variants) and not why
    if pressed("Start captions", type="primary", icon=":material/subtitles:", key="t_go", disabled=not ready):
        jobs.caption(lambda: Captions(jobs.transcriber, variants, device))
        st.rerun()
    if session:
        _ended(jobs, session)


@st.fragment(run_every=POLL_S)
def _live(jobs: Jobs, session: Captions) -> None:
    s = session.snapshot()
    if not s.live:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(
            f":material/hourglass: {s.stage[:1].upper()}{s.stage[1:]} …"
            if s.stage
            else f":red[:material/fiber_manual_record:] **Live** · {_clock(s.elapsed_s)}"
        )
        if pressed("Stop", icon=":material/stop:", key="t_end", about=id(session)):
            session.stop()
    _stage(s)
    if not s.stage:
        microphone.meter(s.level, s.overflows)


def _ended(jobs: Jobs, session: Captions) -> None:
    s = session.snapshot()
    if s.message:
        st.warning(s.message, icon=":material/subtitles_off:")
    if not any(c.committed or c.error for c in s.captions):
        return
    st.subheader("The captions that ended")
    _stage(s)
    with st.container(horizontal=True):
        if st.button("Save", icon=":material/save:", key="t_save", help="Puts the texts into the history below."):
            try:
                recordings.keep(jobs.store, session.transcript())
            except StoreError as e:
                st.error(str(e))
            else:
                jobs.captions = None
                st.rerun()
        if st.button("Discard", icon=":material/delete:", key="t_discard"):
            jobs.captions = None
            st.rerun()


def _stage(s: Snapshot) -> None:
    live_class = " live" if s.live else ""
    for column, caption in zip(st.columns(max(1, len(s.captions))), s.captions, strict=True):
        with column, st.container(border=True):
            st.html(texts.heading(caption.variant.spelled))
            if caption.error:
                st.error(caption.error, icon=":material/error:")
            st.html(_STYLE + f'<div class="eb-stage{live_class}"><p>{_words(caption)}</p></div>')
            st.caption(_state(caption))


def _words(c: Caption) -> str:
    committed, tentative = (escape(" ".join(w.text for w in words)) for words in (c.committed, c.tentative))
    return (
        f'{committed} <span class="open">{tentative}</span>'
        if committed or tentative
        else '<span class="open">…</span>'
    )


def _state(c: Caption) -> str:
    parts = [f"{c.lag_s:.1f} s behind"] if c.lag_s is not None else []
    if c.pass_s is not None:
        parts.append(f"{c.pass_s * 1e3:,.0f} ms a pass")
    if c.skipped_s:
        parts.append(f"{c.skipped_s:.0f} s were skipped, because this device can't keep up")
    return " · ".join(parts) or "waiting for words"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
