"""A run or an evaluation as one JSON file, without loss: everything that the store holds of it.

The schema is described in docs/bundles.md; `bench.core.bundle_reader` reads and checks a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench.core.codec import to_plain
from bench.core.errors import EarbenchError
from bench.core.records import ClipRecord, Evaluation, Failure, Group, Prediction, Run, VariantRecord

VERSION = 1  # of the schema; grows when a key is added, removed or changes its meaning
MAX_BYTES = 64_000_000


class BundleError(EarbenchError):
    """A bundle can't be written, read or imported."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A run or an evaluation and all its parts, in the store's order."""

    earbench_bundle: int  # the schema's version
    run: Run | None
    evaluation: Evaluation | None  # exactly one of both is there
    variants: tuple[VariantRecord, ...]
    groups: tuple[Group, ...] = ()  # superseded ones too
    failures: tuple[Failure, ...] = ()
    superseded_failures: tuple[Failure, ...] = ()  # of before the last resume
    clips: tuple[ClipRecord, ...] = ()
    predictions: tuple[Prediction, ...] = ()  # the output is plain JSON, whatever the task

    @property
    def record(self) -> Run | Evaluation:
        """The run or the evaluation itself."""
        record = self.run or self.evaluation
        assert record
        return record

    @property
    def what(self) -> str:
        """The kind of record and its id, as the start of a sentence."""
        return f"{'Run' if self.run else 'Evaluation'} {self.record.id}"


def to_text(bundle: Bundle) -> str:
    """A bundle as the text of a file. Raises BundleError if it is too large, or holds what is no number in JSON."""
    try:
        text = json.dumps(to_plain(bundle), ensure_ascii=False, allow_nan=False)
    except ValueError as e:
        raise BundleError(
            f"{bundle.what} holds a number that is not finite, which a bundle can't hold. The CSV export can: "
            f"`python -m bench export {bundle.record.id} --raw FILE`."
        ) from e
    if (size := len(text.encode())) > MAX_BYTES:
        raise BundleError(
            f"{bundle.what} takes {size / 1e6:.0f} MB as a bundle; allowed: {MAX_BYTES / 1e6:.0f} MB. Take it along as "
            f"CSV (`python -m bench export {bundle.record.id} --raw FILE`), or copy the data folder."
        )
    return text
