"""python -m training corpus | train | export | average | measure | clips: each step's options by --help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
Cache = Annotated[Path, typer.Option(help="folder of the corpus and the checkpoint")]
Speech = Annotated[Path, typer.Option(envvar="EARBENCH_SPEECH", help="human speech, if you have it")]
Start = Annotated[
    Path | None, typer.Option(help="a trained model's folder to begin at; a checkpoint in the cache has priority")
]
DEMO = ROOT / "data" / "models" / "demo"
CACHE, SPEECH = ROOT / "data" / "cache" / "training", ROOT.parent / "shared" / "speech"


@app.command()
def corpus(seed: int = 1, cache: Cache = CACHE, speech: Speech = SPEECH) -> None:
    """Makes the corpus: about 21,000 synthetic utterances, and human speech if it is there."""
    from training.corpus import make

    result = make(cache, seed, speech)
    hours = sum(utterance.length for utterance in result.utterances) / 16_000 / 3600
    typer.echo(f"{len(result.utterances)} utterances, {hours:.1f} hours in {cache}")


@app.command()
def train(
    steps: int = 7_600,
    seed: int = 1,
    cache: Cache = CACHE,
    start: Start = None,
    scale: Annotated[int, typer.Option(help="how many times 32 s of audio a step takes: 4 fills a GPU")] = 1,
    minutes: Annotated[float | None, typer.Option(help="end after these minutes, not after --steps")] = None,
    dropout: Annotated[float, typer.Option(help="share of the encoder's activations")] = 0.0,
    masked: Annotated[float, typer.Option(help="share of the frames that are hidden")] = 0.04,
    without: Annotated[str, typer.Option(help="a human speaker of digits to leave out of training, for testing")] = "",
    keep: Annotated[
        Path | None, typer.Option(help="where checkpoint and log go, for `export --cache`; default: the cache")
    ] = None,
) -> None:
    """Trains, or resumes an interrupted training; a changed --steps moves the end and the decay before it."""
    from dataclasses import replace

    from training.batches import CURRICULUM_STEPS, Batches
    from training.corpus import load
    from training.train import Settings, going_on
    from training.train import train as run

    folder = keep or cache
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if start is not None and checkpoint.is_file():
        typer.echo(f"Resuming from {checkpoint}, not from {start}. To begin at {start}, remove that file.")
    settings = Settings(steps=steps, seed=seed) if start is None else going_on(steps, seed)
    settings = replace(settings, minutes=minutes, dropout=dropout, masked=masked)
    curriculum = CURRICULUM_STEPS if start is None else 0
    run(Batches(load(cache), seed, curriculum, scale, without), settings, folder, start)


@app.command()
def export(out: Path = DEMO, averaged: bool = True, cache: Cache = CACHE) -> None:
    """Writes the checkpoint as a folder in Hugging Face format."""
    from training.export import export as write
    from training.train import Settings, Training

    training = Training(Settings())
    training.resume(cache / "checkpoint.pt")
    write(training, out, averaged)
    typer.echo(f"{out}: step {training.step}, {training.seconds / 60:.0f} minutes of training")


@app.command()
def average(
    models: Annotated[list[Path], typer.Argument(help="folders that `export` wrote")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
) -> None:
    """Writes the mean of the weights of several models, where one continued the training of another."""
    from training.export import average as write

    write(models, out)
    typer.echo(f"{out}: the mean of {len(models)} models")


@app.command()
def measure(model: Path = DEMO, cache: Cache = CACHE) -> None:
    """Word error rates of a folder's model on every held-out set of the corpus."""
    from transformers import Wav2Vec2ForCTC

    from training.corpus import load
    from training.measure import held_out, transcribe, word_errors

    network = Wav2Vec2ForCTC.from_pretrained(model, local_files_only=True).eval()
    for name, clips in held_out(load(cache)):
        errors, words = word_errors((text, transcribe(network, audio)) for text, audio in clips)
        typer.echo(f"{name:16} WER {100 * errors / words:5.1f} %  ({errors} errors, {words} words, {len(clips)} clips)")


@app.command()
def clips(out: Annotated[Path, typer.Option(help="the folder to write")], words: int = 3000, seed: int = 1) -> None:
    """Makes a set of clips to evaluate and calibrate with: FLAC files and manifest.csv (path, text, split)."""
    from training.clips import make

    typer.echo(f"{make(out, words, seed)} clips in {out}")


if __name__ == "__main__":
    app()
