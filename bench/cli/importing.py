"""Import bundles: runs and evaluations of other devices, or of another data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import console
from bench.core.errors import EarbenchError
from bench.results import bundles


def take_in(
    files: Annotated[list[Path], typer.Argument(help="Bundles, as `export RUN --bundle FILE` writes them.")],
) -> None:
    """Import bundles. One that is here already changes nothing; exit code 1 if any was refused."""
    with console.sentences():
        store = console.jobs().store
    refused = False
    for path in files:
        try:
            console.out.print(f"{path}: {bundles.take_in(store, console.read(path), path.name).sentence}")
        except EarbenchError as e:
            console.err.print(f"Refused: {e}")
            refused = True
    if refused:
        raise typer.Exit(1)
