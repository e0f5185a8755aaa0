"""Models in a mode, as files: build them beforehand, carry them to another device, clear them away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status

from bench import modes as all_modes
from bench.artefacts import cache, transfer
from bench.artefacts.cache import ArtefactError
from bench.cli import console
from bench.core.lists import names
from bench.core.records import Artefact
from bench.core.specs import Placement, Variant
from bench.core.units import duration, size
from bench.device import cpu
from bench.families import catalogue
from bench.modes import check as check_mode
from bench.modes import complete, find
from bench.results import report
from bench.workers.client import Cancelled, Pool, WorkerError
from bench.workers.start import Limits
from bench.workers.start import build as build_variant

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def build(
    model: Annotated[str, typer.Option(help="Model names or folders, separated by commas.")] = catalogue.default(),
    modes: Annotated[str, typer.Option(help="Modes, separated by commas. ALL in it: all that run here.")] = ",".join(
        all_modes.first()
    ),
    threads: Annotated[int, typer.Option(help="Threads. Default: the usable cores.", show_default=False)] = 0,
) -> None:
    """Build artefacts, so that nothing needs to be built later; what is in the cache already stays."""
    pool, failed = Pool(), 0
    with console.sentences():
        placement = Placement("cpu", threads or cpu.default_threads())
        chosen = console.chosen_modes(modes)
        variants = [
            Variant.parse(catalogue.find(name).name, mode, placement) for name in names(model) for mode in chosen
        ]
        for variant in variants:
            check_mode(variant)
        with (
            console.jobs().hold("building artefacts"),
            console.on_interrupt(pool.cancel),
            console.err.status("starting") as status,
        ):
            for v in dict.fromkeys(variants):
                try:
                    artefact, _ = build_variant(v, pool, Limits(), lambda text: status.update(text))
                except WorkerError as e:
                    failed += 1
                    console.err.print(f"{v.spelled} of {v.model} failed ({e.kind}): {e}")
                except Cancelled:
                    console.err.print("Cancelled. What was built is kept.")
                    raise typer.Exit(1) from None
                else:
                    origin = "was there" if artefact.from_cache else f"built in {duration(artefact.build_s)}"
                    peak = "" if artefact.from_cache else f", {_bytes(artefact.build_peak_rss_bytes)} of memory"
                    console.out.print(
                        f"{artefact.digest[:8]} {v.spelled} of {v.model}: {origin}{peak}, {_mb(artefact)}"
                    )
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_artefacts() -> None:
    """List what is in the cache, the newest first."""
    kept = cache.kept()
    if not kept:
        console.out.print("No artefacts yet. Build some with: python -m bench artefacts build")
        return
    table = console.table("model", "mode", first="digest")
    console.add_numbers(table, "MB", "built", "in", "memory")
    table.add_column("use")
    for k in kept:
        table.add_row(
            k.digest[:8],
            k.model or k.checkpoint,
            k.mode,
            f"{k.size_bytes / 1e6:.1f}",
            report.when(k.built_s) if k.model else "–",
            duration(k.build_s) if k.model else "–",
            _bytes(k.build_peak_rss_bytes),
            k.use,
        )
    console.out.print(table)
    console.out.print(
        f"{size(sum(k.size_bytes for k in kept))} in {cache.home()}. memory: the peak while it was built."
    )


@app.command()
def export(
    digest: Annotated[str, typer.Argument(help="As `list` shows it, or its beginning.")] = "",
    model: Annotated[str, typer.Option(help="In place of a digest: a model's name or folder …")] = "",
    mode: Annotated[str, typer.Option(help="… and a mode.")] = "",
    out: Annotated[Path | None, typer.Option(help="The zip to write. Default: a name that says what it is.")] = None,
) -> None:
    """Write an artefact as a zip, with a README on how to open it with Earbench and without."""
    with console.sentences():
        chosen_digest = _full_digest(digest) if digest else _digest_of(model, mode)
        path = out or Path(transfer.file_name(cache.manifest_of(chosen_digest)))
        console.check_folders(path)
        transfer.write(chosen_digest, path)
    print(path)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Zips that `artefacts export` wrote, on any device.")],
) -> None:
    """Import artefacts: what they hold is verified, and opened instead of being built."""
    with console.sentences(), console.jobs().hold("importing artefacts"):
        for file in files:
            digest, model = transfer.read(file)
            artefact = next(k for k in cache.kept() if k.digest == digest)
            console.out.print(f"Imported {digest[:8]}. Use it by: --model {model} --modes {artefact.mode}")


@app.command()
def verify(
    digest: Annotated[str, typer.Argument(help="As `list` shows it, or its beginning. Default: all.")] = "",
) -> None:
    """Read artefacts in full and compare them with their digests; damaged ones are removed and named.

    A start only compares sizes and times of files. What is removed is built again when it is needed, unless it was
    imported.
    """
    with console.sentences(), console.jobs().hold("verifying artefacts"), console.err.status("starting") as status:
        chosen = [k for k in cache.kept() if not digest or k.digest == _full_digest(digest)]
        damaged_count = 0
        for number, k in enumerate(chosen, 1):
            label = f"{k.digest[:8]} {k.mode} of {k.model}" if k.model else f"{k.digest[:8]}, whose manifest is damaged"
            prefix = f"{number} of {len(chosen)}: {label}"
            status.update(prefix)
            damaged = cache.damaged_files(k.digest, partial(_show, status, prefix))
            if damaged:
                damaged_count += 1
                cache.remove([k.digest])
                again = "Import it again." if k.imported else "It is built again when it is needed."
                console.out.print(f"Removed {label}: {', '.join(damaged)} is damaged. {again}")
        intact_count = len(chosen) - damaged_count
        console.out.print(f"{intact_count} of {len(chosen)} artefacts are intact." if chosen else "No artefacts yet.")
    if damaged_count:
        raise typer.Exit(1)


@app.command()
def clear(
    model: Annotated[str, typer.Option(help="Only those of this model, as `list` names it.")] = "",
    mode: Annotated[str, typer.Option(help="Only those of this mode, with or without its settings.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove artefacts; they are built again when they are needed, except imported ones."""
    with console.sentences():
        chosen = [
            k
            for k in cache.kept()
            if (not model or Path(model).name in (k.model, Path(k.model).name))
            and (not mode or mode in (k.mode, k.mode.partition(":")[0]))
        ]
        if not chosen:
            in_cache = ", ".join(dict.fromkeys(f"{k.mode} of {k.model}" for k in cache.kept() if k.model)) or "nothing"
            raise ArtefactError(f"There is nothing to remove for that. In the cache: {in_cache}.")
        imported_count = sum(k.imported for k in chosen)
        description = f"{len(chosen)} artefact{'s' * (len(chosen) > 1)}" + (
            f", {imported_count} of them imported" if imported_count else ""
        )
        if not yes and not typer.confirm(f"Remove {description} and free {size(sum(k.size_bytes for k in chosen))}?"):
            raise typer.Exit(1)
        with console.jobs().hold("clearing artefacts"):
            freed = cache.remove([k.digest for k in chosen])
        console.out.print(f"Removed {description}: {size(freed)} are free again.")


def _show(status: Status, prefix: str, step: str) -> None:
    status.update(f"{prefix}, {step}")


def _full_digest(prefix: str) -> str:
    """Return the full digest that begins with this prefix. Raises ArtefactError."""
    digests = [k.digest for k in cache.kept() if k.digest.startswith(prefix)]
    if len(digests) != 1:
        problem = "Several artefacts begin" if digests else "No artefact begins"
        raise ArtefactError(f"{problem} with “{prefix}”. `python -m bench artefacts list` shows them.")
    return digests[0]


def _digest_of(model: str, mode: str) -> str:
    """Return the digest of the artefact that a variant would be opened from. Raises ArtefactError."""
    if not (model and mode):
        raise ArtefactError("Say which artefact: its digest, or --model and --mode.")
    v = Variant.parse(catalogue.find(model).name, mode, Placement())
    if digest := cache.at_hand(v.model, v.mode, complete(find(v.mode), dict(v.settings))):
        return digest
    raise ArtefactError(
        f"There is no artefact of {model} as {mode} yet. Build it with: python -m bench artefacts build "
        f"--model {model} --modes {mode}"
    )


def _mb(artefact: Artefact) -> str:
    return f"{artefact.size_bytes / 1e6:.1f} MB"


def _bytes(count: int | None) -> str:
    return "–" if count is None else size(count)
