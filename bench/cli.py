"""The command line, for devices without a screen and for scripts.

Exit codes: 0 done, 1 the run failed (or was cancelled), 2 the arguments were wrong.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bench import device, models, modes, paths, report
from bench.estimate import estimate
from bench.jobs import Refused, jobs
from bench.models import ModelError
from bench.modes import ModeError
from bench.modes.probe import availability
from bench.parse import lengths, names, whole_numbers
from bench.records import RunSpec, SpecError
from bench.stats import NOISY_IQR_RATIO, Interval
from bench.store import StoreError
from bench.text import duration, size

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
# No markup: what is printed holds paths and messages of others, in which a bracket is a bracket.
out, err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)


def main() -> None:
    """Run a command; a known error becomes a sentence and exit code 2."""
    app(prog_name="python -m bench")


@app.command("models")
def list_models() -> None:
    """List the models."""
    table = _table("weights, millions", "what it is", first="model")
    for c in models.catalogue():
        parameters = sum(models.family(c).parameters(c.config).values())
        table.add_row(c.name, f"{parameters / 1e6:.0f}", c.note)
    table.add_row("PATH", "", "a folder on this device with a Wav2Vec2ForCTC in Hugging Face format")
    out.print(table)


@app.command("modes")
def list_modes() -> None:
    """List the quantization modes and whether they run here."""
    table = _table("here", "what it quantizes", first="mode")
    found = availability()
    for name, mode in modes.modes().items():
        a = found[name]
        table.add_row(name, f"{a.state}{': ' if a.remark else ''}{a.remark}", mode.WEIGHTS)
    out.print(table)


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Model names or folders, separated by commas.")] = "wav2vec2-base-random",
    modes: Annotated[
        str, typer.Option(help="Modes, separated by commas; the first is the baseline. ALL: all that run here.")
    ] = ("torch-fp32,torch-int8-dynamic"),
    lengths_: Annotated[
        str, typer.Option("--lengths", help="Input lengths in seconds: 1,2,5 or a range 1:20:5 (from, to, how many).")
    ] = "1,5",
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    threads: Annotated[str, typer.Option(help="Thread counts, separated by commas. Default: the usable cores.")] = "",
    repeats: Annotated[int, typer.Option(help="Minimum of kept passes a cell.")] = 10,
    target: Annotated[
        float, typer.Option(help="Half width of the speed-up's 95 % interval to reach, 0.02 is 2 %.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the order of visits.")] = 0,
    input_: Annotated[str, typer.Option("--input", help="speech or noise.")] = "speech",
    csv: Annotated[Path | None, typer.Option(help="Write the summary table here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the whole run here.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this cancelled or interrupted run.")] = None,
) -> None:
    """Measure models in several modes over input lengths."""
    with _sentences():
        for path in (csv, json):
            if path and not path.resolve().parent.is_dir():
                raise SpecError(f"The folder of {path} does not exist. Make it first, or name another file.")
        if resume:
            run_id = jobs().resume(resume)
        else:
            spec = RunSpec.grid(
                [models.find(name).name for name in names(model)],
                _all_modes() if modes == "ALL" else names(modes),
                lengths(lengths_),
                batches=whole_numbers(batch, "Batch sizes"),
                threads=whole_numbers(threads, "Threads") if threads else [device.default_threads()],
                repeats=repeats,
                precision_target=target,
                seed=seed,
                input_kind=input_,  # type: ignore[arg-type]  # RunSpec says what is allowed
            )
            expected = estimate(spec, report.rates(jobs().store))
            err.print(
                f"About {duration(expected.duration_s)}, {size(expected.memory_bytes)} of memory, "
                f"{size(expected.disk_bytes)} on disk, {size(expected.download_bytes)} to download."
            )
            run_id = jobs().start(spec)
    _follow(run_id)
    found = report.report(jobs().store, run_id)
    assert found
    with _sentences():
        _write(csv, report.to_csv(report.summary_rows(found)))
        _write(json, report.to_json(found))
    _print_summary(found)
    if found.run.state != "done":
        raise typer.Exit(1)


@app.command()
def runs(ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, newest first.")] = False) -> None:
    """List the runs of this data folder, the newest first."""
    with _sentences():
        found = jobs().store.runs()
    if ids:
        for r in found:
            print(r.id)
        return
    if not found:
        out.print("No runs yet. Begin with: python -m bench run")
        return
    table = _table("models", "modes", "lengths", first="run")
    table.add_column("state", no_wrap=True)
    for r in found:
        vs = r.spec.variants
        table.add_row(
            r.id,
            ", ".join(dict.fromkeys(v.model for v in vs)),
            ", ".join(dict.fromkeys(v.mode for v in vs)),
            ", ".join(f"{s:g}" for s in r.spec.lengths_s) + " s",
            r.state,
        )
    out.print(table)


@app.command()
def export(
    run_id: str,
    csv: Annotated[Path | None, typer.Option(help="The summary, a row a cell.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Every pass, a row each.")] = None,
    json: Annotated[Path | None, typer.Option(help="The whole run.")] = None,
) -> None:
    """Write a run to files; without any, print the summary as CSV."""
    with _sentences():
        found = report.report(jobs().store, run_id)
        if found is None:
            raise SpecError(f"There is no run {run_id}. `python -m bench runs` lists them.")
        if not (csv or raw or json):
            print(report.to_csv(report.summary_rows(found)), end="")
        _write(csv, report.to_csv(report.summary_rows(found)))
        _write(raw, report.to_csv(report.raw_rows(found)))
        _write(json, report.to_json(found))


@app.command()
def doctor() -> None:
    """Tell what this device is, what it can do, and what is missing with the fix for it."""
    d = device.device()
    for name, value in (
        ("device", f"{d.name} ({d.id}){', a virtual machine' if d.virtual else ''}"),
        ("processor", f"{d.cpu}, {d.cores} cores, {device.default_threads()} usable"),
        ("instructions", " ".join(d.isa) or "unknown"),
        ("memory", f"{d.ram_bytes / 1e9:.1f} GB, {device.available_memory_bytes() / 1e9:.1f} GB available"),
        ("governor", d.governor or "not told here"),
        ("system", d.os),
        ("versions", ", ".join(f"{k} {v}" for k, v in d.versions.items())),
        ("data folder", str(paths.data_folder())),
    ):
        out.print(f"{name:13} {value}")
    with _sentences():
        out.print(f"{'database':13} {len(jobs().store.runs())} runs")
        out.print(f"{'in use':13} {jobs().holder() or 'no'}")
    if d.governor == "powersave":
        out.print("The clock governor is “powersave”: latencies will vary. Set “performance” while measuring.")
    list_modes()


@app.command()
def serve(
    lan: Annotated[bool, typer.Option("--lan", help="Listen on this device's addresses, behind a token.")] = False,
    port: Annotated[int, typer.Option(help="Port.")] = 8501,
    tls: Annotated[tuple[Path, Path] | None, typer.Option(help="Certificate and key, PEM files.")] = None,
) -> None:
    """Serve the dashboard, on this machine alone or on the local network."""
    from bench.serve import ServeError
    from bench.serve import serve as start

    try:
        start(lan=lan, port=port, tls=tls)
    except ServeError as e:
        _refuse(e)


def _all_modes() -> list[str]:
    """The modes that run here, and run fast; the others are named."""
    found = availability()
    for name, a in found.items():
        if a.state != "available":
            err.print(f"Left out: {name} ({a.remark})")
    return [name for name, a in found.items() if a.state == "available"]


def _write(path: Path | None, text: str) -> None:
    if path:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as e:
            raise SpecError(f"{path} can't be written ({e.strerror}). Name a file in a folder that is writable.") from e


def _follow(run_id: str) -> None:
    """Show the run's progress until it ends; Ctrl-C cancels it."""
    manager = jobs()

    def stop(_number: int, _frame: object) -> None:
        manager.cancel()

    was = [signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[eta]}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, eta="")
        while job := manager.live:
            p = job.progress
            where = f"group {p.group + 1}/{p.groups}, round {p.round}/{p.rounds}: {p.cell}" if p.round else p.stage
            left = "" if p.eta_s is None else f"about {duration(p.eta_s)} left"
            bar.update(task, description=where, completed=p.done_ratio, eta=left)
            manager.wait(0.25)
    for s, handler in zip((signal.SIGINT, signal.SIGTERM), was, strict=True):
        signal.signal(s, handler)
    run = manager.store.run(run_id)
    assert run
    err.print(f"Run {run_id}: {run.state}" + (f". {run.message}" if run.message else ""))


def _print_summary(r: report.Report) -> None:
    """The table of the run; what is the same in every row stands above it."""
    columns: dict[str, list[str]] = {
        "model": [c.record.variant.model for c in r.cells],
        "threads": [str(c.record.variant.threads) for c in r.cells],
        "batch": [str(c.batch) for c in r.cells],
    }
    same = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
    if same:
        out.print(", ".join(f"{name} {value}" for name, value in same.items()))
    table = _table(*(name for name in columns if name not in same), first="mode")
    for name in ("s", "k", "ms, mean ± std", "speed-up [95 %]", "RTF", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for i, c in enumerate(r.cells):
        s, artefact = c.summary, c.record.artefact
        table.add_row(
            c.record.variant.mode,
            *(values[i] for name, values in columns.items() if name not in same),
            f"{c.length_s:g}",
            str(s.passes),
            f"{s.mean_s * 1e3:.1f} ± {(s.std_s or 0) * 1e3:.1f}{' *' if s.noisy else ''}",
            "1" if c.is_baseline else _interval(c.speedup),
            f"{c.rtf:.3f}",
            f"{artefact.size_bytes / 1e6:.1f}" if artefact else "–",
        )
    if r.cells:
        out.print(table)
    if any(c.summary.noisy for c in r.cells):
        out.print(f"* noisy: the middle half of the passes spreads over more than {NOISY_IQR_RATIO:.0%} of the median")
    for f in r.failures:
        name = report.label(r.run, f.variant) if f.variant is not None else "run"
        err.print(f"{name} failed ({f.stage}, {f.kind}): {f.message}")


def _table(*rest: str, first: str) -> Table:
    """A table that fits 80 columns; its first column is what people copy, so it is never cut."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, overflow="fold")
    return table


def _interval(i: Interval | None) -> str:
    if i is None:
        return "–"
    return f"{i.value:.2f}" + (f" [{i.low:.2f}, {i.high:.2f}]" if i.low is not None else "")


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Known errors end the program as a sentence, with exit code 2."""
    try:
        yield
    except (SpecError, ModelError, ModeError, Refused, StoreError) as e:
        _refuse(e)


def _refuse(e: Exception) -> NoReturn:
    err.print(f"Error: {e}")
    raise typer.Exit(2)
