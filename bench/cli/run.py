"""Measure a run and print its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import modes as all_modes
from bench.cli import console
from bench.core import codec, lists
from bench.core.bundle_reader import spec_in
from bench.core.errors import EarbenchError
from bench.core.lists import names, whole_numbers
from bench.core.specs import RunSpec, SpecError
from bench.core.stats import NOISY_IQR_RATIO, NOT_REACHED
from bench.core.units import size
from bench.device import kinds
from bench.families import catalogue
from bench.jobs import history, work
from bench.jobs.forecast import estimate
from bench.results import bundles, report, tables


def run(
    context: typer.Context,
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
    bundle: Annotated[
        Path | None, typer.Option(help="Write the run here without loss, for `import` on another device.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Measure what this file asks for: a spec as JSON, or a run's bundle.")
    ] = None,
    print_spec: Annotated[
        bool, typer.Option("--print-spec", help="Print the spec as JSON, for --spec, and measure nothing.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this cancelled or interrupted run: finished lengths are kept.")
    ] = None,
) -> None:
    """Measure models in several modes over input sizes."""
    with console.sentences():
        console.check_folders(csv, json, bundle)
        if resume and not spec:
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
            run_spec = (
                _spec_of(context, spec)
                if spec
                else _spec(model, modes, sizes, batch, placement, repeats, target, seed, input_)
            )
            if print_spec:
                print(codec.to_json(run_spec))
                return
            expected = estimate(run_spec, history.of(console.jobs().store))
            console.err.print(
                f"Time: {expected.time_text}; {size(expected.memory_bytes)} of memory, "
                f"{size(expected.disk_bytes)} on disk, {size(expected.download_bytes)} to download."
            )
            run_id = console.jobs().start(run_spec)
    console.follow(run_id)
    run_report = report.report(console.jobs().store, run_id)
    assert run_report
    with console.sentences():
        console.write(csv, tables.to_csv(tables.summary_rows(run_report)))
        console.write(json, tables.to_json(run_report))
        if bundle:
            console.write(bundle, bundles.text(console.jobs().store, run_id))
    _print_summary(run_report)
    if run_report.run.state != "done":
        raise typer.Exit(1)


def _spec(
    model: str,
    modes: str,
    sizes: str | None,
    batch: str,
    placement: str,
    repeats: int,
    target: float,
    seed: int,
    input_kind: str,
) -> RunSpec:
    """The spec that the options name. Raises ModelError, ModeError or SpecError."""
    axis = work.axis(names(model))
    return RunSpec.grid(
        [catalogue.find(name).name for name in names(model)],
        console.chosen_modes(modes),
        axis.defaults if sizes is None else lists.sizes(sizes, axis),
        batches=whole_numbers(batch, "Batch sizes"),
        placements=lists.placements(placement) if placement else [kinds.default()],
        repeats=repeats,
        precision_target=target,
        seed=seed,
        input_kind=input_kind,  # type: ignore[arg-type]  # RunSpec checks the value
        axis=axis,
    )


# Beside --spec, which names everything that is measured, only what becomes of it can be chosen.
_BESIDE_SPEC = ("spec", "csv", "json", "bundle", "print_spec")


def _spec_of(context: typer.Context, path: Path) -> RunSpec:
    """The spec in a file. Raises SpecError, BundleError, or the error of what the spec names."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _BESIDE_SPEC and source and source.name == "COMMANDLINE":
            raise SpecError(f"--spec names the whole run; leave out --{name.strip('_')}, or change it in {path}.")
    value = spec_in(console.read(path), str(path))
    try:
        models = [v["model"] for v in value["variants"]]
    except (KeyError, TypeError) as e:
        raise SpecError(f"{path} holds no spec of a run: it has no variants. Write one by --print-spec.") from e
    if "dataset" in value:
        raise SpecError(f"{path} holds the spec of an evaluation. Allowed: that of a run.")
    axis = work.axis(dict.fromkeys(str(m) for m in models))
    try:
        spec = codec.from_plain({"axis": codec.to_plain(axis)} | value, RunSpec)
    except SpecError as e:
        raise SpecError(f"{path}: {e}") from e
    except EarbenchError as e:
        raise SpecError(f"{path} holds no spec of a run: {e}. Write one by --print-spec.") from e
    if spec.axis != axis:
        raise SpecError(f"{path}: got another axis than that of the models, {axis.title}. Leave the axis out.")
    return spec


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
