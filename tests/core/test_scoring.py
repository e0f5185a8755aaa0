"""Word and character errors, alignments and the paired bootstrap, against counts made by hand and known shifts."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from bench.core import scoring
from bench.core.scoring import Errors, Piece

# --- normalisers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  two\t\n spaces  ", "two spaces"),
        ("don't", "don't"),
        ("DON’T", "don't"),
        ("'quoted' and dogs' tails", "quoted and dogs tails"),
        ("‘quoted’ rock''n", "quoted rock n"),
        ("well-known—or/not", "well known or not"),
        ("snake_case", "snake case"),
        ("ﬁne ½ Ｗｉｄｅ", "fine 1⁄2 wide"),  # ligature, fraction, full width
        ("Cafe\u0301", "caf\u00e9"),  # a letter and its accent are one character
        ("ÄÖÜ ß", "äöü ß"),
        ("नमस्ते।", "नमस्ते"),  # marks are no punctuation
        ("¿Qué?", "qué"),
        ("...", ""),
        ("'", ""),
        ("", ""),
    ],
)
def test_basic(text: str, expected: str) -> None:
    assert scoring.normalise(text) == expected
    assert scoring.normalise(expected) == expected  # nothing is left to do


def test_none_leaves_all_but_white_space() -> None:
    assert scoring.normalise(" Don’t,  you?\n", "none") == "Don’t, you?"


def test_every_normaliser_is_explained_and_takes_the_empty_text() -> None:
    assert next(iter(scoring.NORMALISERS)) == "basic" and "none" in scoring.NORMALISERS
    for name, normaliser in scoring.NORMALISERS.items():
        assert normaliser.note.endswith(".") and "\n" not in normaliser.note
        assert scoring.normalise("", name) == scoring.normalise(" \n", name) == ""


def test_an_unknown_normaliser_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no text normaliser “english”\. Allowed: basic, none\."):
        scoring.words("a", "a", "english")


# --- errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", Errors(6, 0, 0, 0)),
        ("the cat sat on the mat today", "so the bat sat on mat today", Errors(5, 1, 1, 1)),
        ("a b c", "a c", Errors(2, 0, 1, 0)),
        ("a c", "a b c", Errors(2, 0, 0, 1)),
        ("A, b!", "a B", Errors(2, 0, 0, 0)),
        ("a b", "", Errors(0, 0, 2, 0)),
        ("", "a b c", Errors(0, 0, 0, 3)),
        ("", "", Errors(0, 0, 0, 0)),
        ("...", "'", Errors(0, 0, 0, 0)),
    ],
)
def test_words(reference: str, hypothesis: str, expected: Errors) -> None:
    assert scoring.words(reference, hypothesis) == expected


def test_words_without_normaliser_count_case_and_punctuation() -> None:
    assert scoring.words("Hello, world", "hello world", "none") == Errors(1, 1, 0, 0)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("kitten", "sitting", Errors(4, 2, 0, 1)),  # the textbook's: k to s, e to i, g is new
        ("a b", "ab", Errors(2, 0, 1, 0)),  # the space is a character
        ("ab", "", Errors(0, 0, 2, 0)),
        ("", "ab c", Errors(0, 0, 0, 4)),
        ("", "", Errors(0, 0, 0, 0)),
    ],
)
def test_characters(reference: str, hypothesis: str, expected: Errors) -> None:
    assert scoring.characters(reference, hypothesis) == expected


def test_rates() -> None:
    errors = scoring.words("the cat sat on the mat", "so the bat sat on mat")
    assert (errors.reference_count, errors.count, errors.rate) == (6, 3, 0.5)
    assert scoring.words("a", "a b c").rate == 2  # more is inserted than there is
    assert scoring.words("", "a").rate is None and Errors().rate is None


def test_a_corpus_is_a_sum_and_not_a_mean_of_rates() -> None:
    clips = [scoring.words("a", "b"), scoring.words("a b c d e f g h i", "a b c d e f g h i")]
    assert [c.rate for c in clips] == [1, 0]
    corpus = sum(clips, Errors())
    assert corpus == Errors(9, 1, 0, 0) and corpus.rate == 0.1
    assert (corpus + scoring.words("", "x")).rate == 0.2  # a clip without words still costs its insertions


# --- alignment


def test_align() -> None:
    assert scoring.align("The cat sat on the mat.", "so the bat sat on mat") == [
        Piece("insert", (), ("so",)),
        Piece("equal", ("the",), ("the",)),
        Piece("substitute", ("cat",), ("bat",)),
        Piece("equal", ("sat", "on"), ("sat", "on")),
        Piece("delete", ("the",), ()),
        Piece("equal", ("mat",), ("mat",)),
    ]
    assert scoring.align("", "a b") == [Piece("insert", (), ("a", "b"))]
    assert scoring.align("a b", "") == [Piece("delete", ("a", "b"), ())]
    assert scoring.align("", "") == []
    assert scoring.align("A b", "a b", "none")[0] == Piece("substitute", ("A",), ("a",))


@pytest.mark.parametrize("seed", range(20))
def test_an_alignment_holds_both_texts_and_agrees_with_the_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (" ".join(rng.choice(list("abcd"), rng.integers(0, 12))) for _ in range(2))
    pieces = scoring.align(left, right)
    assert [w for p in pieces for w in p.reference] == left.split()
    assert [w for p in pieces for w in p.hypothesis] == right.split()
    size = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
    for p in pieces:
        size[p.kind] += max(len(p.reference), len(p.hypothesis))
        assert (p.reference == p.hypothesis) == (p.kind == "equal")
    assert scoring.words(left, right) == Errors(*size.values())


# --- bootstrap


def clips(wrong: list[int], of: int = 10) -> list[Errors]:
    return [Errors(of - n, n) for n in wrong]


def test_two_clips_by_hand() -> None:
    # Drawn are (0, 0), (0, 1), (1, 0) or (1, 1): WER 1/10, 2/10, 2/10 or 3/10, a quarter of the resamples each, so the
    # 2.5 % and 97.5 % points are the outermost. The delta: -1/10, 0, 0 or 1/10.
    comparison = scoring.bootstrap(clips([2, 2]), clips([1, 3]))
    assert (comparison.wer, comparison.wer_low, comparison.wer_high) == pytest.approx((0.2, 0.1, 0.3))
    assert (comparison.delta, comparison.delta_low, comparison.delta_high) == pytest.approx((0, -0.1, 0.1))
    assert comparison.no_worse_ratio == 0.5


def test_a_known_shift_on_every_clip_has_no_width() -> None:
    wrong = [0, 3, 1, 4, 2, 7]
    comparison = scoring.bootstrap(clips(wrong), clips([n + 1 for n in wrong]))
    assert (comparison.delta, comparison.delta_low, comparison.delta_high) == pytest.approx((0.1, 0.1, 0.1))
    assert comparison.wer == pytest.approx(23 / 60) and comparison.no_worse_ratio == 0
    assert (
        comparison.wer_low is not None
        and comparison.wer_high is not None
        and comparison.wer_low < 23 / 60 < comparison.wer_high
    )


def test_the_baseline_against_itself() -> None:
    same = clips([0, 3, 1, 4])
    comparison = scoring.bootstrap(same, same)
    assert (comparison.delta, comparison.delta_low, comparison.delta_high, comparison.no_worse_ratio) == (0, 0, 0, 1)
    assert comparison.wer == 0.2


def test_long_clips_weigh_more() -> None:
    comparison = scoring.bootstrap([Errors(1), Errors(99)], [Errors(0, 1), Errors(99)])
    assert comparison.wer == comparison.delta == 0.01


def test_the_interval_has_the_width_of_the_standard_error() -> None:
    # Equal clips: WER is a mean of independent ratios, whose standard error is known.
    rng = np.random.default_rng(1)
    wrong = rng.binomial(20, 0.15, 400)
    comparison = scoring.bootstrap(clips([0] * 400, 20), clips(wrong.tolist(), 20))
    error = (wrong / 20).std(ddof=1) / 20  # sqrt(400) is 20
    assert comparison.wer_low is not None and comparison.wer_high is not None
    assert comparison.wer_high - comparison.wer_low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert (comparison.delta_low, comparison.delta_high) == (comparison.wer_low, comparison.wer_high)


def test_pairing_makes_the_interval_of_the_difference_narrower() -> None:
    # Some clips are hard for both: unpaired, that spread would hide the difference.
    rng = np.random.default_rng(2)
    hard = rng.integers(0, 15, 300)
    variant, baseline = clips((hard + (rng.random(300) < 0.3)).tolist(), 20), clips(hard.tolist(), 20)
    paired = scoring.bootstrap(baseline, variant)
    shuffled = scoring.bootstrap([baseline[i] for i in rng.permutation(300)], variant)
    assert paired.delta == pytest.approx(shuffled.delta)

    def width(c: scoring.Comparison) -> float:
        assert c.delta_low is not None and c.delta_high is not None
        return c.delta_high - c.delta_low

    assert width(paired) < width(shuffled) / 5
    assert paired.delta_low is not None and paired.delta_low > 0  # it is seen
    assert shuffled.delta_low is not None and shuffled.delta_low < 0  # and would not be


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(3), 0
    for trial in range(200):
        wrong = rng.binomial(10, 0.2, 60).tolist()
        comparison = scoring.bootstrap(clips(wrong), clips(wrong), seed=trial, resamples=500)
        assert comparison.wer_low is not None and comparison.wer_high is not None
        held += comparison.wer_low <= 0.2 <= comparison.wer_high
    assert 0.89 <= held / 200 <= 0.99


def test_a_seed_gives_the_same_numbers_again() -> None:
    a, b = clips([0, 3, 1, 4, 9, 2]), clips([1, 2, 4, 4, 5, 1])
    assert scoring.bootstrap(a, b) == scoring.bootstrap(a, b) == scoring.bootstrap(a, b, seed=0)
    assert scoring.bootstrap(a, b, resamples=50) != scoring.bootstrap(a, b, seed=1, resamples=50)


def test_too_little_for_an_interval() -> None:
    one = scoring.bootstrap(clips([1]), clips([3]))
    assert (one.wer, one.delta, one.no_worse_ratio) == pytest.approx((0.3, 0.2, 0))
    silent = scoring.bootstrap([Errors(), Errors(insertions=1)], [Errors(), Errors()])
    assert silent.wer is None and silent.delta is None and silent.no_worse_ratio == 1
    none = scoring.bootstrap([], [])
    assert none.wer is None and none.no_worse_ratio is None
    for comparison in (one, silent, none):
        assert comparison.wer_low is comparison.wer_high is comparison.delta_low is comparison.delta_high is None


def test_resamples_without_a_word_are_left_out() -> None:
    comparison = scoring.bootstrap(
        [Errors(4), Errors()], [Errors(3, 1), Errors()]
    )  # a quarter of them draw the empty one
    assert (comparison.wer, comparison.wer_low, comparison.wer_high, comparison.delta_low) == (0.25, 0.25, 0.25, 0.25)


def test_clips_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="baseline has 1 clips and the variant 2"):
        scoring.bootstrap(clips([1]), clips([1, 2]))
    with pytest.raises(ValueError, match="Clip 1's reference has 10 words for the baseline and 9"):
        scoring.bootstrap(clips([1, 1]), [Errors(10), Errors(9)])


def test_a_thousand_clips_are_quick_and_take_little_memory() -> None:
    rng = np.random.default_rng(4)
    a, b = (clips(rng.integers(0, 10, 1000).tolist()) for _ in range(2))
    taken = []
    for _ in range(3):  # the best of three: others use this machine too
        begun = time.perf_counter()
        scoring.bootstrap(a, b)
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.5
    tracemalloc.start()
    scoring.bootstrap(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # all draws at once would be 80 MB, and once more for each sum
