"""English digits by recorded people of other countries: Festival's diphone voices, given their language's sounds.

Each voice is cut from one person's recordings, so unlike espeak-ng's it has a human vocal tract. One of them speaks
English.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from training import words
from training.accents import SAID
from training.voices import record

ENGLISH = "ked_diphone"
# Substitutes for sounds of `accents.SAID` that the language lacks, or lacks at the end of a word (with a dot).
_FINNISH = {"z": "s", "w": "v", "T": "t", "@": "e", "j": "i", "v.": "f", "d.": "t"}
_CZECH = {"w": "v", "T": "t", "@": "e", "e:": "e", "v.": "f", "d.": "t"}
_ITALIAN = {"T": "t", "@": "e", "j": "i", "a:": "a", "e:": "e", "i:": "i", "o:": "o", "u:": "u"}
VOICES = {  # median pitch in hertz, substitutes for the sounds that the language lacks
    "suo_fi_lj_diphone": (190, {**_FINNISH, "v.": "f e", "f.": "f e"}),
    "hy_fi_mv_diphone": (105, _FINNISH),
    "lp_diphone": (180, _ITALIAN),
    "pc_diphone": (115, _ITALIAN),
    "czech_dita": (190, _CZECH),
    "czech_krb": (200, _CZECH),
    "czech_machac": (110, _CZECH),
    "czech_ph": (110, _CZECH),
}
PACKAGES = (
    *("festival", "festival-czech", "festvox-kdlpc16k", "festvox-suopuhe-lj", "festvox-suopuhe-mv"),
    *("festvox-italp16k", "festvox-itapc16k"),
    *("festvox-czech-dita", "festvox-czech-krb", "festvox-czech-machac", "festvox-czech-ph"),
)
_VOWELS = "aeiou@"


@cache
def missing() -> str:
    """Return what is not installed and how to install it, or an empty string."""
    if not shutil.which("festival"):
        return f"festival not found: apt-get install {' '.join(PACKAGES)}"
    try:
        command = ["festival", "-b", "(print (voice.list))"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except subprocess.TimeoutExpired:
        return "festival doesn't answer"
    absent = [voice for voice in (*VOICES, ENGLISH) if voice not in listed]
    return f"Festival lacks {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}" if absent else ""


def jobs(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """Return what to say, as `corpus.synthetic` does.

    Strings of 1 to 3 digits by all voices in turn, and sentences by the English one.
    """
    rng = Random(f"{seed} diphones")
    texts = words.sentences(seed + 1, "train")
    job_list = []
    for i in range(count):
        voice = (*VOICES, ENGLISH)[i % (len(VOICES) + 1)]
        text = next(texts) if voice == ENGLISH else " ".join(rng.choices(words.DIGITS, k=rng.choice((1, 1, 2, 3))))
        job_list.append(("diphones", f"festival:{voice}", text, f"{seed} diphones {i}"))
    return job_list


def speak(text: str, voice: str, rng: Random) -> NDArray[np.int16]:
    """Synthesize text by a voice of this module, at 16 kHz mono, silent ends trimmed. Raises VoiceError."""
    name = voice.removeprefix("festival:")
    if name == ENGLISH:
        pace = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.85, 1.25):.2f})"
        utterance = f'(Utterance Text "{text}")'
    else:
        pace, utterance = "", f"(Utterance Segments ({segments(text, name, rng)}))"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        commands = f'(voice_{name})\n{pace}\n(utt.save.wave (utt.synth {utterance}) "{path}" (quote riff))\n'
        return record(["festival", "--pipe"], path, missing, commands)


def segments(text: str, name: str, rng: Random) -> str:
    """Return Festival's segments for digits, each with its seconds and hertz, in a random accent, pitch and pace."""
    median, differs = VOICES[name]
    pitch, pace = median * rng.uniform(0.85, 1.2), rng.uniform(0.8, 1.35)
    parts = ["(# 0.1)"]
    for word in text.split():
        sounds = sounds_of(rng.choice(SAID[word]))
        for place, (sound, stressed) in enumerate(sounds, start=1):
            vowel, last = sound[0] in _VOWELS, place == len(sounds)
            seconds = rng.uniform(0.11, 0.2) if vowel and stressed else rng.uniform(0.06, 0.11)
            seconds *= pace * (1.3 if last else 1.0)
            hertz = pitch * (1.1 - 0.25 * place / len(sounds)) * rng.uniform(0.96, 1.04)
            phones = differs.get(f"{sound}." if last else sound, differs.get(sound, sound))
            if differs is _ITALIAN and vowel and stressed:
                phones += "1"
            parts += [f"({phone} {seconds:.3f} (0 {hertz:.0f}))" for phone in phones.split()]
        parts.append(f"(# {rng.uniform(0.05, 0.25):.2f})")
    return " ".join(parts)


def sounds_of(pronunciation: str) -> list[tuple[str, bool]]:
    """Split a pronunciation of `accents.SAID` into (sound, whether stressed). A stress mark precedes its vowel."""
    sounds: list[tuple[str, bool]] = []
    stressed = False
    for letter in pronunciation:
        if letter == "'":
            stressed = True
        elif letter == ":":
            sounds[-1] = (sounds[-1][0] + ":", sounds[-1][1])
        else:
            sounds.append((letter, stressed))
            stressed = False
    return sounds
