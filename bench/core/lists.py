"""Parsers for lists that users type, for the command line and the pages."""

from __future__ import annotations

from bench.core.specs import Axis, Placement, SpecError


def names(text: str, what: str = "Names") -> list[str]:
    """Non-empty parts between commas; `what` names the list in the error. Raises SpecError if there are none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise SpecError(f"{what}: nothing was given. Allowed: one or several, separated by commas.")
    return parts


def sizes(text: str, axis: Axis) -> list[float]:
    """Sizes separated by commas, and ranges FROM:TO:COUNT, such as `1,2,5` and `1:20:5`. Raises SpecError."""
    allowed = f"Allowed: {axis.units} separated by commas, such as 1,2,5, or a range from:to:how many, such as 1:20:5."
    values: list[float] = []
    for part in names(text, axis.label):
        try:
            if ":" in part:
                first, last, count = part.split(":")
                values += _spread(float(first), float(last), int(count))
            else:
                values.append(float(part))
        except ValueError as e:
            raise SpecError(f"{axis.label}: got “{part}”. {allowed}") from e
    return values


def whole_numbers(text: str, what: str) -> list[int]:
    """Whole numbers separated by commas; `what` names the list in the error. Raises SpecError."""
    try:
        return [int(part) for part in names(text, what)]
    except ValueError as e:
        raise SpecError(f"{what}: got “{text}”. Allowed: whole numbers separated by commas, such as 1,2,4.") from e


def placements(text: str) -> list[Placement]:
    """Thread counts or placements separated by commas, such as `1,2` or `cpu/2`. Raises SpecError."""
    try:
        return [Placement.parse(part) for part in names(text, "Threads")]
    except SpecError as e:
        raise SpecError(
            f"Threads: got “{text}”. Allowed: whole numbers separated by commas, such as 1,2,4, or placements such as "
            "cpu/2."
        ) from e


def _spread(first: float, last: float, count: int) -> list[float]:
    if not 2 <= count <= 100 or last <= first:
        raise ValueError
    step = (last - first) / (count - 1)
    return [round(first + i * step, 3) for i in range(count)]
