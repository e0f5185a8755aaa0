"""Long audio in overlapping chunks whose logits are joined, so that the text has no seams.

In a single pass over the whole audio, the compute of attention, and in most engines its memory, would grow with the
square of the length. Each chunk has context on its inner sides, and the frames of that context are dropped, so that
every frame comes from a chunk that includes the audio around it (Patry 2022, "Making automatic speech recognition work
on large files with Wav2Vec2 in Transformers").
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
    """A segment of the audio, all in samples. The dropped parts are context; another chunk provides their frames."""

    begin: int
    end: int
    drop_left: int = 0
    drop_right: int = 0


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the receptive field in samples of a stack of unpadded convolutions; shorter audio gives no frame."""
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field


def frames(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the frames that a stack of unpadded convolutions gives: floor((n - kernel) / stride) + 1 per layer."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = max(0, (samples - kernel) // stride + 1)
    return samples


def chunks(samples: int, hop: int, chunk_s: float = CHUNK_S, stride_s: float = STRIDE_S) -> list[Chunk]:
    """Cut audio of so many samples into chunks; `hop` is the samples per frame (the product of the strides).

    Every chunk begins on a frame's first sample and has `stride_s` of context on each inner side. Audio of at most
    `chunk_s` is one chunk; the last of several is longer than two contexts. Raises ValueError for chunks that would
    contain only context.
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
    """Join the chunks' logits, (frames, vocab) each, in order -> those of the whole audio, (frames, vocab).

    A frame belongs to the chunk that has the frame's first sample outside its context. So each frame occurs exactly
    once, and there are as many as in one pass over the whole audio. A single chunk's logits are returned unchanged.
    Raises ValueError if the number of parts is wrong or a part has too few frames: the context must be at least the
    receptive field, otherwise the last frames that a chunk must provide don't fit into it.
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
    """Compute the logits of prepared audio of any length, (1, samples) -> (frames, vocab), chunk by chunk.

    `forward` maps (1, samples) to (1, frames, vocab). Audio shorter than the receptive field is padded with zeros at
    its end to give one frame. `progress` is called with (chunks done, chunks) after each chunk.
    """
    short = receptive_field(kernels, strides) - prepared.shape[1]
    if short > 0:
        prepared = np.pad(prepared, ((0, 0), (0, short)))
    hop = math.prod(strides)
    pieces = chunks(prepared.shape[1], hop)

    def passes() -> Iterable[Array]:
        for i, piece in enumerate(pieces, 1):
            part = forward(np.ascontiguousarray(prepared[:, piece.begin : piece.end]))[0]  # (frames, vocab)
            yield part.copy()  # an engine may reuse the memory for its next output
            progress(i, len(pieces))

    return join(passes(), pieces, hop)
