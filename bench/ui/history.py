"""The history of transcripts: read, listen where audio was kept, download, delete."""

from __future__ import annotations

from functools import lru_cache

import streamlit as st

from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.records import Transcript
from bench.core.store import Store
from bench.jobs import recordings
from bench.results import report, tables, transcripts
from bench.ui import texts

PAGE = 10


def panel(store: Store) -> None:
    """Draw the newest transcripts, and a button for more."""
    st.subheader("History")
    kept = _transcripts(store, store.revision())
    if not kept:
        st.info("Nothing has been transcribed yet. Choose a sound above and press Transcribe: the texts are kept here.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Transcripts CSV",
            data=lambda: tables.to_csv(transcripts.rows(kept)).encode(),
            file_name="earbench-transcripts.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.caption(f"{len(kept)} transcript{'s' if len(kept) > 1 else ''}, the newest first")
    shown = st.session_state.setdefault("t_shown", PAGE)
    for t in kept[:shown]:
        _entry(store, t)
    if len(kept) > shown and st.button(f"Show {min(PAGE, len(kept) - shown)} more", key="t_more"):
        st.session_state["t_shown"] = shown + PAGE
        st.rerun()


def _entry(store: Store, t: Transcript) -> None:
    first_text = next((x.transcription.text for x in t.texts if x.transcription), "") or "no words"
    excerpt = first_text if len(first_text) <= 60 else f"{first_text[:59]}…"
    with st.expander(f"{report.when(t.created_s)} · {plain(t.source)} · {t.length_s:.1f} s · {plain(excerpt)}"):
        if t.reference:
            st.markdown("**Reference:** " + plain(t.reference))
        st.caption(plain(", ".join(dict.fromkeys(x.variant.model for x in t.texts))))
        texts.side_by_side(t)
        if path := recordings.audio_path(t):
            st.audio(path.read_bytes(), format="audio/wav")
        elif t.audio:
            st.caption("Its audio was kept, but the file is gone.")
        if st.button(
            "Delete", icon=":material/delete:", key=f"t_delete {t.id}", help="The texts and, where kept, the audio."
        ):
            try:
                recordings.forget(store, t)
            except (OSError, EarbenchError) as e:
                st.error(str(e))
            else:
                st.rerun()


@lru_cache(maxsize=1)
def _transcripts(store: Store, _revision: int) -> list[Transcript]:
    """Return the stored transcripts, read again only when the store's revision has changed."""
    return store.transcripts()
