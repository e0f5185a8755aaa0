"""The command line, for devices without a screen and for scripts.

Exit codes: 0 done, 1 the run failed (or was cancelled), 2 the arguments were wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import modes as all_modes
from bench.cli import artefacts, best, console, speech
from bench.core import lists, paths
from bench.core.lists import names, whole_numbers
from bench.core.records import Evaluation, Run
from bench.core.specs import RunSpec, SpecError
from bench.core.stats import NOISY_IQR_RATIO, NOT_REACHED
from bench.core.units import size
from bench.device import cpu, host, kinds
from bench.families import catalogue
from bench.jobs import history, work
from bench.jobs.forecast import estimate
from bench.results import evaluation, report, tables

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def main() -> None:
    """Run the command line. A known error is printed as one sentence, with exit code 2."""
    app(prog_name="python -m bench")


@app.command("models")
def list_models() -> None:
    """List the models."""
    table = console.table("weights, millions", "what it is", first="model")
    for c in catalogue.catalogue():
        family = catalogue.family(c)
        parameters = family.profile(c.config, family.COVERAGE_SIZE).parameters
        table.add_row(c.name, f"{parameters / 1e6:.0f}", c.note)
    table.add_row("PATH", "", f"a folder on this device that holds {catalogue.accepted()}")
    console.out.print(table)


@app.command("modes")
def list_modes() -> None:
    """List the quantization modes and whether they run here."""
    table = console.table("here", "what it quantizes", first="mode")
    availabilities = console.availability()
    for name, mode in all_modes.modes().items():
        a = availabilities[name]
        settings = "".join(f"\n  :{k}={o.default or '…'} ({o.range}): {o.help}" for k, o in mode.SPEC.settings.items())
        description = f"{mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}{settings}"
        table.add_row(name, f"{a.state}{': ' if a.remark else ''}{a.remark}", description)
    console.out.print(table)
    if any(mode.SPEC.settings for mode in all_modes.modes().values()):
        console.out.print("Settings are written behind the mode: MODE:setting=value:setting=value")


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Model names or folders, separated by commas.")] = catalogue.default(),
    modes: Annotated[
        str,
        typer.Option(help="Modes, separated by commas; the first is the baseline. ALL in it: all that run here."),
    ] = ",".join(all_modes.first()),
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            "--lengths",
            help="Input sizes, of speech in seconds: 1,2,5 or a range 1:20:5 (from, to, how many). Default: what the "
            "model's family usually begins with.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    placement: Annotated[
        str,
        typer.Option(
            "--placement",
            "--threads",
            help="Thread counts, or DEVICE/THREADS such as cpu/2, separated by commas. Default: the usable cores.",
        ),
    ] = "",
    repeats: Annotated[int, typer.Option(help="Minimum of kept passes a cell.")] = 10,
    target: Annotated[
        float, typer.Option(help="Half width of the speed-up's 95 % interval to reach, 0.02 is 2 %.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the order of visits.")] = 0,
    input_: Annotated[str, typer.Option("--input", help="speech or noise.")] = "speech",
    csv: Annotated[Path | None, typer.Option(help="Write the summary table here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the whole run here.")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this cancelled or interrupted run: finished lengths are kept.")
    ] = None,
) -> None:
    """Measure models in several modes over input sizes."""
    with console.sentences():
        console.check_folders(csv, json)
        if resume:
            if console.jobs().store.evaluation(resume):
                raise SpecError(
                    f"{resume} is an evaluation. Go on with it by: python -m bench evaluate --resume {resume}"
                )
            run_id = console.jobs().resume(resume)
            console.err.print(
                "Finished lengths are kept. One that was under way is measured anew, since only whole rounds on one "
                "occasion are paired; its earlier passes no longer count."
            )
        else:
            axis = work.axis(names(model))
            spec = RunSpec.grid(
                [catalogue.find(name).name for name in names(model)],
                console.chosen_modes(modes),
                axis.defaults if sizes is None else lists.sizes(sizes, axis),
                batches=whole_numbers(batch, "Batch sizes"),
                placements=lists.placements(placement) if placement else [kinds.default()],
                repeats=repeats,
                precision_target=target,
                seed=seed,
                input_kind=input_,  # type: ignore[arg-type]  # RunSpec checks the value
                axis=axis,
            )
            expected = estimate(spec, history.of(console.jobs().store))
            console.err.print(
                f"Time: {expected.time_text}; {size(expected.memory_bytes)} of memory, "
                f"{size(expected.disk_bytes)} on disk, {size(expected.download_bytes)} to download."
            )
            run_id = console.jobs().start(spec)
    console.follow(run_id)
    run_report = report.report(console.jobs().store, run_id)
    assert run_report
    with console.sentences():
        console.write(csv, tables.to_csv(tables.summary_rows(run_report)))
        console.write(json, tables.to_json(run_report))
    _print_summary(run_report)
    if run_report.run.state != "done":
        raise typer.Exit(1)


@app.command()
def runs(ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, newest first.")] = False) -> None:
    """List the runs and evaluations of this data folder, the newest first."""
    with console.sentences():
        store = console.jobs().store
        all_runs: list[Run | Evaluation] = sorted(
            [*store.runs(), *store.evaluations()], key=lambda r: r.created_s, reverse=True
        )
    if ids:
        for r in all_runs:
            print(r.id)
        return
    if not all_runs:
        console.out.print("No runs yet. Begin with: python -m bench run")
        return
    table = console.table("models", "modes", "input", first="run")
    table.add_column("state", no_wrap=True)
    for r in all_runs:
        variants, spec = r.spec.variants, r.spec
        table.add_row(
            r.id,
            ", ".join(dict.fromkeys(v.model for v in variants)),
            ", ".join(dict.fromkeys(v.spelled for v in variants)),
            _sizes(spec) if isinstance(spec, RunSpec) else spec.dataset,
            r.state,
        )
    console.out.print(table)


@app.command()
def export(
    run_id: str,
    csv: Annotated[Path | None, typer.Option(help="The summary, a row a cell, or a variant of an evaluation.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Every pass, or every clip, a row each.")] = None,
    json: Annotated[Path | None, typer.Option(help="The whole run.")] = None,
) -> None:
    """Write a run or an evaluation to files; without any, print the summary as CSV."""
    with console.sentences():
        store = console.jobs().store
        if run := report.report(store, run_id):
            summary, rows, json_text = tables.summary_rows(run), tables.raw_rows(run), tables.to_json(run)
        elif result := evaluation.result(store, run_id):
            summary, rows = evaluation.summary_rows(result), evaluation.clip_rows(result)
            json_text = evaluation.to_json(result)
        else:
            raise SpecError(f"There is no run {run_id}. `python -m bench runs` lists them.")
        if not (csv or raw or json):
            print(tables.to_csv(summary), end="")
        console.write(csv, tables.to_csv(summary))
        console.write(raw, tables.to_csv(rows))
        console.write(json, json_text)


@app.command()
def doctor() -> None:
    """Tell what this device is, what it can do, and what is missing with the fix for it."""
    device = host.device()
    for name, value in (
        ("device", f"{device.name} ({device.id}){', a virtual machine' if device.virtual else ''}"),
        ("processor", f"{device.cpu}, {device.cores} cores, {cpu.default_threads()} usable"),
        ("instructions", " ".join(device.isa) or "unknown"),
        ("memory", f"{device.ram_bytes / 1e9:.1f} GB, {cpu.available_memory_bytes() / 1e9:.1f} GB available"),
        ("governor", device.governor or "not told here"),
        ("system", device.os),
        ("versions", ", ".join(f"{k} {v}" for k, v in device.versions.items())),
        ("data folder", str(paths.data_folder())),
    ):
        console.out.print(f"{name:13} {value}")
    with console.sentences():
        store = console.jobs().store
        console.out.print(f"{'database':13} {len(store.runs())} runs, {len(store.evaluations())} evaluations")
        console.out.print(f"{'in use':13} {console.jobs().holder() or 'no'}")
    if device.governor == "powersave":
        console.out.print("The clock governor is “powersave”: latencies will vary. Set “performance” while measuring.")
    states = console.availability()
    console.out.print(f"{'modes':13} {sum(a.state == 'available' for a in states.values())} of {len(states)} available")
    missing = console.table("here", first="mode")
    for name, a in states.items():
        if a.remark:
            missing.add_row(name, f"{a.state}: {a.remark}")
    if missing.row_count:
        console.out.print(missing)
    console.out.print("What each quantizes and what can be set: python -m bench modes")


@app.command()
def serve(
    lan: Annotated[bool, typer.Option("--lan", help="Listen on this device's addresses, behind a token.")] = False,
    port: Annotated[int, typer.Option(help="Port.")] = 8501,
    tls: Annotated[tuple[Path, Path] | None, typer.Option(help="Certificate and key, PEM files.")] = None,
) -> None:
    """Serve the dashboard, on this machine alone or on the local network."""
    from bench.serve.launcher import serve as start

    with console.sentences():
        start(lan=lan, port=port, tls=tls)


for command in (speech.evaluate, speech.transcribe, speech.fetch, best.best):
    app.command()(command)
app.add_typer(artefacts.app, name="artefacts")


def _sizes(spec: RunSpec) -> str:
    text = ", ".join(f"{size:g}" for size in spec.sizes)
    return f"{text} {spec.axis.unit or spec.axis.name}"


def _print_summary(r: report.Report) -> None:
    """Print the run's table. A column with the same value in every row is printed above the table instead."""
    columns: dict[str, list[str]] = {
        "model": [c.record.variant.model for c in r.cells],
        "threads": [str(c.record.variant.placement.threads) for c in r.cells],
        "batch": [str(c.batch) for c in r.cells],
    }
    constant = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
    if constant:
        console.out.print(", ".join(f"{name} {value}" for name, value in constant.items()))
    table = console.table(*(name for name in columns if name not in constant), first="mode", fold=True)
    console.add_numbers(
        table, r.run.spec.axis.unit or r.run.spec.axis.name, "k", "ms, mean ± std", "speed-up [95 %]", "RTF", "MB"
    )
    for i, c in enumerate(r.cells):
        summary, artefact = c.summary, c.record.artefact
        table.add_row(
            c.record.variant.spelled,
            *(values[i] for name, values in columns.items() if name not in constant),
            f"{c.size:g}",
            str(summary.passes),
            f"{summary.mean_s * 1e3:.1f} ± {(summary.std_s or 0) * 1e3:.1f}{' *' if summary.noisy else ''}",
            "1" if c.is_baseline else str(c.speedup or "–"),
            "–" if c.rtf is None else f"{c.rtf:.3f}",
            f"{artefact.size_bytes / 1e6:.1f}" if artefact else "–",
        )
    if r.cells:
        console.out.print(table)
    if any(c.summary.noisy for c in r.cells):
        console.out.print(
            f"* noisy: the middle half of the passes spreads over more than {NOISY_IQR_RATIO:.0%} of the median"
        )
    compared = [c for c in r.cells if not c.is_baseline]
    missed = sum((c.group.ended or "").startswith(NOT_REACHED) for c in compared)
    if missed:
        console.out.print(
            f"Intervals of ±{100 * r.run.spec.precision_target:g} % were not reached in {missed} of {len(compared)} "
            "rows: the device was not quiet enough, or a pass is too short."
        )
    for f in r.failures:
        name = report.label(r.run, f.variant) if f.variant is not None else "run"
        console.err.print(f"{name} failed ({f.stage}, {f.kind}): {f.message}")
