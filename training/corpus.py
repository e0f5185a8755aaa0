"""The corpus: utterances of many voices in one file of int16 samples, with an index beside it."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.progress import track

from training import accents, diphones, voices, words

HELD_OUT_SPEAKER = "yweweler"  # the alphabetically last of digits_fsdd: never trained on
PARTS = {"train": 14_000, "dev": 120, "seen": 500, "unseen": 500, "accents": 2_400, "diphones": 3_600}
PROMPTS_PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-wav")
PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
PROMPTS_TEXT = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")


@dataclass(frozen=True)
class Utterance:
    """A stretch of the sample file, with its speaker and its text in lower case."""

    part: str
    voice: str
    text: str
    start: int
    length: int


@dataclass(frozen=True)
class Corpus:
    """All samples (memory-mapped int16 at 16 kHz) and the utterances within them."""

    samples: NDArray[np.int16]
    utterances: tuple[Utterance, ...]

    def audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return an utterance's samples, within -1 and 1."""
        stretch = self.samples[utterance.start : utterance.start + utterance.length]
        return np.asarray(stretch, dtype=np.float32) / np.float32(32768)

    def part(self, name: str) -> list[Utterance]:
        """Return the utterances of one part."""
        return [utterance for utterance in self.utterances if utterance.part == name]


def load(folder: Path) -> Corpus:
    """Open what `make` wrote. Raises FileNotFoundError with the command to run."""
    if not (folder / "corpus.json").is_file():
        raise FileNotFoundError(f"no corpus in {folder}: run `python -m training corpus` first")
    index = json.loads((folder / "corpus.json").read_text())
    samples = np.memmap(folder / "corpus.i16", dtype=np.int16, mode="r")
    return Corpus(samples, tuple(Utterance(*row) for row in index))


def make(folder: Path, seed: int, speech: Path, parts: dict[str, int] | None = None) -> Corpus:
    """Write the corpus into a folder: synthetic parts, and human ones where the speech folder exists."""
    folder.mkdir(parents=True, exist_ok=True)
    index: list[tuple[str, str, str, int, int]] = []
    start = 0
    with (folder / "corpus.i16").open("wb") as f:
        for part, voice, text, samples in _everything(seed, speech, parts or PARTS):
            f.write(samples.tobytes())
            index.append((part, voice, text, start, len(samples)))
            start += len(samples)
    (folder / "corpus.json").write_text(json.dumps(index))
    return load(folder)


Spoken = tuple[str, str, str, NDArray[np.int16]]  # part, voice, text, samples


def synthetic(part: str, count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """Return what to say: (part, voice, text, seed of the voice's settings)."""
    if part == "accents":
        return accents.jobs(count, seed)
    if part == "diphones":
        return diphones.jobs(count, seed)
    rng = Random(f"{seed} {part}")
    voice_names = voices.UNSEEN if part == "unseen" else voices.SEEN
    texts = words.sentences(seed, "train" if part == "train" else "evaluate")
    if part != "train":  # the evaluation parts start at different places in one stream of sentences
        rng.shuffle(pool := [next(texts) for _ in range(4 * count)])
        texts = iter(pool)
    return [(part, voices.draw(voice_names, rng), next(texts), f"{seed} {part} {i}") for i in range(count)]


def say(job: tuple[str, str, str, str]) -> Spoken:
    """Synthesize one job of `synthetic`."""
    part, voice, text, seed = job
    rng = Random(seed)
    if part == "diphones":
        return part, voice, text, diphones.speak(text, voice, rng)
    engine_input = accents.phonemes(text, rng) if part == "accents" else text
    return part, voice, text, voices.speak(engine_input, voice, rng)


def _everything(seed: int, speech: Path, parts: dict[str, int]) -> Iterator[Spoken]:
    if lacking := voices.missing():
        raise voices.VoiceError(lacking)
    if parts.get("diphones") and (lacking := diphones.missing()):
        print(f"{lacking}. The corpus goes without diphones.")
        parts = {**parts, "diphones": 0}
    jobs = [job for part, count in parts.items() for job in synthetic(part, count, seed)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each thread waits for a speech synthesizer
        yield from track(pool.map(say, jobs), "speaking", total=len(jobs))
    for name, read_utterances in (("digits_fsdd", _digits), ("an4_train", _an4)):
        if (speech / name / "manifest.csv").is_file():
            yield from read_utterances(speech / name)
        else:
            print(f"{speech / name} is not there: the corpus goes without its human speech.")
    if PROMPTS.is_dir() and PROMPTS_TEXT.is_file():
        yield from _prompts()
    else:
        print(f"No prompts: apt-get install {' '.join(PROMPTS_PACKAGES)}. The corpus goes without them.")


def _digits(folder: Path) -> Iterator[Spoken]:
    for row in _manifest(folder):
        part = "digits-held-out" if row["speaker"] == HELD_OUT_SPEAKER else "digits"
        yield part, row["speaker"], row["text"].lower(), _read(folder / row["path"])


def _an4(folder: Path) -> Iterator[Spoken]:
    """Yield the utterances of AN4. Every third one is held out."""
    for i, row in enumerate(sorted(_manifest(folder), key=lambda row: row["path"])):
        part = "an4-held-out" if i % 3 == 2 else "an4"
        yield part, row["path"].split("-")[1], row["text"].lower(), _read(folder / row["path"])


def _prompts() -> Iterator[Spoken]:
    """Yield Allison Smith's prompts for Asterisk whose words are all in the vocabulary."""
    vocabulary = set(words.vocabulary())
    for line in gzip.decompress(PROMPTS_TEXT.read_bytes()).decode().splitlines():
        name, _, text = line.partition(":")
        prompt_words = re.findall("[a-z']+", text.lower())
        path = PROMPTS / f"{name}.wav"
        if vocabulary.issuperset(prompt_words) and prompt_words and not name.startswith("letters/") and path.is_file():
            yield "prompts", "allison", " ".join(prompt_words), _read(path)


def _manifest(folder: Path) -> Iterable[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def _read(path: Path) -> NDArray[np.int16]:
    samples, rate = soundfile.read(path, dtype="float32")
    return voices.to_int16(voices.resampled(samples, rate))
