"""English digits with foreign accents: espeak-ng's voices of many languages.

A voice is given phonemes rather than text, so the word is right and the sounds are those of its language. Only phonemes
that every voice of espeak-ng has are used: a voice silently leaves out those that it lacks.
"""

from __future__ import annotations

from random import Random

from training.words import DIGITS

LANGUAGES = (
    *("de", "nl", "sv", "da", "nb", "is", "lb", "af"),
    *("fr-fr", "fr-be", "es", "ca", "it", "pt", "pt-br", "ro"),
    *("pl", "cs", "sk", "hr", "sl", "ru", "uk", "lt", "lv"),
    *("hu", "fi", "et", "el", "tr", "hi", "id", "ja", "sw"),
)
_VARIANTS = (  # none of voices.UNSEEN
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "Andy", "Annie", "Gene", "steph"),
    *("adam", "antonio", "boris", "caleb", "david", "ed", "edward", "gustave", "iven", "john", "linda", "marcelo"),
    *("max", "miguel", "norbert", "pablo", "paul", "quincy", "robert", "sandro", "travis", "victor", "klatt2"),
)
_VOICES = 300
# The most common pronunciation first. The others are what learners make of th, w, v, r and the diphthongs.
SAID = {
    "zero": ("z'iro", "z'i:ro", "z'i:rou", "z'ero", "s'iro", "z'irou"),
    "one": ("w'an", "w'an", "w'on", "v'an", "u'an"),
    "two": ("t'u:", "t'u:", "t'u", "t'uu"),
    "three": ("Tr'i:", "Tr'i:", "tr'i", "sr'i:", "fr'i:", "dr'i:"),
    "four": ("f'o:", "f'or", "f'o:r", "f'o@", "f'oa"),
    "five": ("f'ajv", "f'ajf", "f'ajv", "f'a:jf", "v'ajf"),
    "six": ("s'iks", "s'iks", "z'iks", "s'i:ks"),
    "seven": ("s'ev@n", "s'even", "s'ef@n", "z'ev@n", "s'evn"),
    "eight": ("'ejt", "'ejt", "'e:t", "'ejd"),
    "nine": ("n'ajn", "n'ajn", "n'a:jn", "n'ajn@"),
}


def phonemes(text: str, rng: Random) -> str:
    """Return espeak-ng's input for digits in words, each in a randomly drawn pronunciation."""
    return " ".join(f"[[{rng.choice(SAID[word])}]]" for word in text.split())


def jobs(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """Return what to say, as `corpus.synthetic` does: strings of 1 to 4 digits, by 300 voices in turn."""
    rng = Random(f"{seed} accents")
    all_voices = [f"espeak:{language}+{variant}" for language in LANGUAGES for variant in _VARIANTS]
    voices = rng.sample(all_voices, _VOICES)
    lengths = rng.choices((1, 2, 3, 4), weights=(45, 25, 20, 10), k=count)
    return [
        ("accents", voices[i % _VOICES], " ".join(rng.choices(DIGITS, k=length)), f"{seed} accents {i}")
        for i, length in enumerate(lengths)
    ]
