"""Read a bundle that anybody may have written: every value is checked before anything is done with it.

First bounds that hold for any value (size, depth, lengths of texts, ranges by a number's unit), then types by the
records, then what must fit together: indices, shapes, states, ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from bench.core.bundle import MAX_BYTES, VERSION, Bundle, BundleError
from bench.core.codec import from_plain
from bench.core.errors import EarbenchError
from bench.core.records import LIVE_STATES, Artefact, Evaluation, Group, Run
from bench.core.scoring import NORMALISERS

MAX_VALUES = 8_000_000  # a run of MAX_BYTES has 7 million, as they are counted here, and takes 0.6 GB of memory
MAX_DEPTH = 16
MAX_VARIANTS = 1000
MAX_SIZES = 1000
MAX_CLIPS = 50_000  # resampling more for an interval takes too long
MAX_NAME_BYTES = 4096
MAX_PART_BYTES = 255  # of a path: longer ones can't be looked up in a file system
MAX_TEXT = 200_000  # characters
PASS_S = (1e-9, 1e6)  # beyond these, ratios of passes overflow
MAX_NUMBER = 2.0**53  # the largest up to which JSON readers agree on whole numbers
RANGES = {  # by the end of a number's name, which is its unit
    "seconds": (0.0, 1e9),
    "_s": (0.0, 4e9),  # moments too: up to the year 2096
    "_bytes": (0.0, 2.0**53),
    "_hz": (0.0, 1e12),
    "_c": (-300.0, 10_000.0),
    "_ratio": (0.0, 1e6),
}
LONG_TEXTS = frozenset({"text", "message", "log", "remark", "details", "output"})
CLIPS = frozenset({"id", "path", "stage"})  # hold names of files, in which any character may be; other ids are words
ANY_TEXT = LONG_TEXTS | CLIPS

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_WORD = re.compile(r"[\w.:+-]{1,128}", re.ASCII)  # ids, digests, names of columns
_AXIS = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Damaged(BundleError):
    """A file that no Earbench wrote, or that was changed since. `problem` says what and where, as a clause."""

    def __init__(self, problem: str) -> None:
        """The message also says how to go on."""
        super().__init__(
            f"is damaged or not by Earbench: {problem}. Nothing was imported. Export it again on the device that "
            "measured it."
        )
        self.problem = problem


def read(data: bytes, name: str) -> Bundle:
    """The bundle in a file's bytes; `name` is used in messages. Raises BundleError, a sentence that names the place."""
    try:
        return _read(data)
    except BundleError as e:
        raise BundleError(f"{_cut(name)} {e}") from e


def refusal(data: bytes) -> str:
    """Why `read` would refuse a file, as a clause; "" if it would not."""
    try:
        _read(data)
    except Damaged as e:
        return e.problem
    except BundleError as e:
        return f"it {e}".rstrip(".")
    return ""


def spec_in(data: bytes, name: str) -> Any:
    """The parsed spec in a file's bytes: a spec alone, or the one of a bundle. Raises BundleError."""
    try:
        document = _parsed(data)
        if "earbench_bundle" in document:
            return document["run"]["spec"] if document.get("run") else document["evaluation"]["spec"]
        return document
    except BundleError as e:
        raise BundleError(f"{name} {e}") from e
    except (KeyError, TypeError) as e:
        raise BundleError(f"{name} holds no spec. Allowed: a spec as `--print-spec` writes it, or a bundle.") from e


def _read(data: bytes) -> Bundle:
    document = _parsed(data)
    version = document.get("earbench_bundle")
    if type(version) is not int or version < 1:
        raise BundleError(
            "is no bundle: it has no whole number “earbench_bundle”. Allowed: what the button Bundle or "
            "`python -m bench export RUN --bundle FILE` writes."
        )
    if version > VERSION:
        raise BundleError(
            f"is of a newer Earbench (bundle version {version}; this one reads up to {VERSION}). Update Earbench here."
        )
    try:
        bundle = from_plain(document, Bundle)
    except EarbenchError as e:
        raise Damaged(_cut(e)) from e
    for problem in _problems(bundle):
        raise Damaged(_cut(problem))
    return bundle


def _parsed(data: bytes) -> dict[str, Any]:
    """The JSON object in these bytes, with all its values within bounds. Raises BundleError."""
    if len(data) > MAX_BYTES:
        raise BundleError(f"is larger ({len(data) / 1e6:.0f} MB) than a bundle may be ({MAX_BYTES / 1e6:.0f} MB).")
    # Before it is decoded: values of a few characters each would take up to 2 GB. An object takes the most.
    values = data.count(b",") + data.count(b"[") + 3 * data.count(b"{")
    if values > MAX_VALUES:
        raise BundleError(
            f"holds more values than a bundle may ({values:,}, objects as several; allowed: {MAX_VALUES:,})."
        )
    try:
        document = msgspec.json.decode(data)
    except RecursionError as e:
        raise BundleError(f"is nested deeper than {MAX_DEPTH} levels, as no bundle is.") from e
    except (msgspec.DecodeError, ValueError) as e:
        raise BundleError(f"is not JSON, or only a part of it ({_cut(e)}). Copy or export it again.") from e
    if not isinstance(document, dict):
        raise BundleError("holds JSON, but no bundle: it is no object. Allowed: what the button Bundle writes.")
    if bounds := _beyond(document, "", MAX_DEPTH):
        raise Damaged(f"${_cut(bounds)}")
    return document


def _cut(text: object) -> str:
    """A text short enough for a sentence."""
    line = _CONTROL.sub(" ", str(text)).rstrip(".")
    return line if len(line) <= 300 else f"{line[:300]}…"


def _beyond(value: Any, key: str, depth: int) -> str:
    """The path of the first value that is out of bounds, and why; "" if there is none."""
    if isinstance(value, (dict, list)) and depth == 0:
        return f" is nested deeper than {MAX_DEPTH} levels, as no bundle is"
    if isinstance(value, dict):
        for name, item in value.items():
            if problem := _key_problem(name):
                return f" has a key that {problem}"
            # Within details, texts and outputs, names mean nothing here.
            if problem := _beyond(item, key if key in ANY_TEXT else name, depth - 1):
                return f".{name}{problem}"
        return ""
    if isinstance(value, list):
        for i, item in enumerate(value):
            if problem := _beyond(item, key, depth - 1):
                return f"[{i}]{problem}"
        return ""
    if isinstance(value, str):
        problem = _text_problem(value, short=key not in ANY_TEXT)
        return problem and f" {problem}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = _range(key)
        if not low <= value <= high:
            return f" is {_cut(value)[:40]}; allowed: {low:g} to {high:g}"
    return ""


@lru_cache(maxsize=1024)  # keys come again and again
def _range(key: str) -> tuple[float, float]:
    """The allowed range of a number of this name."""
    return next((limits for end, limits in RANGES.items() if key.endswith(end)), (-MAX_NUMBER, MAX_NUMBER))


@lru_cache(maxsize=1024)
def _key_problem(key: str) -> str:
    return _text_problem(key, short=True)


def _text_problem(text: str, *, short: bool) -> str:
    """Why a text is not allowed, as the end of a sentence; "" if it is."""
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters; allowed: {MAX_TEXT}"
    if not short:
        return ""
    if _CONTROL.search(text):
        return "holds control characters or line breaks"
    if len(text.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in text.split("/")):
        return f"is longer than a name may be ({MAX_PART_BYTES} bytes between slashes, {MAX_NAME_BYTES} in all)"
    return ""


# --- what must fit together


def _problems(b: Bundle) -> Iterator[str]:
    """What does not fit together in a bundle, as clauses."""
    if (b.run is None) == (b.evaluation is None):
        yield "it holds a run and an evaluation, or neither; allowed: one of both"
        return
    r, variants = b.record, b.record.spec.variants
    if not _RUN_ID.fullmatch(r.id):
        yield f"the id is “{r.id}”; allowed: one like 20260131-235959-0a1b"
    if r.state in LIVE_STATES:
        yield f"the state is “{r.state}”; allowed: done, failed, cancelled, interrupted"
    for label, words in (("device's id", [r.device.id]), ("versions", r.device.versions)):
        for word in words:
            if not _WORD.fullmatch(word):
                yield f"the {label} hold “{word}”; allowed: letters, digits and . : + - _"
    if len(variants) > MAX_VARIANTS:
        yield f"there are {len(variants)} variants; allowed: {MAX_VARIANTS}"
    for v in variants:
        if not _WORD.fullmatch(v.placement.device):  # a slash would end its name
            yield f"a variant runs on “{v.placement.device}”; allowed: letters, digits and . : + - _"
    if tuple(v.variant for v in b.variants) != variants:
        yield "$.variants are not those of the spec"
    for i, stored in enumerate(b.variants):
        if stored.artefact:
            yield from _artefact_problems(stored.artefact, f"$.variants[{i}].artefact")
        for p in stored.coverage.parts if stored.coverage else ():
            if p.macs < 0 or p.parameters < 0:
                yield f"$.variants[{i}].coverage has a negative count"
    for f in (*b.failures, *b.superseded_failures):
        if f.variant is not None and not 0 <= f.variant < len(variants):
            yield f"a failure is of variant {f.variant}; allowed: 0 to {len(variants) - 1}"
    if b.run:
        yield from _run_problems(b, b.run)
    elif b.evaluation:
        yield from _evaluation_problems(b, b.evaluation)


def _artefact_problems(artefact: Artefact, place: str) -> Iterator[str]:
    if artefact.size_bytes < 1:
        yield f"{place}.size_bytes is {artefact.size_bytes}; allowed: 1 and more"
    if not _WORD.fullmatch(artefact.digest):
        yield f"{place}.digest is “{artefact.digest}”; allowed: letters and digits"


def _run_problems(b: Bundle, run: Run) -> Iterator[str]:
    if b.clips or b.predictions:
        yield "a run has neither clips nor predictions"
    axis = run.spec.axis
    if not _AXIS.fullmatch(axis.name) or (axis.unit and not _AXIS.fullmatch(axis.unit)):
        yield f"the axis is “{axis.column}”; allowed: small letters, digits and _"
    if not 0 < axis.low <= axis.high:
        yield f"the axis goes from {axis.low:g} to {axis.high:g}; allowed: rising, above 0"
    if len(run.spec.sizes) > MAX_SIZES:
        yield f"there are {len(run.spec.sizes)} sizes; allowed: {MAX_SIZES}"
    comparisons, shapes, earlier_id = run.spec.comparisons, frozenset(run.spec.shapes), 0
    for i, g in enumerate(b.groups):
        place = f"$.groups[{i}]"
        if g.id <= earlier_id:
            yield f"{place}.id is {g.id}; allowed: above {earlier_id}, the one before"
        earlier_id = g.id
        yield from _group_problems(g, comparisons.get((g.model, g.placement), []), shapes, place)


def _group_problems(
    g: Group, compared: Sequence[int], shapes: Collection[tuple[int, float]], place: str
) -> Iterator[str]:
    if not g.variants or len(set(g.variants)) < len(g.variants) or not set(g.variants) <= set(compared):
        yield f"{place}.variants is {list(g.variants)}; allowed: some of {list(compared)}, each once"
    if (g.batch, g.size) not in shapes:
        yield f"{place} is of batch {g.batch} and size {g.size:g}, which the spec does not have"
    turns = [(v.variant, v.round) for v in g.visits]
    if len(set(turns)) < len(turns):
        yield f"{place} has two visits of one variant in one round"
    for i, v in enumerate(g.visits):
        if v.variant not in g.variants or v.round < 0 or v.position < 0:
            yield f"{place}.visits[{i}] is of variant {v.variant}, round {v.round}, place {v.position} of the round"
        if not v.kept_s:
            yield f"{place}.visits[{i}] has no kept pass"
        for p in v.passes:
            if not PASS_S[0] <= p.seconds <= PASS_S[1]:
                yield f"{place}.visits[{i}] has a pass of {p.seconds} s; allowed: {PASS_S[0]:g} to {PASS_S[1]:g}"
            for phase, seconds in p.phases:
                if not _WORD.fullmatch(phase) or not 0 <= seconds <= PASS_S[1]:
                    yield f"{place}.visits[{i}] has a phase “{phase}” of {seconds} s"


def _evaluation_problems(b: Bundle, evaluation: Evaluation) -> Iterator[str]:
    if b.groups:
        yield "an evaluation has no groups"
    if evaluation.spec.normaliser not in NORMALISERS:
        yield f"the normaliser is “{evaluation.spec.normaliser}”; allowed: {', '.join(NORMALISERS)}"
    if len(b.clips) > MAX_CLIPS:
        yield f"there are {len(b.clips)} clips; allowed: {MAX_CLIPS}"
    if [c.position for c in b.clips] != list(range(len(b.clips))):
        yield "$.clips are not numbered 0, 1, 2 …"
    earlier = (-1, -1)
    for i, p in enumerate(b.predictions):
        place = f"$.predictions[{i}]"
        if not (0 <= p.clip < len(b.clips) and 0 <= p.variant < len(evaluation.spec.variants)):
            yield f"{place} is of clip {p.clip} and variant {p.variant}, which are not there"
        if (p.clip, p.variant) <= earlier:
            yield f"{place} is not in the order of clips and variants, each once"
        earlier = (p.clip, p.variant)
        if not PASS_S[0] <= p.seconds <= PASS_S[1]:
            yield f"{place}.seconds is {p.seconds}; allowed: {PASS_S[0]:g} to {PASS_S[1]:g}"
