"""Lists that people type, for the command line and the pages."""

from __future__ import annotations

from bench.core.specs import Axis, Placement, SpecError


def names(text: str, what: str = "Names") -> list[str]:
    """What stands between commas; `what` names it in the error. Raises SpecError where there is none."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise SpecError(f"{what}: nothing was given. Allowed: one or several, separated by commas.")
    return found


def sizes(text: str, axis: Axis) -> list[float]:
    """Sizes separated by commas, and ranges FROM:TO:HOW_MANY: `1,2,5`, `1:20:5`. Raises SpecError."""
    allowed = f"Allowed: {axis.units} separated by commas, such as 1,2,5, or a range from:to:how many, such as 1:20:5."
    found: list[float] = []
    for part in names(text, axis.label):
        try:
            if ":" in part:
                first, last, count = part.split(":")
                found += _spread(float(first), float(last), int(count))
            else:
                found.append(float(part))
        except ValueError as e:
            raise SpecError(f"{axis.label}: got “{part}”. {allowed}") from e
    return found


def whole_numbers(text: str, what: str) -> list[int]:
    """Whole numbers separated by commas; `what` names them in the error. Raises SpecError."""
    try:
        return [int(part) for part in names(text, what)]
    except ValueError as e:
        raise SpecError(f"{what}: got “{text}”. Allowed: whole numbers separated by commas, such as 1,2,4.") from e


def placements(text: str) -> list[Placement]:
    """Thread counts or placements separated by commas: `1,2`, `cpu/2`. Raises SpecError."""
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
