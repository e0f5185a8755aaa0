"""A run's answer in sentences: what was gained, and whether latency follows size."""

from __future__ import annotations

from bench.report import Report


def headline(r: Report) -> str | None:
    """The run in one sentence: the fastest quantized mode at the longest input; None before there is one."""
    cells = [c for c in r.cells if c.speedup and c.size_ratio]
    if not cells:
        return None
    longest = max(c.batch * c.length_s for c in cells)
    best = max((c for c in cells if c.batch * c.length_s == longest), key=lambda c: c.speedup.value if c.speedup else 0)
    v, i, baseline = best.record.variant, best.speedup, r.run.spec.variants[best.group.variants[0]].mode
    assert i
    known = i.low is not None and i.high is not None
    interval = f" (95 % interval {i.low:.2f} to {i.high:.2f})" if known else ""
    on = f"on {best.length_s:g} s of audio" + (f" in batches of {best.batch}" if best.batch > 1 else "")
    smaller = f"On {r.run.device.name}, {v.mode} makes {v.model} {_smaller(best.size_ratio)}"
    if i.low is not None and i.high is not None and i.low <= 1 <= i.high:
        return f"{smaller}; whether it is faster than {baseline} {on} can't be told{interval}."
    return f"{smaller} and {i.value:.2f} times as fast{interval} as {baseline} {on}."


def size_against_latency(r: Report) -> list[str]:
    """For every mode: if latency followed size, it would be so many times faster; it is."""
    out = []
    for position, record in enumerate(r.variants):
        cells = [c for c in r.cells if c.position == position and c.speedup]
        if not cells or not cells[0].size_ratio:
            continue
        ratios = [c.speedup.value for c in cells if c.speedup]
        low, high, smaller = min(ratios), max(ratios), cells[0].size_ratio
        span = f"{low:.2f} times" if high / low < 1.01 else f"{low:.2f} to {high:.2f} times"
        v = record.variant
        where = "" if len(r.run.spec.families) == 1 else f" of {v.model} with {v.threads} threads"
        if smaller < 1.05:
            out.append(f"**{v.mode}**{where} is about as large as the original and runs at {span} its speed.")
            continue
        verdict = (
            "Smaller and faster, as supposed, but the speed does not follow the size in proportion."
            if low > 1.02 and not (low / smaller > 0.9 and high / smaller < 1.1)
            else "Latency follows size closely here."
            if low > 1.02
            else "It got smaller without getting faster: latency does not follow size here."
        )
        out.append(f"**{v.mode}**{where} is {smaller:.2f} times smaller and {span} as fast. {verdict}")
    return out


def _smaller(ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) < 0.005:
        return "no smaller"
    return f"{ratio:.2f} times smaller" if ratio > 1 else f"{1 / ratio:.2f} times larger"
