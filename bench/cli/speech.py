"""The speech commands: evaluate variants on a data set, transcribe one recording, fetch a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import modes as all_modes
from bench.cli import console
from bench.core import scoring
from bench.core.lists import names
from bench.core.records import VariantText
from bench.core.specs import EvaluationSpec, Placement, SpecError, Variant
from bench.core.units import duration
from bench.datasets import dataset as datasets_dataset
from bench.datasets import hub
from bench.datasets.dataset import Dataset
from bench.device import cpu
from bench.families import catalogue
from bench.families.tasks.transcription import TRANSCRIPTION
from bench.jobs import forecast, history
from bench.modes import check as check_mode
from bench.results import bundles, evaluation, tables
from bench.results.evaluation import Result
from bench.sound import audio
from bench.workers.client import Cancelled

MODES = ",".join(all_modes.first())

Model = Annotated[
    str, typer.Option(help="Model names or folders, separated by commas. Default: the model that is shipped.")
]
ModesOption = Annotated[
    str, typer.Option(help="Modes, separated by commas; the first is the baseline. ALL in it: all that run here.")
]
Threads = Annotated[int, typer.Option(help="Threads. Default: the usable cores.", show_default=False)]


def evaluate(
    dataset: Annotated[
        str, typer.Option(help="A folder (manifest.csv or LibriSpeech's layout) or a manifest. Default: data/clips.")
    ] = "",
    model: Model = "",
    modes: ModesOption = MODES,
    split: Annotated[str, typer.Option(help="Where the manifest has a column of that name.")] = "evaluate",
    limit: Annotated[int, typer.Option("--clips", help="Clips at most, drawn by the seed; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the choice of clips, and of the intervals.")] = 0,
    normaliser: Annotated[str, typer.Option(help=f"Of texts: {', '.join(scoring.NORMALISERS)}.")] = "basic",
    threads: Threads = 0,
    csv: Annotated[Path | None, typer.Option(help="Write the summary here, a row a variant.")] = None,
    clips_csv: Annotated[Path | None, typer.Option(help="Write every clip's texts and errors here.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Write the evaluation here without loss, for `import` on another device.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this cancelled or interrupted evaluation.")] = None,
) -> None:
    """Transcribe a data set by every variant: word errors with intervals, against time and size."""
    with console.sentences():
        console.check_folders(csv, clips_csv, bundle)
        if resume:
            if console.jobs().store.run(resume):
                raise SpecError(f"{resume} is a benchmark run. Go on with it by: python -m bench run --resume {resume}")
            run_id = console.jobs().resume(resume)
        else:
            dataset_path = dataset or str(datasets_dataset.bundled())
            if normaliser not in scoring.NORMALISERS:
                raise SpecError(f"Normaliser: got {normaliser}; allowed: {', '.join(scoring.NORMALISERS)}.")
            spec = EvaluationSpec(variants_of(model, modes, threads), dataset_path, split, limit, seed, normaliser)
            clips = datasets_dataset.of(spec)
            tell(spec, clips)
            run_id = console.jobs().start(spec, clips)
    record = console.follow(run_id)
    result = evaluation.result(console.jobs().store, run_id)
    assert result
    with console.sentences():
        console.write(csv, tables.to_csv(evaluation.summary_rows(result)))
        console.write(clips_csv, tables.to_csv(evaluation.clip_rows(result)))
        if bundle:
            console.write(bundle, bundles.text(console.jobs().store, run_id))
    _print_result(result)
    if record.state != "done":
        raise typer.Exit(1)


def transcribe(
    file: Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, OGG, MP3, M4A …")],
    model: Model = "",
    modes: ModesOption = MODES,
    reference: Annotated[str, typer.Option(help="What is said in it, to count the errors.")] = "",
    threads: Threads = 0,
) -> None:
    """Transcribe a recording by every variant, one after another."""
    with console.sentences():
        variants = variants_of(model, modes, threads)
        sound = audio.decode(file)
        for remark in sound.remarks:
            console.err.print(remark)
        transcriber = console.jobs().transcriber
        try:
            with console.on_interrupt(transcriber.cancel), console.err.status("starting") as status:
                texts = transcriber.transcribe(sound.samples, variants, lambda p: status.update(p.stage))
        except Cancelled:
            console.err.print("Cancelled.")
            raise typer.Exit(1) from None
        finally:
            transcriber.close()
    console.out.print(f"{file.name}, {sound.duration_s:.2f} s of audio, {threads or cpu.default_threads()} threads")
    for text in texts:
        _print_text(text, sound.duration_s, reference, several=len({v.model for v in variants}) > 1)
    if all(text.transcription is None for text in texts):
        raise typer.Exit(1)
    console.out.print("Times are of one forward pass each, the first of this length: for figures, use `run`.")


def fetch(
    name: Annotated[str, typer.Argument(help="OWNER/NAME or OWNER/NAME:CONFIGURATION.")],
    split: Annotated[str, typer.Option(help="The split, as the hub names it.")] = "test",
    limit: Annotated[int, typer.Option("--clips", help="The first so many.")] = 100,
) -> None:
    """Fetch a data set of the Hugging Face hub once and print its folder, for `evaluate --dataset`."""
    with console.sentences():
        folder = hub.from_hub(name, split, limit, console.err.print)
    print(folder)


def variants_of(model: str, modes: str, threads: int) -> tuple[Variant, ...]:
    """Return every model in every mode, as a command's options name them. Raises ModelError, ModeError or SpecError."""
    models = [catalogue.find(name).name for name in names(model or catalogue.default())]
    placement = Placement("cpu", threads or cpu.default_threads())
    mode_names = console.chosen_modes(modes)
    catalogue.check_task(TRANSCRIPTION.NAME, models)
    variants = tuple(dict.fromkeys(Variant.parse(m, mode, placement) for m in models for mode in mode_names))
    for variant in variants:
        check_mode(variant)
    return variants


def tell(spec: EvaluationSpec, clips: Dataset) -> None:
    """Print the data set's remarks, its clips and words, and the expected duration of the evaluation."""
    for remark in clips.remarks:
        console.err.print(remark)
    expected = forecast.evaluation_s(spec.variants, [c.path for c in clips.clips], history.of(console.jobs().store))
    about = f", about {duration(expected)}" if expected else ""
    console.err.print(f"{len(clips.clips)} clips with {clips.words} words{about}.")


def _print_result(r: Result) -> None:
    spec = r.evaluation.spec
    models = list(dict.fromkeys(v.model for v in spec.variants))
    console.out.print(
        f"{'model ' + models[0] + ', ' if len(models) == 1 else ''}data set {spec.dataset}, "
        f"{evaluation.transcribed(r)}, normaliser {r.normaliser}"
    )
    table = console.table(*(["model"] if len(models) > 1 else []), first="mode", fold=True)
    console.add_numbers(table, "WER %", "points [95 %]", "S/D/I", "CER %", "RTF", "MB")  # fits 80 columns
    for s in r.scores:
        c = s.comparison
        table.add_row(
            s.record.variant.spelled,
            *([s.record.variant.model] if len(models) > 1 else []),
            as_points(c.wer),
            "baseline" if s.is_baseline else as_points(c.delta, c.delta_low, c.delta_high, "+"),
            _error_counts(s.words),
            as_points(s.characters.rate),
            "–" if s.rtf is None else f"{s.rtf:.3f}",
            "–" if s.size_bytes is None else f"{s.size_bytes / 1e6:.1f}",
        )
    if r.scores:
        console.out.print(table)
        console.out.print("points: WER minus the original's, with its interval. S/D/I: substituted, deleted, inserted.")
    if headline := evaluation.headline(r):
        console.out.print(headline)
    for f in r.failures:
        name = evaluation.label(r.evaluation, spec.variants[f.variant]) if f.variant is not None else "evaluation"
        console.err.print(f"{name} failed ({f.stage}, {f.kind}): {f.message}")


def _print_text(text: VariantText, length_s: float, reference: str, *, several: bool) -> None:
    name = f"{text.variant.spelled} of {text.variant.model}" if several else text.variant.spelled
    if text.transcription is None or text.seconds is None:
        console.err.print(f"{name} failed: {text.error}")
        return
    figures = [f"{text.seconds * 1e3:.0f} ms", f"RTF {text.seconds / length_s:.3f}"]
    if reference:
        words = scoring.words(reference, text.transcription.text)
        characters = scoring.characters(reference, text.transcription.text)
        figures += [
            f"WER {as_points(words.rate)} % (S/D/I {_error_counts(words)})",
            f"CER {as_points(characters.rate)} %",
        ]
    console.out.print(f"{name}: {', '.join(figures)}")
    console.out.print(f"  {text.transcription.text or '(no words)'}")


def _error_counts(e: scoring.Errors) -> str:
    return f"{e.substitutions}/{e.deletions}/{e.insertions}"


def as_points(value: float | None, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    """Format a fraction in percent or in percentage points, with its interval."""
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * value:{sign}.1f}{interval}"
