"""The command line, for devices without a screen and for scripts.

Exit codes: 0 done, 1 the run failed (or was cancelled), 2 the arguments were wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import artefacts, best, console, device, export, importing, run, runs, speech

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def main() -> None:
    """Run the command line. A known error is printed as one sentence, with exit code 2."""
    app(prog_name="python -m bench")


def serve(
    lan: Annotated[bool, typer.Option("--lan", help="Listen on this device's addresses, behind a token.")] = False,
    port: Annotated[int, typer.Option(help="Port.")] = 8501,
    tls: Annotated[tuple[Path, Path] | None, typer.Option(help="Certificate and key, PEM files.")] = None,
) -> None:
    """Serve the dashboard, on this machine alone or on the local network."""
    from bench.serve.launcher import serve as start

    with console.sentences():
        start(lan=lan, port=port, tls=tls)


app.command("models")(device.list_models)
app.command("modes")(device.list_modes)
app.command()(run.run)
app.command()(runs.runs)
app.command()(export.export)
app.command("import")(importing.take_in)
app.command()(device.doctor)
app.command()(serve)
for command in (speech.evaluate, speech.transcribe, speech.fetch, best.best):
    app.command()(command)
app.add_typer(artefacts.app, name="artefacts")
