"""Bundles out and in: what a device measured goes into a file, and another Earbench shows the same of it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.bundle import Bundle, BundleError, to_text
from bench.core.bundle_reader import Damaged, read, refusal
from bench.core.records import RESUMABLE_STATES, Evaluation, Run
from bench.core.store import Store
from bench.device import host
from bench.families import catalogue
from bench.families.tasks.task import TaskError
from bench.results import report


@dataclass(frozen=True, slots=True)
class Imported:
    """A run or an evaluation that was imported, or was here already."""

    record: Run | Evaluation
    added: bool

    @property
    def sentence(self) -> str:
        """What happened, for users."""
        r = self.record
        what = f"{'Run' if isinstance(r, Run) else 'Evaluation'} {r.id} of {r.device.name} ({r.device.id})"
        return f"{what} is here now." if self.added else f"{what} was here already; nothing changed."


def text(store: Store, run_id: str) -> str:
    """A run or an evaluation as the text of a bundle. Raises StoreError, or BundleError if it could not be imported."""
    bundle = store.bundle(run_id)
    bundle_text = to_text(bundle)
    if problem := refusal(bundle_text.encode()) or _output_problem(bundle):
        raise BundleError(
            f"{bundle.what} can't be taken along as a bundle, since no Earbench would import it: {problem}. Take it "
            f"along as CSV (`python -m bench export {run_id} --raw FILE`), or copy the data folder."
        )
    return bundle_text


def take_in(store: Store, data: bytes, name: str) -> Imported:
    """Import a bundle from a file's bytes; `name` is used in messages. Raises BundleError or StoreError."""
    bundle = read(data, name)
    if problem := _output_problem(bundle):
        raise BundleError(f"{name} {Damaged(problem)}")
    return Imported(bundle.record, store.add_bundle(bundle))


def origin(record: Run | Evaluation, imported_s: float | None) -> str:
    """Where an imported run or evaluation was measured, as a sentence; "" for one that was measured here."""
    if imported_s is None:
        return ""
    return f"Measured on {record.device.name} ({record.device.id}), imported here on {report.when(imported_s)}."


def device_name(record: Run | Evaluation, imported_s: float | None) -> str:
    """The device in a list: with its id if the record was imported."""
    device = record.device
    return device.name if imported_s is None else f"{device.name} ({device.id}), imported"


def resumable(record: Run | Evaluation, imported_s: float | None) -> bool:
    """Whether it may be resumed here: it was stopped, and is not from another device."""
    here = imported_s is None or record.device.id == host.device().id
    return here and record.state in RESUMABLE_STATES


def _output_problem(bundle: Bundle) -> str:
    """Which prediction is not of its task's form, as a clause; "" if all are, or if the task is unknown here."""
    if not bundle.evaluation:
        return ""
    try:
        task = catalogue.task(bundle.evaluation.spec.task)
    except TaskError:
        return ""
    for i, prediction in enumerate(bundle.predictions):
        try:
            task.output_from(prediction.output)
        except Exception as e:  # a task from outside may raise anything for what it does not expect
            return f"$.predictions[{i}].output is no {task.NAME} ({e})"
    return ""
