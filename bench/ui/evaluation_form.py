"""The form of the Accuracy page, as an EvaluationSpec."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import streamlit as st

from bench.core import child, paths, scoring
from bench.core.errors import EarbenchError
from bench.core.specs import EvaluationSpec, Placement, Variant
from bench.core.units import duration
from bench.datasets import dataset, unzip
from bench.datasets import folder as datasets_folder
from bench.datasets.dataset import Dataset
from bench.device import cpu
from bench.families import catalogue
from bench.jobs import history
from bench.jobs.forecast import evaluation_refusal, evaluation_s
from bench.jobs.manager import Jobs
from bench.ui import live, menus
from bench.ui.button import pressed

BUNDLED, FOLDER, ZIP, HUB = "Bundled clips", "Folder", "Zip file", "Hugging Face"
DEFAULTS = {
    "source": BUNDLED,
    "folder": "",
    "hub_name": "",
    "hub_split": "test",
    "hub_limit": 100,
    "split": "evaluate",
    "limit": 0,
    "clips_seed": 0,
    "normaliser": "basic",
}
HUB_S = 900.0


def form(jobs: Jobs) -> None:
    """Draw the form, the expected duration, and the button that starts the evaluation.

    While this dashboard or another process measures something, the form is hidden: reading clips would take time from
    the measurement.
    """
    if busy := jobs.busy():
        st.caption(busy)
        return
    for key, value in (DEFAULTS | {"accuracy_threads": cpu.default_threads()}).items():
        st.session_state.setdefault(key, value)
    path = _source(jobs)
    one, two, three = st.columns(3)
    split = one.text_input("Split", key="split", help="Where the manifest has a column “split”: the part to take.")
    limit = two.number_input("Clips at most", 0, 10**6, key="limit", help="0: all of them.")
    seed = three.number_input("Seed", 0, 2**32 - 1, key="clips_seed", help="Of the choice of clips, and the intervals.")
    selection = _select(path, split, int(limit), int(seed)) if path else None
    if selection:
        st.markdown(
            f"**{len(selection.clips)} clip{'s' if len(selection.clips) > 1 else ''}** with {selection.words:,} words."
        )
        for remark in selection.remarks:
            st.caption(remark)
    chosen_models = menus.pick_models("accuracy_models", catalogue.default())
    chosen_modes = menus.pick_modes("accuracy_modes")
    one, two = st.columns([2, 1])
    normaliser = one.selectbox(
        "Texts are compared after this normaliser",
        list(scoring.NORMALISERS),
        key="normaliser",
        help="The raw texts are kept: another one can be chosen afterwards.",
    )
    one.caption(scoring.NORMALISERS[normaliser].note)
    threads = two.number_input("Threads", 1, 256, key="accuracy_threads")
    spec = None
    if path and selection:
        try:
            names = [catalogue.find(name).name for name in chosen_models]
            variants = tuple(
                dict.fromkeys(
                    Variant.parse(m, mode, Placement("cpu", int(threads))) for m in names for mode in chosen_modes
                )
            )
            spec = EvaluationSpec(variants, path, split, int(limit), int(seed), normaliser)
            expected = evaluation_s(variants, [c.path for c in selection.clips], history.of(jobs.store))
            refusal = evaluation_refusal(variants)
        except EarbenchError as e:
            st.error(str(e))
        else:
            if expected:
                st.markdown(f"This will take about **{duration(expected)}**.")
            if refusal:
                st.error(refusal)
                spec = None
    start = pressed(
        "Start",
        type="primary",
        icon=":material/play_arrow:",
        key="evaluate",
        about=st.session_state.get("evaluated"),  # a second press must not start another once this one has ended
        disabled=spec is None,
    )
    if start and spec:
        try:
            st.session_state["evaluated"] = st.query_params["evaluation"] = jobs.start(spec, selection)
        except EarbenchError as e:
            live.refused(jobs, e)
        else:
            live.started(jobs.live)
            st.rerun()


def _source(jobs: Jobs) -> str:
    """Draw the choice of clips. Return their path, or "" until there is one. A zip or hub data set becomes a folder."""
    source = st.segmented_control("Clips", [BUNDLED, FOLDER, ZIP, HUB], key="source", required=True)
    if source == FOLDER:
        path: str = st.text_input(
            "Folder or manifest on this device",
            key="folder",
            placeholder="/home/me/clips",
            help="A folder with a manifest (CSV, TSV or JSON lines: path and text) or in LibriSpeech's layout.",
        )
        if not path:
            st.info("Type the path of a folder that holds audio and a manifest.csv with the columns path and text.")
        return path
    if source == ZIP:
        st.file_uploader(
            "Zip with audio and a manifest.csv",
            type="zip",
            key="zip",
            on_change=_unpack,
            args=(jobs,),
            help="The manifest has the columns path and text. It is unpacked into the data folder of this device.",
        )
    elif source == HUB:
        one, two, three = st.columns([2, 1, 1])
        one.text_input("Data set", key="hub_name", placeholder="OWNER/NAME or OWNER/NAME:CONFIGURATION")
        two.text_input("Split on the hub", key="hub_split")
        three.number_input("Clips to fetch", 1, datasets_folder.MAX_FILES, key="hub_limit")
        named = bool(st.session_state["hub_name"])
        st.button("Fetch", icon=":material/download:", on_click=_fetch, args=(jobs,), disabled=not named)
        st.caption("Fetched once by the package datasets, and kept on this device. It needs a network.")
    if problem := st.session_state.pop("source_error", ""):
        st.error(problem)
    return str(dataset.bundled()) if source == BUNDLED else ""


def _select(path: str, split: str, limit: int, seed: int) -> Dataset | None:
    try:
        everything = _find(path, split)
        return dataset.choose(everything, limit, seed) if limit else everything
    except EarbenchError as e:
        st.error(str(e))
        return None


@st.cache_data(ttl=10, max_entries=4, show_spinner="Reading the list of clips …")
def _find(path: str, split: str) -> Dataset:
    """Find a data set, cached: large lists take seconds to read, and every interaction redraws the page."""
    return dataset.find(path, split)


def _unpack(jobs: Jobs) -> None:
    if busy := jobs.busy():  # a job may have started since this page was drawn
        st.session_state["source_error"] = busy
    elif upload := st.session_state["zip"]:
        try:
            _choose_folder(unpacked(upload.getvalue(), upload.name))
        except EarbenchError as e:
            st.session_state["source_error"] = str(e)


def unpacked(data: bytes, name: str) -> Path:
    """Unpack a zip and return the folder of its clips. The same zip is unpacked once. Raises DatasetError."""
    digest = hashlib.sha256(data).hexdigest()[:8]
    target = paths.data_folder() / "datasets" / f"{Path(name).stem}-{digest}"
    if target.is_dir():
        entries = list(target.iterdir())
        return entries[0] if len(entries) == 1 and entries[0].is_dir() else target
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        archive = Path(folder, Path(name).name)
        archive.write_bytes(data)
        return unzip.unpack(archive, target)


def _fetch(jobs: Jobs) -> None:
    state = st.session_state
    if busy := jobs.busy():
        state["source_error"] = busy
        return
    options = [f"--split={state['hub_split']}", f"--clips={state['hub_limit']}"]
    # In a separate process: the library is large, and imports torch. A name may begin with a dash.
    outcome = child.run(child.python("bench", "fetch", *options, "--", state["hub_name"]), HUB_S)
    if outcome.timed_out:
        state["source_error"] = f"The hub took more than {duration(HUB_S)}. Fetch fewer clips, or try again later."
    elif outcome.last_words.startswith("Error: "):
        state["source_error"] = outcome.last_words.removeprefix("Error: ")
    elif outcome.problem:
        state["source_error"] = f"The clips can't be fetched: {outcome.problem}"
    else:
        _choose_folder(Path(outcome.out.strip().splitlines()[-1]))


def _choose_folder(folder: Path) -> None:
    """Select this folder in the form, as if its path had been typed."""
    st.session_state["source"], st.session_state["folder"] = FOLDER, str(folder)
