"""The vocabulary and a seeded generator of sentences.

A checksum of its text assigns a sentence to training or to evaluation, so the two never share one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

Part = Literal["train", "evaluate"]
LABELS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")  # as in wav2vec2-base-960h


def _of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DIGITS = _of("zero one two three four five six seven eight nine")
TEENS = _of("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = _of("twenty thirty forty fifty sixty seventy eighty ninety")
SLOTS = {
    "room": _of("kitchen hall bedroom garden garage house"),
    "device": _of("light lights lamp heater fan radio television camera music"),
    "portal": _of("door window garage"),
    "state": _of("on off up down"),
    "person": _of("mother father sister brother doctor friend"),
    "day": _of("monday tuesday wednesday thursday friday saturday sunday today tomorrow"),
    "when": _of("morning evening night week summer winter"),
    "unit": _of("minutes hours seconds"),
    "quality": _of("red green blue white black warm cold new old big small loud"),
    "thing": _of("water coffee bread milk apple car train bus city river dog cat book phone clock"),
    "weather": _of("rain snow sun weather"),
    "sound": _of("song music radio message alarm"),
    "command": _of("yes no stop start go help repeat enter erase cancel clear save pause left right"),
}
TEMPLATES = (
    "please set the {room} timer to {number} {unit}",
    "then turn {state} the {device} in the {room}",
    "please turn {state} the {quality} {device}",
    "turn {state} the {room} {device}",
    "call my {person} on {day} at {number}",
    "call the {person} at {number} then",
    "open the {room} {portal}",
    "close the {quality} {portal} at {number}",
    "play the {sound} in the {room}",
    "send a message to my {person}",
    "what is the {weather} in the {when}",
    "set the alarm at {number} on {day}",
    "set the volume to {number}",
    "show the {quality} {thing} and the {thing}",
    "find my {quality} {thing}",
    "the {thing} is {quality}",
    "a {quality} {thing} with {thing} and {thing}",
    "{command} then {command}",
    "list the name of my {person}",
    "{weather} and {weather} on {day} {when}",
    "{number} hundred and {number} {unit}",
)
# Words that sound like another (to, two) or blend into their neighbours (a, the) occur only in templates.
_TEMPLATES_ONLY = {"to", "a", "the", "and", "oh"}


def number(rng: Random) -> str:
    """Return a random number below a hundred, in words."""
    tens = rng.choice(TENS)
    return rng.choice((rng.choice(DIGITS), rng.choice(TEENS), tens, f"{tens} {rng.choice(DIGITS[1:])}"))


def vocabulary() -> tuple[str, ...]:
    """Return every word that a sentence can contain, sorted."""
    fixed = (word for template in TEMPLATES for word in template.split() if "{" not in word)
    slots = (word for words in SLOTS.values() for word in words)
    return tuple(sorted({*DIGITS, *TEENS, *TENS, *fixed, *slots, "oh"}))


def part(sentence: str) -> Part:
    """Return the part of a sentence, by its text alone: one in eight belongs to evaluation."""
    return "evaluate" if zlib.crc32(sentence.encode()) % 8 == 0 else "train"


def sentences(seed: int, wanted_part: Part) -> Iterator[str]:
    """Yield endless sentences of 1 to 8 words, in lower case: templates, random words and digit strings."""
    rng = Random(f"{seed} {wanted_part}")
    loose = tuple(word for word in vocabulary() if word not in _TEMPLATES_ONLY)
    kinds: tuple[Callable[[], str], ...] = (
        lambda: _filled(rng.choice(TEMPLATES), rng),
        lambda: " ".join(rng.choices(loose, k=rng.randint(2, 8))),
        lambda: " ".join(rng.choices((*DIGITS, "oh"), k=rng.randint(2, 7))),
        lambda: " ".join(rng.choices(loose, k=rng.randint(1, 3))),
    )
    while True:
        sentence = rng.choices(kinds, weights=(40, 30, 14, 16))[0]()
        if part(sentence) == wanted_part:
            yield sentence


def _filled(template: str, rng: Random) -> str:
    words = [
        number(rng) if word == "{number}" else rng.choice(SLOTS[word[1:-1]]) if word.startswith("{") else word
        for word in template.split()
    ]
    return " ".join(words)
