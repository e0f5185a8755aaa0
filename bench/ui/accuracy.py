"""Draw the results of an evaluation: sentences, charts, the table, the worst clips, downloads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import streamlit as st

from bench.core import scoring
from bench.core.errors import EarbenchError
from bench.core.markdown import plain
from bench.core.records import LIVE_STATES
from bench.core.store import Store
from bench.results import evaluation, tables
from bench.results.charts import accuracy
from bench.results.evaluation import ClipScore, Result, Score
from bench.sound import audio
from bench.ui import bundles, diff, results, watching

WORST = 10
PLAYABLE = (".wav", ".flac", ".mp3", ".ogg")  # formats that every browser plays


def figures(store: Store, run_id: str, *, live: bool = False) -> Result | None:
    """Draw an evaluation's results so far; while it is live, only the failures and the table.

    Returns the result. Returns None while `live`, without any scores, and if there is no such evaluation.
    """
    stored = store.evaluation(run_id)
    if stored is None:
        st.error(
            f"There is no evaluation {plain(run_id)} here. It may have been deleted; the list below has those that are."
        )
        return None
    if live:
        _live(store, run_id)
        return None
    normaliser = st.session_state.get(f"normaliser-{run_id}")
    try:
        with st.spinner("Counting errors …"):
            r = evaluation.result(store, run_id, normaliser)
    except EarbenchError as e:  # an imported evaluation may be of a task that this Earbench does not have
        st.error(f"{plain(str(e))} This evaluation can't be shown here.")
        return None
    assert r
    bundles.origin(store, stored)
    results.ending(stored)
    _failures(r)
    if not r.scores:
        if stored.state not in LIVE_STATES:
            if not r.failures:
                st.info("Nothing was transcribed in this evaluation.")
            results.offer(bundles.download(store, stored))
        return None
    if sentence := evaluation.headline(r):
        st.markdown(f"##### {plain(sentence)}")
    for doubt in evaluation.doubts(r):
        st.warning(plain(doubt), icon=":material/help:")
    _charts(r)
    _table(r)
    placement = r.scores[0].record.variant.placement
    st.caption(
        f"{evaluation.transcribed(r)} of {plain(stored.spec.dataset)}, on {plain(stored.device.name)} with "
        f"{plain(placement.label)}. WER: word error rate, all errors over all words of the references. "
        "Differences are paired by clip, and intervals show how much the choice of clips matters. Times are of one "
        "pass a clip: for speed, run a benchmark."
    )
    _normaliser(run_id, stored.spec.normaliser)
    results.offer(
        (
            ("Summary CSV", f"earbench-{run_id}.csv", lambda: tables.to_csv(evaluation.summary_rows(r))),
            ("Clips CSV", f"earbench-{run_id}-clips.csv", lambda: tables.to_csv(evaluation.clip_rows(r))),
            *bundles.download(store, stored),
        )
    )
    st.subheader("The worst clips")
    _worst(r, playable=run_id not in store.imported())
    return r


def _live(store: Store, run_id: str) -> None:
    def compute(store: Store, run_id: str, revision: int) -> Result | None:
        return evaluation.result_at(store, run_id, None, False, revision)

    r, drawn_at = watching.figures(store, run_id, compute)
    assert r
    _live_table(drawn_at, r)


@st.cache_resource(max_entries=4, show_spinner=False)
def _live_table(drawn_at: watching.DrawnAt, _r: Result) -> None:
    """Draw the failures and the table, once for all sessions: Streamlit records the elements and sends them again."""
    _failures(_r)
    if _r.scores:
        _table(_r, live=True)
    else:
        st.caption("The first figures come after the first clip. Preparing a model takes a while the first time.")


def _normaliser(run_id: str, chosen: str) -> None:
    names = list(scoring.NORMALISERS)
    st.selectbox(
        "Text normaliser",
        names,
        index=names.index(chosen) if chosen in names else 0,
        format_func=lambda name: f"{name}: {scoring.NORMALISERS[name].note}",
        key=f"normaliser-{run_id}",
        help="The raw texts are stored, so another one only counts the errors again.",
    )


def _failures(r: Result) -> None:
    unreadable = [f for f in r.failures if f.kind == "unreadable"]
    results.failures(
        [f for f in r.failures if f.kind != "unreadable"],
        lambda position: evaluation.label(r.evaluation, r.evaluation.spec.variants[position]),
        whole="The evaluation",
    )
    if unreadable:
        several = len(unreadable) > 1
        st.warning(
            f"{len(unreadable)} of {len(r.clips)} clips can't be read and {'are' if several else 'is'} left out for "
            "all variants.",
            icon=":material/hearing_disabled:",
        )
        with st.expander("Which ones, and why"):
            rows = [{"Clip": f.stage.removeprefix("clip "), "Why": f.message} for f in unreadable]
            st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", placeholder="–")


def _charts(r: Result) -> None:
    unbeaten = evaluation.unbeaten(r.scores)
    rows: list[tables.Row] = [
        {
            **row,
            "label": evaluation.label(r.evaluation, s.record.variant),
            "unbeaten": s in unbeaten,
            "is_baseline": s.is_baseline,
        }
        for row, s in zip(evaluation.summary_rows(r), r.scores, strict=True)
    ]
    if len(rows) < 2:
        return
    rtf = st.toggle(
        "Real-time factor", key=f"rtf-{r.evaluation.id}", help="Seconds of computing for a second of audio."
    )
    left, right = st.columns([3, 2])
    with left:
        spec = accuracy.tradeoff(rows, "rtf" if rtf else "mean_s")
        st.vega_lite_chart(spec, width="stretch", key=f"tradeoff-{r.evaluation.id}")
        names = " and ".join(f"**{plain(evaluation.label(r.evaluation, s.record.variant))}**" for s in unbeaten)
        st.caption(
            f"No variant is better than {names} in WER, time and size at once."
            if len(unbeaten) < len(rows)
            else "None can be ruled out: each variant is better than any other one in WER, time or size."
        )
    with right:
        has_deltas = any(row["wer_delta"] is not None and not row["is_baseline"] for row in rows)
        if has_deltas:
            spec = accuracy.deltas(rows, next(s for s in r.scores if s.is_baseline).record.variant.spelled)
            st.vega_lite_chart(spec, width="stretch", key=f"deltas-{r.evaluation.id}")
        else:
            st.info("The original failed, so there is nothing to compare the others with.")


def _table(r: Result, *, live: bool = False) -> None:
    rows = []
    for s in r.scores:
        c = s.comparison
        rows.append(
            {
                "Model": s.record.variant.model,
                "Mode": s.record.variant.spelled,
                "Clips": len(s.clips),
                "WER, %": _points(c.wer),
                "WER, 95 % interval": _interval(c.wer_low, c.wer_high),
                "Difference, points": 0.0 if s.is_baseline else _points(c.delta),
                "Difference, 95 % interval": "the original"
                if s.is_baseline
                else _interval(c.delta_low, c.delta_high, "+"),
                "S": s.words.substitutions,
                "D": s.words.deletions,
                "I": s.words.insertions,
                "CER, %": _points(s.characters.rate),
                "No worse, %": _points(c.no_worse_ratio),
                "RTF": s.rtf,
                "Mean, ms a clip": None if s.mean_s is None else s.mean_s * 1e3,
                "Size, MB": None if s.size_bytes is None else s.size_bytes / 1e6,
            }
        )
    frame = pd.DataFrame(rows)
    drop = ["Model"] if frame["Model"].nunique() == 1 else []
    drop += ["WER, 95 % interval", "Difference, 95 % interval"] if live else []
    number = st.column_config.NumberColumn
    st.dataframe(
        frame.drop(columns=drop),
        hide_index=True,
        width="stretch",
        placeholder="–",
        column_config={
            "Mode": st.column_config.TextColumn(width="medium", pinned=True),
            "Clips": number(help="Transcribed by this variant and by the original."),
            "WER, %": number(format="%.1f", help="Word error rate: substituted, deleted and inserted words, of all."),
            "Difference, points": number(format="%+.1f", help="WER minus the original's, in percentage points."),
            "S": number(help="Words substituted: another word was transcribed."),
            "D": number(help="Words deleted: they are missing."),
            "I": number(help="Words inserted: they are not in the reference."),
            "CER, %": number(format="%.1f", help="Character error rate."),
            "No worse, %": number(format="%.0f", help="Clips with no more word errors than the original made."),
            "RTF": number(format="%.3f", help="Real-time factor: seconds of computing for a second of audio."),
            "Mean, ms a clip": number(format="%.0f", help="Forward passes alone, without decoding the file."),
            "Size, MB": number(format="%.1f", help="All files that opening the model needs; MB is 10⁶ bytes."),
        },
    )


@st.fragment
def _worst(r: Result, *, playable: bool) -> None:
    """Draw the clips on which a variant lost most, with its transcript and the original's.

    An imported evaluation's clips are files of another device: what lies at their paths here is not played.
    """
    baselines = {s.record.variant.model: s for s in r.scores if s.is_baseline}
    score = st.selectbox(
        "Of",
        r.scores,
        index=_lost_most(r.scores),
        format_func=lambda s: evaluation.label(r.evaluation, s.record.variant),
        key=f"worst-{r.evaluation.id}-{r.normaliser}",
    )
    baseline = None if score.is_baseline else baselines.get(score.record.variant.model)
    worst = score.worst(WORST)
    if not worst:
        st.success(
            "No clip has an error." if baseline is None else "It has no more errors than the original in any clip."
        )
        return
    st.html(diff.LEGEND)
    for c in worst:
        _clip(r, c, score, baseline, playable=playable)


def _lost_most(scores: Sequence[Score]) -> int:
    """Return the index of the variant whose word error rate is farthest above the original's."""
    return max(range(len(scores)), key=lambda i: (not scores[i].is_baseline, scores[i].comparison.delta or 0.0))


def _clip(r: Result, c: ClipScore, score: Score, baseline: Score | None, *, playable: bool) -> None:
    baseline_clip = next((x for x in baseline.clips if x.clip.position == c.clip.position), None) if baseline else None
    errors = f"{c.words.count} error{'' if c.words.count == 1 else 's'} in {c.words.reference_count} words"
    baseline_errors = f", the original {baseline_clip.words.count}" if baseline_clip else ""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"{_code(c.clip.id)} · {c.clip.length_s or 0:.1f} s · {errors}{baseline_errors}")
            key = f"listen-{r.evaluation.id}-{score.position}-{c.clip.position}"
            listen = st.toggle("Listen", key=key) if playable and Path(c.clip.path).is_file() else None
        rows = [("said", f'<div class="eb-text">{escape(scoring.normalise(c.clip.text, r.normaliser))}</div>')]
        rows += [(other_name(baseline), _marked(r, baseline_clip))] if baseline and baseline_clip else []
        rows += [(score.record.variant.spelled, _marked(r, c))]
        st.html("".join(f'<div style="font-size: .8rem; opacity: .75">{escape(n)}</div>{html}' for n, html in rows))
        if listen:
            _play(Path(c.clip.path))


def other_name(score: Score) -> str:
    """Return the heading of the original's transcript."""
    return f"{score.record.variant.spelled} (the original)"


def _marked(r: Result, c: ClipScore) -> str:
    return diff.marked(scoring.align(c.clip.text, c.prediction.output.text, r.normaliser))


def _play(path: Path) -> None:
    try:
        st.audio(str(path) if path.suffix.lower() in PLAYABLE else audio.wav_bytes(audio.decode(path).samples))
    except (EarbenchError, OSError) as e:
        st.caption(f"It can't be played: {plain(str(e))}")


def _code(text: str) -> str:
    """Format a name as inline code, so that Markdown leaves it unchanged: without what would end the code."""
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _points(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "–" if low is None or high is None else f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
