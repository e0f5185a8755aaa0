"""Write a run or an evaluation to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import console
from bench.core.specs import SpecError
from bench.jobs import state
from bench.results import bundles, evaluation, report, tables


def export(
    run_id: str,
    csv: Annotated[Path | None, typer.Option(help="The summary, a row a cell, or a variant of an evaluation.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Every pass, or every clip, a row each.")] = None,
    json: Annotated[Path | None, typer.Option(help="The whole run, and the summary.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="All of it without loss, for `import` on another device.")] = None,
) -> None:
    """Write a run or an evaluation to files; without any, print the summary as CSV."""
    with console.sentences():
        store = console.store()
        record = store.run(run_id) or store.evaluation(run_id)
        if record and state.current(record, state.lease()) != record:
            console.jobs()  # marks what a crash left as interrupted: only what has ended is exported whole
        if bundle:
            console.write(bundle, bundles.text(store, run_id))
            if not (csv or raw or json):
                return
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
