"""Long audio in overlapping chunks, joined on the level of logits, so that text has no seams.

In one pass over the whole, attention's work, and in most engines its memory, would grow with the square of the length.
Each chunk has context on its inner sides, and the frames of that context are dropped, so that every frame comes from a
chunk that heard what lies around it (Patry 2022, "Making automatic speech recognition work on large files with
Wav2Vec2 in Transformers").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.core.specs import SAMPLE_RATE_HZ
from bench.families.family import Array

CHUNK_S = 20.0
STRIDE_S = 2.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of the audio, all in samples. What is dropped is context: another chunk gives its frames."""

    begin: int
    end: int
    drop_left: int = 0
    drop_right: int = 0


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one frame of a stack of unpadded convolutions sees; fewer give no frame at all."""
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field


def frames(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Frames of a stack of unpadded convolutions: floor((n - kernel) / stride) + 1, layer by layer."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = max(0, (samples - kernel) // stride + 1)
    return samples


def chunks(samples: int, hop: int, chunk_s: float = CHUNK_S, stride_s: float = STRIDE_S) -> list[Chunk]:
    """How audio of so many samples is cut; `hop` is the samples between two frames (the product of the strides).

    Every chunk begins on a frame's first sample, and has `stride_s` of context on each inner side. Audio of at most
    `chunk_s` is one chunk; the last one of several is longer than two contexts. Raises ValueError for chunks that
    would be nothing but context.
    """
    length, stride = (int(s * SAMPLE_RATE_HZ) // hop * hop for s in (chunk_s, stride_s))
    step = length - 2 * stride
    if step <= 0:
        raise ValueError(
            f"Chunks of {chunk_s:g} s with {stride_s:g} s of context on each side hold nothing but context. "
            f"Allowed: chunks of more than {2 * stride_s:g} s."
        )
    count = max(1, math.ceil((samples - 2 * stride) / step))
    return [
        Chunk(
            i * step,
            i * step + length if i < count - 1 else samples,
            stride if i else 0,
            stride if i < count - 1 else 0,
        )
        for i in range(count)
    ]


def join(parts: Iterable[Array], pieces: Sequence[Chunk], hop: int) -> Array:
    """The chunks' logits, (frames, vocab) each, in order -> the whole audio's, (frames, vocab).

    A frame belongs to the chunk that has the frame's first sample outside its context, so each frame is there exactly
    once, and there are as many as one pass over the whole gives. A single chunk's logits are returned as they came.
    Raises ValueError where parts are missing or too many, or have too few frames: context must be at least the
    receptive field, or a chunk's last frames of its own don't fit into it.
    """
    kept = []
    for part, piece in zip(parts, pieces, strict=True):
        first = piece.drop_left // hop
        stop = (piece.end - piece.begin - piece.drop_right) // hop if piece.drop_right else len(part)
        if not first < stop <= len(part):
            raise ValueError(
                f"The chunk from sample {piece.begin} to {piece.end} came with {len(part)} frames; its own are {first} "
                f"to {stop}. Allowed: a frame every {hop} samples, and context of at least the receptive field."
            )
        kept.append(part[first:stop])
    return kept[0] if len(kept) == 1 else np.concatenate(kept)  # (frames, vocab)


def logits(
    forward: Callable[[Array], Array],
    prepared: Array,
    kernels: Sequence[int],
    strides: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Array:
    """Prepared audio of any length, (1, samples) -> (frames, vocab), by one pass of `forward` after another.

    `forward` maps (1, samples) to (1, frames, vocab). Audio shorter than the receptive field is padded here, with
    zeros at its end, to give the one frame that it takes for a text. `progress` hears (chunks done, chunks) after each.
    """
    short = receptive_field(kernels, strides) - prepared.shape[1]
    if short > 0:
        prepared = np.pad(prepared, ((0, 0), (0, short)))
    hop = math.prod(strides)
    pieces = chunks(prepared.shape[1], hop)

    def passes() -> Iterable[Array]:
        for i, piece in enumerate(pieces, 1):
            part = forward(np.ascontiguousarray(prepared[:, piece.begin : piece.end]))[0]  # (frames, vocab)
            yield part.copy()  # an engine may write its next answer into the same memory
            progress(i, len(pieces))

    return join(passes(), pieces, hop)
