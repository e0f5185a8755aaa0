"""Long audio: chunks that cover it, and joined logits without gap or repeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from bench.families import catalogue, longform, wav2vec2
from bench.families.longform import Chunk
from bench.families.network import Feed, Steps, UntilEnd
from bench.families.session import Session

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
FIELD, HOP, S = 400, 320, 16_000
CONFIG = catalogue.find("wav2vec2-base-random").config
# From just one chunk to ten minutes, around every edge: whole steps of 16 s, and frames that just fit or just don't.
LENGTHS = [
    20 * S - 1,
    20 * S,
    20 * S + 1,
    *(20 * S + 16 * S * i + d for i in (1, 2, 35) for d in (-321, -320, -1, 0, 1, 79, 80, 81, 319, 320)),
    24 * S + 399,
    600 * S,
    *np.random.default_rng(0).integers(20 * S, 600 * S, 20).tolist(),
]


def times(x: np.ndarray) -> np.ndarray:
    """A model whose frames are their own first sample: (1, samples) of 0, 1, 2, ... -> (1, frames, 1)."""
    return sliding_window_view(x, FIELD, axis=1)[:, ::HOP, :1]


def test_geometry_of_wav2vec2() -> None:
    assert (CONFIG["conv_kernel"], CONFIG["conv_stride"]) == (KERNELS, STRIDES)
    assert longform.receptive_field(KERNELS, STRIDES) == FIELD
    assert longform.receptive_field([7, 4], [5, 3]) == 7 + 3 * 5
    assert [longform.frames(n, KERNELS, STRIDES) for n in (0, 1, 399, 400, 719, 720, 16_000)] == [0, 0, 0, 1, 1, 2, 49]
    for n in range(400, 3000, 7):
        assert longform.frames(n, KERNELS, STRIDES) == (n - FIELD) // HOP + 1


def test_short_audio_is_one_chunk() -> None:
    for samples in (0, 1, 400, 20 * S):
        assert longform.chunks(samples, HOP) == [Chunk(0, samples)]


def test_chunks_by_hand() -> None:
    assert longform.chunks(20 * S + 1, HOP) == [
        Chunk(0, 20 * S, 0, 2 * S),
        Chunk(16 * S, 20 * S + 1, 2 * S, 0),
    ]
    assert longform.chunks(40 * S, HOP) == [
        Chunk(0, 20 * S, 0, 2 * S),
        Chunk(16 * S, 36 * S, 2 * S, 2 * S),
        Chunk(32 * S, 40 * S, 2 * S, 0),
    ]
    assert longform.chunks(90, 7, chunk_s=50 / S, stride_s=10 / S) == [  # cut down to whole frames: 49 and 7
        Chunk(0, 49, 0, 7),
        Chunk(35, 84, 7, 7),
        Chunk(70, 90, 7, 0),
    ]


@pytest.mark.parametrize("samples", LENGTHS)
def test_what_chunks_keep_is_the_audio_once(samples: int) -> None:
    chunks = longform.chunks(samples, HOP)
    at = 0
    for chunk in chunks:
        assert chunk.begin % HOP == 0 and chunk.begin + chunk.drop_left == at
        assert chunk.end - chunk.begin <= 20 * S
        at = chunk.end - chunk.drop_right
    assert at == chunks[-1].end == samples
    assert len(chunks) == 1 or chunks[-1].end - chunks[-1].begin > 4 * S


@pytest.mark.parametrize("samples", LENGTHS)
def test_joined_frames_are_those_of_one_pass(samples: int) -> None:
    x = np.arange(samples, dtype=np.float32)[None]  # exact: below 2^24
    joined = longform.logits(times, x, KERNELS, STRIDES)
    assert joined.shape == (longform.frames(samples, KERNELS, STRIDES), 1)
    np.testing.assert_array_equal(joined[:, 0], np.arange(len(joined)) * HOP)


def test_a_model_that_looks_no_further_than_its_frames_gives_the_same_logits() -> None:
    x = np.random.default_rng(0).standard_normal((1, 70 * S + 123)).astype(np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        return sliding_window_view(x, FIELD, axis=1)[:, ::HOP].mean(axis=2, keepdims=True)

    np.testing.assert_allclose(longform.logits(mean, x, KERNELS, STRIDES), mean(x)[0], atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_audio_below_the_receptive_field_is_padded_with_zeros(samples: int) -> None:
    seen = []

    def forward(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return times(x)

    joined = longform.logits(forward, np.ones((1, samples), dtype=np.float32), KERNELS, STRIDES)
    assert joined.shape == (1, 1)
    assert seen[0].shape == (1, FIELD) and seen[0].sum() == samples


def test_an_engine_may_reuse_its_memory() -> None:
    buffer = np.empty((1, 1000, 1), dtype=np.float32)

    def forward(x: np.ndarray) -> np.ndarray:
        out = times(x)
        buffer[:, : out.shape[1]] = out
        return buffer[:, : out.shape[1]]

    x = np.arange(50 * S, dtype=np.float32)[None]
    joined = longform.logits(forward, x, KERNELS, STRIDES)
    assert (np.diff(joined[:, 0]) == HOP).all()


def test_progress_is_told() -> None:
    reported: list[tuple[int, int]] = []
    x = np.zeros((1, 50 * S), dtype=np.float32)
    longform.logits(times, x, KERNELS, STRIDES, lambda done, count: reported.append((done, count)))
    assert reported == [(1, 3), (2, 3), (3, 3)]


class Times:
    """An opened network that is `times`; it keeps the lengths of its passes."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def start(self) -> Session:
        def run(feed: Feed) -> Feed:
            self.samples.append(feed["x"].shape[1])
            return {"logits": times(feed["x"])}

        return run


def test_a_real_clip_is_cut_and_joined_and_a_timed_pass_is_not() -> None:
    """50 s: of the clip three chunks and the frames of one pass; timed, one pass whose output is as it came."""
    feed, files = {"x": np.arange(50 * S, dtype=np.float32)[None]}, {"config.json": CONFIG}
    reported: list[tuple[int, int]] = []
    phases: list[str] = []
    network, stop = Times(), UntilEnd(progress=lambda done, count: reported.append((done, count)))
    joined = wav2vec2.FAMILY.run({"model": network}, feed, files, stop, phases.append)["logits"]
    assert network.samples == [20 * S, 20 * S, 18 * S] and reported == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(joined, times(feed["x"])[0])
    network = Times()
    logits = wav2vec2.FAMILY.run({"model": network}, feed, files, Steps(), phases.append)["logits"]
    assert network.samples == [50 * S]
    np.testing.assert_array_equal(logits, times(feed["x"]))
    assert phases == []  # a pass of one network has no phases


def test_what_can_not_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 s with 2 s of context .* Allowed: chunks of more than 4 s"):
        longform.chunks(100 * S, HOP, chunk_s=4.0)
    pieces = longform.chunks(30 * S, HOP)
    part = np.zeros((999, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="longer"):
        longform.join([part], pieces, HOP)
    with pytest.raises(ValueError, match=r"from sample 0 to 320000 came with 899 frames; its own are 0 to 900"):
        longform.join([part[:899], part], pieces, HOP)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from transformers import Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC.from_pretrained(tiny_model).eval()

    def forward(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            out: np.ndarray = model(torch.from_numpy(x)).logits.numpy()
        return out

    return forward


@pytest.mark.parametrize("samples", [1, 400, 5 * S + 77, 20 * S, 20 * S + 1, 45 * S + 319, 53 * S])
def test_a_real_model_gives_as_many_frames_as_in_one_pass(
    tiny: Callable[[np.ndarray], np.ndarray], samples: int
) -> None:
    x = np.random.default_rng(samples).standard_normal((1, samples)).astype(np.float32)
    joined = longform.logits(tiny, x, KERNELS, STRIDES)
    whole = tiny(np.pad(x, ((0, 0), (0, max(0, FIELD - samples)))))[0]
    assert joined.shape == whole.shape == (max(1, longform.frames(samples, KERNELS, STRIDES)), 32)
    assert np.isfinite(joined).all()
    if samples <= 20 * S:
        np.testing.assert_array_equal(joined, whole)  # one chunk passes through
