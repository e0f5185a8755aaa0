"""What the commands share: where they print, how they follow a job, and how an error becomes a sentence."""

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

from bench.core.errors import EarbenchError
from bench.core.lists import names
from bench.core.records import RESUMABLE_STATES, Evaluation, Run
from bench.core.specs import SpecError
from bench.core.units import duration
from bench.jobs.manager import jobs as jobs  # commands say console.jobs(), so that tests can put another one here
from bench.modes.probe import availability as availability

LINE_EVERY_S = 30.0  # how often progress is told where no terminal shows a bar

# No markup: what is printed holds paths and messages of others, in which a bracket is a bracket.
out, err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Known errors end the program as a sentence, with exit code 2."""
    try:
        yield
    except EarbenchError as e:
        refuse(e)


def refuse(e: Exception) -> NoReturn:
    """End the program: the arguments were wrong."""
    err.print(f"Error: {e}")
    raise typer.Exit(2)


def chosen_modes(text: str) -> list[str]:
    """The modes that were named, each once; ALL are those that can be built here and run fast, the others are told."""
    found: dict[str, None] = {}
    for name in dict.fromkeys(names(text, "Modes")):
        found |= dict.fromkeys(_every_mode() if name == "ALL" else [name])
    return list(found)


def _every_mode() -> list[str]:
    found = availability()
    for name, a in found.items():
        if a.state != "available" or not a.builds:
            err.print(f"Left out: {name} ({a.remark})")
    return [name for name, a in found.items() if a.state == "available" and a.builds]


def check_folders(*files: Path | None) -> None:
    """Raises SpecError where a file could not be written at the end, before time is spent."""
    for path in files:
        if path and not path.resolve().parent.is_dir():
            raise SpecError(f"The folder of {path} does not exist. Make it first, or name another file.")


def write(path: Path | None, text: str) -> None:
    """Write a file if one was asked for and there is something to write, and say so. Raises SpecError."""
    if path and not text:
        err.print(f"Nothing was measured yet, so {path} was not written.")
    elif path:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as e:
            raise SpecError(f"{path} can't be written ({e.strerror}). Name a file in a folder that is writable.") from e
        err.print(f"Wrote {path}")


def follow(run_id: str) -> Run | Evaluation:
    """Show a job's progress until it ends, and return it; Ctrl-C cancels it. A file or a pipe gets a line at times."""
    manager, said_s = jobs(), time.monotonic()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[eta]}"))
    with on_interrupt(manager.cancel), Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, eta="")
        while job := manager.live:
            p = job.progress
            where = p.stage
            if p.clip:
                where = f"clip {p.clip}/{p.clips}"
            elif p.round:
                where = f"group {p.group + 1}/{p.groups}, round {p.round}/{p.rounds}: {p.cell}"
            left = "" if p.eta_s is None else f"about {duration(p.eta_s)} left"
            bar.update(task, description=where, completed=p.done_ratio, eta=left)
            if not err.is_terminal and time.monotonic() - said_s >= LINE_EVERY_S:
                err.print(", ".join(filter(None, [f"{100 * p.done_ratio:.0f} %", where, left])))
                said_s = time.monotonic()
            manager.wait(0.25)
    found = manager.store.run(run_id) or manager.store.evaluation(run_id)
    assert found
    kind = "Run" if isinstance(found, Run) else "Evaluation"
    err.print(f"{kind} {run_id}: {found.state}" + (f". {found.message}" if found.message else ""))
    if found.state in RESUMABLE_STATES:
        command = "run" if isinstance(found, Run) else "evaluate"
        err.print(f"Go on with it by: python -m bench {command} --resume {run_id}")
    return found


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on Ctrl-C and on a polite kill, in place of ending at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    was = [signal.signal(s, lambda _number, _frame: stop()) for s in signals]
    try:
        yield
    finally:
        for s, handler in zip(signals, was, strict=True):
            signal.signal(s, handler)


def table(*rest: str, first: str, fold: bool = False) -> Table:
    """A table that fits 80 columns; its first column is what people copy, so it is never cut.

    Beside figures it must `fold` where it is long, since figures are never cut either.
    """
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    found.add_column(first, no_wrap=not fold, overflow="fold")
    for name in rest:
        found.add_column(name, overflow="fold")
    return found


def add_numbers(found: Table, *headings: str) -> None:
    """Columns of figures."""
    for name in headings:
        found.add_column(name, justify="right", no_wrap=True)
