"""Greedy CTC decoding, held equal to the Hugging Face tokenizer, and the times and confidences of words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.records import Transcription
from bench.families import catalogue, wav2vec2
from bench.families.ctc import encode
from bench.families.family import Array, ModelError

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
VOCABULARY = {token: i for i, token in enumerate(TOKENS)}
CONFIG = catalogue.find("wav2vec2-base-random").config
FRAME_S = 0.02
SPECIAL = ("<s>", "</s>", "<unk>")


def decode(logits: Array, vocabulary: dict[str, int] = VOCABULARY, config: Any = CONFIG) -> Transcription:
    """What the family predicts from the logits of one clip."""
    return wav2vec2.FAMILY.predict({"logits": logits}, {"vocab.json": vocabulary, "config.json": config})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import Wav2Vec2CTCTokenizer

    file = tmp_path_factory.mktemp("tokenizer") / "vocab.json"
    file.write_text(json.dumps(VOCABULARY))
    return Wav2Vec2CTCTokenizer(str(file))


def logits_of(ids: list[int], vocab: int = len(TOKENS), sure: float = 9.0) -> np.ndarray:
    out = np.zeros((len(ids), vocab), dtype=np.float32)
    out[np.arange(len(ids)), ids] = sure
    return out


def frames(written: str) -> list[int]:
    """Ids of a text with `_` for the blank, one character a frame."""
    return [VOCABULARY["<pad>" if c == "_" else c] for c in written]


def theirs(tokenizer: Any, ids: np.ndarray) -> str:
    """The tokenizer's text without special tokens, words parted by one space."""
    text: str = tokenizer.batch_decode([ids.tolist()])[0]
    for token in SPECIAL:
        text = text.replace(token, "")
    return " ".join(text.split())


@pytest.mark.parametrize("seed", range(40))
def test_random_logits_give_the_tokenizers_text(tokenizer: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Runs of one to four frames: repeats, blanks and delimiters meet in all ways.
    likely = [0, 0, 4, 4, *rng.integers(0, 32, 6)]
    ids = np.repeat(rng.choice(likely, 200), rng.integers(1, 5, 200))
    logits = rng.standard_normal((len(ids), 32)).astype(np.float32) + 10 * logits_of(ids.tolist(), sure=1.0)
    transcription = decode(logits)
    assert transcription.text == theirs(tokenizer, logits.argmax(axis=-1))
    assert transcription.text == " ".join(word.text for word in transcription.words)


@pytest.mark.parametrize("seed", range(10))
def test_plain_random_logits_too(tokenizer: Any, seed: int) -> None:
    logits = np.random.default_rng(seed).standard_normal((500, 32)).astype(np.float32)
    assert decode(logits).text == theirs(tokenizer, logits.argmax(axis=-1))


@pytest.mark.parametrize("seed", range(10))
def test_words_last_as_long_as_the_tokenizer_says(tokenizer: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.choice([0, 4, 5, 6, 7], 100), rng.integers(1, 4, 100))
    offsets = tokenizer.decode(ids.tolist(), output_word_offsets=True).word_offsets
    words = decode(logits_of(ids.tolist())).words
    assert [w.text for w in words] == [o["word"] for o in offsets]
    assert [w.begin_s for w in words] == pytest.approx([o["start_offset"] * FRAME_S for o in offsets])
    assert [w.end_s for w in words] == pytest.approx([o["end_offset"] * FRAME_S for o in offsets])


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("HHE_LLL_LOO", "HELLO"),  # a blank between repeats keeps both
        ("HELLLLO", "HELO"),
        ("||HI||", "HI"),
        ("HI|_|YOU", "HI YOU"),  # two delimiters are one space
        ("HI||||YOU", "HI YOU"),
        ("H_I__", "HI"),
        ("_|A|_", "A"),
        ("DON'T", "DON'T"),
        ("____", ""),
        ("||||", ""),
        ("_|_|", ""),
        ("_", ""),
        ("A", "A"),
    ],
)
def test_hand_made_frames(tokenizer: Any, written: str, text: str) -> None:
    ids = frames(written)
    assert decode(logits_of(ids)).text == text
    assert theirs(tokenizer, np.array(ids)) == text


def test_special_tokens_are_dropped_after_repeats_are_merged() -> None:
    ids = [1, VOCABULARY["L"], 0, VOCABULARY["L"], 3, VOCABULARY["L"], 2]
    assert decode(logits_of(ids)).text == "LLL"


def test_no_frames() -> None:
    assert decode(np.zeros((0, 32), dtype=np.float32)) == Transcription("", ())


def test_times_and_confidence_by_hand() -> None:
    # Two tokens matter: with a logit of ln(p / (1 - p) * 31) over 31 zeros, the posterior is p.
    beliefs = [0.9, 0.6, 0.8, 0.9, 0.5, 0.7]
    logits = np.zeros((6, 32))
    for i, (token, p) in enumerate(zip("_AAB|C", beliefs, strict=True)):
        logits[i, frames(token)] = math.log(p / (1 - p) * 31)
    first, second = decode(logits.astype(np.float32)).words
    assert (first.text, second.text) == ("AB", "C")
    assert (first.begin_s, first.end_s) == pytest.approx((0.02, 0.08))  # frames 1 to 3
    assert (second.begin_s, second.end_s) == pytest.approx((0.1, 0.12))  # frame 5
    assert first.confidence == pytest.approx((0.8 + 0.9) / 2, rel=1e-6)  # of the two A frames the surer one
    assert second.confidence == pytest.approx(0.7, rel=1e-6)
    shifted = decode((logits + 1e4).astype(np.float32))  # exp(1e4) would be too large
    assert shifted.words[0].confidence == pytest.approx(first.confidence, abs=1e-2)


def test_another_vocabulary() -> None:
    # As many fine-tuned models have it: own names, the blank last, and configured ids that are letters' here.
    vocabulary = {"a": 1, "b": 2, "|": 0, "[UNK]": 3, "[PAD]": 4}
    config = {"pad_token_id": 4, "bos_token_id": 1, "eos_token_id": 2, "conv_stride": [5, 3]}
    ids = [1, 4, 1, 3, 0, 2, 5]  # 5 is an output that the vocabulary does not name
    transcription = decode(logits_of(ids, 6), vocabulary, config)
    assert transcription.text == "aa b"
    assert transcription.words[1].begin_s == pytest.approx(5 * 15 / 16_000)


def test_output_that_is_no_number_is_refused() -> None:
    logits = logits_of(frames("ABC"))
    logits[1, 7] = np.nan
    with pytest.raises(ModelError, match="not a number in 1 of 3 frames"):
        decode(logits)
    logits[1, 7] = -np.inf  # impossible is a belief too
    assert decode(logits).text == "ABC"


def test_a_batch_is_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 3, 32\); allowed: \(frames, vocab\)"):
        decode(logits_of(frames("ABC"))[None])


def test_decoding_imports_no_engine() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\nfrom bench.families import longform, wav2vec2\n"
        "family, config = wav2vec2.FAMILY, {'pad_token_id': 0, 'conv_stride': [5]}\n"
        "files = {'vocab.json': {'<pad>': 0}, 'config.json': config, 'preprocessor_config.json': {}}\n"
        "x = family.prepare(np.zeros(9, np.float32), files)['x']\n"
        "y = longform.logits(lambda x: np.zeros((1, 1, 5), np.float32), x, [10], [5])\n"
        "family.predict({'logits': y}, files)\n"
        "print(sorted({'torch', 'transformers', 'librosa', 'soundfile', 'scipy'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_labels_of_what_is_said() -> None:
    vocabulary = {"<pad>": 0, "|": 1, "A": 2, "B": 3, "'": 4}
    assert encode("a b'  ab!", vocabulary).tolist() == [2, 1, 3, 4, 1, 2, 3]
    assert encode("Ab a", {"a": 0, "b": 1, " ": 2}).tolist() == [0, 1, 2, 0]
    assert encode("", vocabulary).tolist() == [] and encode("a", vocabulary).dtype == np.int64
