"""Shared by the commands: output, following a job, and the report of an error as a sentence."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bench.core import paths
from bench.core.bundle import MAX_BYTES, BundleError
from bench.core.errors import EarbenchError
from bench.core.lists import names
from bench.core.records import RESUMABLE_STATES, Evaluation, Run
from bench.core.specs import SpecError
from bench.core.store import Store
from bench.core.units import duration
from bench.jobs.manager import jobs as jobs  # commands call console.jobs(), so that tests can replace it
from bench.modes.probe import availability as availability

LINE_EVERY_S = 30.0  # interval of the progress lines where no terminal shows a bar

# No markup: printed paths and messages of other programs may contain brackets.
out, err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)


def store() -> Store:
    """The database, for commands that only look: unlike `jobs()`, it takes no lease and recovers nothing."""
    return Store(paths.database())


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Context manager: a known error is printed as one sentence, with exit code 2."""
    try:
        yield
    except EarbenchError as e:
        refuse(e)


def refuse(e: Exception) -> NoReturn:
    """Print the error and end the program with exit code 2: the arguments were wrong."""
    err.print(f"Error: {e}")
    raise typer.Exit(2)


def chosen_modes(text: str) -> list[str]:
    """Return the named modes, each once.

    ALL stands for those that can be built here and run fast; the others are printed to stderr.
    """
    chosen: dict[str, None] = {}
    for name in dict.fromkeys(names(text, "Modes")):
        chosen |= dict.fromkeys(_every_mode() if name == "ALL" else [name])
    return list(chosen)


def _every_mode() -> list[str]:
    availabilities = availability()
    for name, a in availabilities.items():
        if a.state != "available" or not a.builds:
            err.print(f"Left out: {name} ({a.remark})")
    return [name for name, a in availabilities.items() if a.state == "available" and a.builds]


def check_folders(*files: Path | None) -> None:
    """Raise SpecError if a file could not be written at the end, before time is spent on measuring."""
    for path in files:
        if path and not path.resolve().parent.is_dir():
            raise SpecError(f"The folder of {path} does not exist. Make it first, or name another file.")


def read(path: Path) -> bytes:
    """The bytes of a bundle or a spec, or as many as tell that it is too large. Raises BundleError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as e:
        raise BundleError(f"{path} can't be read ({e.strerror}). Name a file that is there.") from e


def write(path: Path | None, text: str) -> None:
    """Write a file, if one was asked for and there is text for it, and print its path. Raises SpecError."""
    if path and not text:
        err.print(f"Nothing was measured yet, so {path} was not written.")
    elif path:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as e:
            raise SpecError(f"{path} can't be written ({e.strerror}). Name a file in a folder that is writable.") from e
        err.print(f"Wrote {path}")


def follow(run_id: str) -> Run | Evaluation:
    """Show a job's progress until it ends, and return its record. Ctrl-C cancels the job.

    Output to a file or a pipe gets a line every LINE_EVERY_S seconds in place of the bar.
    """
    manager, last_line_s = jobs(), time.monotonic()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[eta]}"))
    with on_interrupt(manager.cancel), Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, eta="")
        while job := manager.live:
            p = job.progress
            position = p.stage
            if p.clip:
                position = f"clip {p.clip}/{p.clips}"
            elif p.round:
                position = f"group {p.group + 1}/{p.groups}, round {p.round}, at most {p.rounds}: {p.cell}"
            remaining = "" if p.eta_s is None else f"about {duration(p.eta_s)} left"
            bar.update(task, description=position, completed=p.done_ratio, eta=remaining)
            if not err.is_terminal and time.monotonic() - last_line_s >= LINE_EVERY_S:
                err.print(", ".join(filter(None, [f"{100 * p.done_ratio:.0f} %", position, remaining])))
                last_line_s = time.monotonic()
            manager.wait(0.25)
    record = manager.store.run(run_id) or manager.store.evaluation(run_id)
    assert record
    kind = "Run" if isinstance(record, Run) else "Evaluation"
    err.print(f"{kind} {run_id}: {record.state}" + (f". {record.message}" if record.message else ""))
    if record.state in RESUMABLE_STATES:
        command = "run" if isinstance(record, Run) else "evaluate"
        err.print(f"Go on with it by: python -m bench {command} --resume {run_id}")
    return record


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Context manager: SIGINT (Ctrl-C) and SIGTERM call `stop` instead of ending the program at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(s, lambda _number, _frame: stop()) for s in signals]
    try:
        yield
    finally:
        for s, handler in zip(signals, previous, strict=True):
            signal.signal(s, handler)


def table(*rest: str, first: str, fold: bool = False) -> Table:
    """Return a table that fits 80 columns. Its first column is what people copy, so it is never cut.

    Beside figures, a long first column must `fold`, since figures are never cut either.
    """
    new_table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    new_table.add_column(first, no_wrap=not fold, overflow="fold")
    for name in rest:
        new_table.add_column(name, overflow="fold")
    return new_table


def add_numbers(target: Table, *headings: str) -> None:
    """Add right-aligned columns of figures."""
    for name in headings:
        target.add_column(name, justify="right", no_wrap=True)
