"""A run's results in sentences: what was gained, and whether latency follows size.

The headline is plain text; the others are Markdown, with names in bold.
"""

from __future__ import annotations

from bench import modes
from bench.core.markdown import plain
from bench.core.stats import Interval
from bench.results.report import Report, label

WIDE = 0.15  # an interval's half width, as a ratio, above which agreement means nothing


def headline(r: Report) -> str | None:
    """The run in one sentence: the fastest quantized mode at the longest input; None before there is one."""
    cells = [c for c in r.cells if c.speedup and c.size_ratio]
    if not cells:
        return None
    longest = max(c.batch * c.size for c in cells)
    best = max((c for c in cells if c.batch * c.size == longest), key=lambda c: c.speedup.value if c.speedup else 0)
    variant, speedup, baseline = best.record.variant, best.speedup, r.run.spec.variants[best.group.variants[0]].mode
    assert speedup
    interval = f" (95 % interval {speedup.span()})" if speedup.span() else ""
    axis = r.run.spec.axis
    amount = f"{best.size:g} s of audio" if axis.unit == "s" else axis.show(best.size)
    input_phrase = f"on {amount}" + (f" in batches of {best.batch}" if best.batch > 1 else "")
    size_sentence = f"On {r.run.device.name}, {variant.mode} makes {variant.model} {_smaller(best.size_ratio)}"
    if speedup.low is not None and speedup.high is not None and speedup.low <= 1 <= speedup.high:
        return f"{size_sentence}; whether it is faster than {baseline} {input_phrase} is not clear{interval}."
    return f"{size_sentence} and {speedup.value:.2f} times as fast{interval} as {baseline} {input_phrase}."


def doubt(r: Report) -> str:
    """Why the figures may be wrong, and what to do, as a sentence; "" if nothing speaks against them."""
    if r.busy is None:
        return ""
    busy, visits = r.busy
    return (
        f"Other programs were busy during {busy} of {visits} visits, so these figures are uncertain and may be biased. "
        "Close what is not needed and measure again."
    )


def false_claims(r: Report) -> list[str]:
    """Modes that claim int8 or int4 but store or compute nothing in it, as sentences: an error, not a result."""
    out, modes_by_name = [], modes.modes()
    for position, record in enumerate(r.variants):
        mode = modes_by_name.get(record.variant.mode)
        if not mode or mode.SPEC.weights.bits >= 16 or not record.coverage:
            continue
        bits, name = mode.SPEC.weights.bits, _bold(r, position)
        if not record.coverage.parameters_ratio(bits):
            out.append(f"{name} stores no weight in {bits} bits, so nothing is quantized in it.")
        elif mode.SPEC.activations.bits == 8 and not record.coverage.macs_ratio(8):
            out.append(f"{name} stores int8 weights, but runs all of its work in floating point on this device.")
    return out


def apart(r: Report) -> list[str]:
    """Variants that were not measured side by side with all others of their model and placement, as sentences.

    Memory did not hold them all, or some failed and were measured again. Each block has its own passes of the baseline,
    and ratios are valid within a block.
    """
    out = []
    for (model, placement), compared in r.run.spec.comparisons.items():
        splits: dict[tuple[str, ...], None] = {}  # usually one: the same at every length
        for batch, size in r.run.spec.shapes:
            blocks: dict[int, list[str]] = {}
            for c in r.cells:
                if c.position in compared and not c.is_baseline and (c.batch, c.size) == (batch, size):
                    blocks.setdefault(c.group.id, []).append(_bold(r, c.position))
            if len(blocks) > 1:
                splits[tuple(" and ".join(names) for names in blocks.values())] = None
        out += [
            f"The variants of {plain(model)} were not all measured side by side ({plain(placement.label)}): first "
            f"{', then '.join(blocks)}, each time beside separate passes of {_bold(r, compared[0])}. "
            "Speed-ups are over those passes. "
            "Mean times of variants that were not side by side are of different moments: compare them with care."
            for blocks in splits
        ]
    return out


def size_against_latency(r: Report) -> list[str]:
    """One sentence per mode that sets its size ratio beside its speed-ups: does latency follow size?"""
    out = []
    for position in range(len(r.variants)):
        cells = [c for c in r.cells if c.position == position]
        speedups = [c.speedup for c in cells if c.speedup]
        if not speedups or not cells[0].size_ratio:
            continue
        size_ratio, name = cells[0].size_ratio, _bold(r, position)
        low, high = min(i.value for i in speedups), max(i.value for i in speedups)
        span = f"{low:.2f}" if high / low < 1.01 else f"{low:.2f} to {high:.2f}"
        if abs(size_ratio - 1) < 0.05:
            out.append(f"{name} is as large as the baseline, and {span} times as fast.")
        else:
            size = f"{size_ratio:.2f} times smaller" if size_ratio > 1 else f"{1 / size_ratio:.2f} times larger"
            out.append(f"{name} is {size} and {span} times as fast. {_verdict(size_ratio, speedups)}")
    return out


def _bold(r: Report, position: int) -> str:
    return f"**{plain(label(r.run, position))}**"


def _verdict(size_ratio: float, speedups: list[Interval]) -> str:
    """Judge by the intervals whether latency follows size."""
    lows = [i.low for i in speedups if i.low is not None]
    highs = [i.high for i in speedups if i.high is not None]
    if len(lows) < len(speedups) or len(highs) < len(speedups):
        return "Too few rounds were measured to judge it."
    if all(low <= size_ratio <= high for low, high in zip(lows, highs, strict=True)):
        if any(i.half_width_ratio > WIDE for i in speedups):
            return "The intervals are too wide to judge it: measure again while the device is quiet."
        return "These figures agree with a latency that follows size."
    if size_ratio > 1 and min(lows) > 1:
        always_less = all(high < size_ratio for high in highs)
        return "Smaller and faster, as expected, but " + (
            "the speed-up is less than the size ratio: latency follows size only in part."
            if always_less
            else "the speed does not follow the size in proportion."
        )
    if min(lows) > 1:
        return "Larger and yet faster: latency does not follow size here."
    if max(lows) <= 1:
        return "No gain in speed can be shown: latency does not follow size here."
    return "Whether it is faster depends on the input: latency does not simply follow size."


def _smaller(ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) < 0.005:
        return "no smaller"
    return f"{ratio:.2f} times smaller" if ratio > 1 else f"{1 / ratio:.2f} times larger"
