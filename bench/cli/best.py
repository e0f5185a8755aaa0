"""The command `best`: evaluate the candidates, measure those that may be within the limit, and name the winner."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import console
from bench.cli.speech import Threads, as_points, tell, variants_of
from bench.core.specs import EvaluationSpec, RunSpec, SpecError
from bench.datasets import dataset as datasets_dataset
from bench.families import catalogue
from bench.jobs import history
from bench.jobs.forecast import estimate
from bench.jobs.manager import Jobs
from bench.modes import modes as all_modes
from bench.results import best as results_best
from bench.results import evaluation, report
from bench.results.evaluation import Result


def best(
    model: Annotated[str, typer.Option(help="A model's name or folder. Default: the model that is shipped.")] = "",
    minimise: Annotated[str, typer.Option(help="What is to be least: latency, size or memory.")] = "latency",
    limit: Annotated[float, typer.Option(help="Points of WER that may be lost at most.")] = 100 * results_best.LIMIT,
    modes: Annotated[str, typer.Option(help="Candidates, by commas. ALL in it: all that run here.")] = "ALL",
    dataset: Annotated[str, typer.Option(help="As of evaluate. Default: data/clips.")] = "",
    clips: Annotated[int, typer.Option(help="Clips at most, drawn by the seed; 0: all.")] = 0,
    length: Annotated[float, typer.Option(help="Seconds of the input that latency and memory are measured at.")] = 5.0,
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of clips, inputs and order.")] = 0,
) -> None:
    """Find the best mode for a model on this device: the least of something within a limit on the words it loses."""
    with console.sentences():
        if minimise not in results_best.GOALS:
            raise SpecError(f"Minimise: got {minimise}; allowed: {', '.join(results_best.GOALS)}.")
        if not 0 <= limit <= 100:
            raise SpecError(f"Limit: got {limit:g}; allowed: points of WER from 0 to 100.")
        name = catalogue.find(model or catalogue.default()).name
        if catalogue.find(name).source == "random":
            raise SpecError(
                f"{name} has random weights, so its texts mean nothing and no loss can be judged. "
                "Choose a trained model: demo, one of the hub, or a folder of yours."
            )
        candidates = [m for m in console.chosen_modes(modes) if m != next(iter(all_modes()))]
        variants = variants_of(name, ",".join([next(iter(all_modes())), *candidates]), threads)
        manager = console.jobs()
        dataset_path = dataset or str(datasets_dataset.bundled())
        spec = EvaluationSpec(variants, dataset_path, limit=clips, seed=seed)
        chosen_clips = datasets_dataset.of(spec)
        tell(spec, chosen_clips)
        evaluation_id = manager.start(spec, chosen_clips)
    if console.follow(evaluation_id).state != "done":
        raise typer.Exit(1)
    result = evaluation.result(manager.store, evaluation_id)
    assert result
    run_id = _measure(manager, result, name, limit / 100, length, seed) if minimise != "size" else None
    goal: results_best.Goal = "size" if minimise == "size" else "memory" if minimise == "memory" else "latency"
    choice = results_best.choose(
        result, report.report(manager.store, run_id) if run_id else None, name, goal, limit / 100
    )
    _print(choice)
    for doubt in evaluation.doubts(result):
        console.out.print(doubt)
    for sentence in choice.sentences:
        console.out.print(sentence)
    if choice.winner is None:
        raise typer.Exit(1)


def _measure(manager: Jobs, result: Result, model: str, limit: float, length_s: float, seed: int) -> str:
    """Benchmark the modes that are not surely over the limit. Return the id of this short run."""
    remaining = [c.name for c in results_best.choose(result, None, model, "size", limit).candidates if c.loss != "over"]
    order = [v.spelled for v in result.evaluation.spec.variants if v.spelled in remaining]
    placement = result.evaluation.spec.variants[0].placement
    with console.sentences():
        spec = RunSpec.grid([model], order, [length_s], placements=[placement], seed=seed)
        expected = estimate(spec, history.of(manager.store)).time_text
        console.err.print(
            f"{len(order)} of {len(result.scores)} modes may be within the limit; to measure them: {expected}."
        )
        run_id = manager.start(spec)
    if console.follow(run_id).state != "done":
        raise typer.Exit(1)
    return run_id


def _print(choice: results_best.Choice) -> None:
    table = console.table(first="mode", fold=True)
    console.add_numbers(table, "points lost [95 %]", "limit", "speed-up", "MB", "peak MB")
    for c in choice.candidates:
        speedup = c.cell.speedup if c.cell else None
        artefact = c.cell.record.artefact if c.cell else None
        size = c.amount if choice.goal == "size" else artefact.size_bytes if artefact else None
        peak = c.cell.peak_rss_bytes if c.cell else None
        table.add_row(
            c.name,
            as_points(c.delta, c.delta_low, c.delta_high, "+"),
            c.loss,
            f"{speedup.value:.2f}" if speedup else "1" if c.cell and c.cell.is_baseline else "–",
            f"{size / 1e6:.1f}" if size else "–",
            f"{peak / 1e6:.0f}" if peak else "–",
        )
    console.out.print(table)
