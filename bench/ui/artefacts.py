"""The lower half of the Device page: list, export, import and clear the artefacts in the cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import streamlit as st

from bench.artefacts import cache, transfer
from bench.artefacts.cache import ArtefactError, Kept
from bench.core import paths
from bench.core.errors import EarbenchError
from bench.core.units import duration, size
from bench.device import cpu
from bench.jobs.manager import Jobs
from bench.results import report

MAX_UPLOAD_MB = 1_000  # Streamlit holds uploads in memory
_MEMORY_SHARE = 0.5  # of the free memory: Streamlit holds downloads there too


def table(kept: Sequence[Kept]) -> None:
    """Draw the table of the cached artefacts."""
    st.markdown(
        f"**{size(sum(k.size_bytes for k in kept))}** in {_count(kept)}, kept in `{cache.home()}` "
        f"({size(shutil.disk_usage(cache.home()).free)} free)."
    )
    st.dataframe(
        pd.DataFrame(
            {
                "Model": k.model or k.checkpoint,
                "Mode": k.mode or "–",
                "MB": k.size_bytes / 1e6,
                "Built": report.when(k.built_s) if k.model else None,
                "Built in, s": k.build_s if k.model else None,
                "Memory while building, MB": None if k.build_peak_rss_bytes is None else k.build_peak_rss_bytes / 1e6,
                "Use": k.use,
                "Digest": k.digest[:8],
            }
            for k in kept
        ),
        hide_index=True,
        width="stretch",
        placeholder="–",
        column_config={
            "MB": st.column_config.NumberColumn(format="%.1f"),
            "Built in, s": st.column_config.NumberColumn(format="%.1f"),
            "Memory while building, MB": st.column_config.NumberColumn(
                format="%.0f", help="The peak of resident memory of the process that built it."
            ),
            "Use": st.column_config.TextColumn(
                help="Current: opened from now on. Imported: likewise, whatever versions it was built with. None: no "
                "longer opened, since the mode or a library has changed."
            ),
        },
    )


def take_home(jobs: Jobs, kept: Sequence[Kept], busy: str) -> None:
    """Draw the export of one artefact as a zip."""
    readable = {k.digest: k for k in kept if k.model}
    if not readable:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox("Export", list(readable), format_func=lambda d: _label(readable[d]), key="export_chosen")
        k = readable[chosen]
        fits = k.size_bytes <= _MEMORY_SHARE * cpu.available_memory_bytes()
        st.download_button(
            "Download zip",
            data=lambda: packed(jobs, k.digest),
            file_name=transfer.file_name(cache.manifest_of(k.digest)),
            mime="application/zip",
            icon=":material/download:",
            on_click="ignore",
            disabled=bool(busy) or not fits,
            key="export",
            help="With a README on how to open it with Earbench and without.",
        )
    if not fits:
        st.caption(
            "A browser's download is held in memory, and there is too little for this one. By command: "
            f"`python -m bench artefacts export {k.digest[:8]}`"
        )


def packed(jobs: Jobs, digest: str) -> BinaryIO:
    """Return an artefact's zip, open for reading; closing it frees its disk space. Raises ArtefactError, Refused."""
    with jobs.hold("packing an artefact"), tempfile.TemporaryDirectory(dir=paths.cache(), prefix=".") as folder:
        path = Path(folder, "artefact.zip")
        transfer.write(digest, path)
        return path.open("rb")


def clear(jobs: Jobs, kept: Sequence[Kept], busy: str) -> None:
    """Draw the buttons that remove the chosen artefacts, the unused ones, or all. Each asks first."""
    by_digest = {k.digest: k for k in kept}
    chosen = st.multiselect(
        "Clear",
        list(by_digest),
        format_func=lambda d: _label(by_digest[d]),
        key="clear_chosen",
        placeholder="Choose artefacts to clear",
    )
    unused = [k for k in kept if k.use.startswith("none")]
    with st.container(horizontal=True):
        _offer_removal(jobs, "Clear chosen …", "chosen", [by_digest[d] for d in chosen], busy)
        _offer_removal(jobs, "Clear unusable ones …", "useless", unused, busy)
        _offer_removal(jobs, "Clear all …", "all", kept, busy)
    if message := st.session_state.pop("cleared", ""):
        st.success(message)
    if problem := st.session_state.pop("clear_error", ""):
        st.error(problem)


def _offer_removal(jobs: Jobs, label: str, key: str, artefacts: Sequence[Kept], busy: str) -> None:
    with st.popover(label, icon=":material/delete:", disabled=not artefacts or bool(busy)):
        imported_count = sum(k.imported for k in artefacts)
        st.markdown(
            f"This removes {_count(artefacts)} and frees {size(sum(k.size_bytes for k in artefacts))}. "
            "They are built again when they are needed"
            + (
                f", but not the {imported_count} that {'was' if imported_count == 1 else 'were'} imported."
                if imported_count
                else "."
            )
        )
        st.button(
            f"Remove {_count(artefacts)}",
            type="primary",
            key=f"clear_{key}_yes",
            on_click=_remove,
            args=(jobs, [k.digest for k in artefacts]),
        )


def _remove(jobs: Jobs, digests: list[str]) -> None:
    """Remove artefacts before the page is redrawn, so that it shows what is left."""
    try:
        with jobs.hold("clearing artefacts"):
            freed = cache.remove(digests)
    except EarbenchError as e:
        st.session_state["clear_error"] = str(e)
    else:
        st.session_state["clear_chosen"] = []
        st.session_state["cleared"] = f"Removed: {size(freed)} are free again."


def bring(jobs: Jobs, busy: str) -> None:
    """Draw the import of a zip from another device."""
    number = st.session_state.setdefault("import_number", 0)
    st.file_uploader(
        "Import a zip that another device exported",
        type="zip",
        key=f"import_{number}",  # a new key after each import: an upload stays in memory as long as its widget
        max_upload_size=MAX_UPLOAD_MB,
        on_change=_import,
        args=(jobs, f"import_{number}"),
        disabled=bool(busy),
        help="Every file is compared with its size and its digest, and nothing is unpickled. Nobody can check whether "
        "the weights are what they claim to be: import only what you trust.",
    )
    st.caption("Import a larger one by command: `python -m bench artefacts import FILE.zip`")
    if message := st.session_state.pop("imported", ""):
        st.success(message)
    if problem := st.session_state.pop("import_error", ""):
        st.error(problem)


def _import(jobs: Jobs, key: str) -> None:
    if not (upload := st.session_state[key]):
        return
    st.session_state["import_number"] += 1
    try:
        with jobs.hold("importing an artefact"):
            st.session_state["imported"] = taken(upload, upload.name)
    except EarbenchError as e:
        st.session_state["import_error"] = str(e)


def taken(upload: BinaryIO, name: str) -> str:
    """Import a zip into the cache. Return a sentence about the artefact. Raises ArtefactError."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=paths.cache(), prefix=".") as folder:
            archive = Path(folder, Path(name).name or "artefact.zip")
            with archive.open("wb") as sink:
                shutil.copyfileobj(upload, sink)
            digest, model = transfer.read(archive)
    except OSError as e:
        raise ArtefactError(f"{name} can't be stored here ({e}). See that this device has free space.") from e
    artefact = next(k for k in cache.kept() if k.digest == digest)
    status = "is here now" if artefact.imported else "was here already"
    return f"{artefact.mode} of {model} {status}. Choose this model and this mode on the page Benchmark, or any other."


def _label(k: Kept) -> str:
    if not k.model:
        return f"{k.digest[:8]}, which can't be read"
    return f"{k.mode} of {k.model} · {size(k.size_bytes)} · built {report.when(k.built_s)} in {duration(k.build_s)}"


def _count(kept: Sequence[Kept]) -> str:
    return f"{len(kept)} artefact{'s' * (len(kept) != 1)}"
