"""List what was measured, here or on another device."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import console
from bench.core.records import Evaluation, Run
from bench.core.specs import RunSpec
from bench.jobs import state
from bench.results import bundles


def runs(ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, newest first.")] = False) -> None:
    """List the runs and evaluations of this data folder, the newest first."""
    with console.sentences():
        store, lease = console.store(), state.lease()
        runs_and_evaluations: list[Run | Evaluation] = [*store.runs(), *store.evaluations()]
        all_runs = [
            state.current(r, lease) for r in sorted(runs_and_evaluations, key=lambda r: r.created_s, reverse=True)
        ]
    if ids:
        for r in all_runs:
            print(r.id)
        return
    if not all_runs:
        console.out.print("No runs yet. Begin with: python -m bench run")
        return
    imported = store.imported()
    table = console.table("models", "modes", "input", *(["device"] if imported else []), first="run")
    table.add_column("state", no_wrap=True)
    for r in all_runs:
        variants, spec = r.spec.variants, r.spec
        table.add_row(
            r.id,
            ", ".join(dict.fromkeys(v.model for v in variants)),
            ", ".join(dict.fromkeys(v.spelled for v in variants)),
            _sizes(spec) if isinstance(spec, RunSpec) else spec.dataset,
            *([bundles.device_name(r, imported.get(r.id))] if imported else []),
            r.state,
        )
    console.out.print(table)


def _sizes(spec: RunSpec) -> str:
    text = ", ".join(f"{size:g}" for size in spec.sizes)
    return f"{text} {spec.axis.unit or spec.axis.name}"
