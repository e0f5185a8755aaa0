"""Keep transcripts in the store, with their audio only on request."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from bench.core import paths
from bench.core.records import Transcript
from bench.core.store import Store
from bench.device import host
from bench.sound import audio


def keep(store: Store, t: Transcript, samples: audio.Array | None = None) -> Transcript:
    """Store a transcript made on this device, and its audio if given: (n,) at 16 kHz. Returns it with its id.

    Raises OSError or StoreError; then nothing is stored.
    """
    t = replace(t, device=host.device())
    if samples is None:
        return replace(t, id=store.add_transcript(t))
    t = replace(t, audio=f"audio/{time.time_ns()}.wav")  # relative to the data folder, which may move
    path = paths.data_folder() / str(t.audio)
    path.parent.mkdir(exist_ok=True)
    try:
        audio.write_wav(path, samples)
        return replace(t, id=store.add_transcript(t))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def forget(store: Store, t: Transcript) -> None:
    """Delete a transcript and its audio. Raises StoreError, and then both still exist, or OSError."""
    if t.id is not None:
        store.delete_transcript(t.id)
    if path := audio_path(t):
        path.unlink(missing_ok=True)


def audio_path(t: Transcript) -> Path | None:
    """Path of a transcript's audio; None if it was not kept or no longer exists."""
    if not t.audio:
        return None
    folder = paths.data_folder() / "audio"
    path = (paths.data_folder() / t.audio).resolve()
    return path if path.parent == folder and path.is_file() else None
