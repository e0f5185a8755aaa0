"""Records to and from JSON, by msgspec: types are checked, and an error names the place of the wrong value.

A key that a record does not have is an error too: it would be lost. Needs only msgspec.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from bench.core.errors import EarbenchError

T = TypeVar("T")


class RecordError(EarbenchError, ValueError):
    """A value is not what a record needs, as the end of a sentence."""


def to_plain(record: Any) -> Any:
    """A record as dicts, lists, texts and numbers, with keys in field order."""
    return msgspec.to_builtins(record)


def to_json(record: Any) -> str:
    """A record as JSON, with keys in field order."""
    return json.dumps(to_plain(record), ensure_ascii=False)


def from_plain(value: Any, kind: type[T]) -> T:
    """The inverse of `to_plain`. Raises RecordError, or the error of a record's own checks."""
    try:
        record = msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise RecordError(str(e)) from e
    if place := _left_over(value, to_plain(record), "$"):
        raise RecordError(f"Unknown key - at `{place}`")
    return record


def from_json(text: str, kind: type[T]) -> T:
    """The inverse of `to_json`. Raises RecordError, or the error of a record's own checks."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise RecordError(f"not JSON ({e})") from e
    return from_plain(value, kind)


def _left_over(value: Any, plain: Any, place: str) -> str:
    """The path of the first key that is in `value` and not in `plain`; "" if there is none."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in plain:
                return f"{place}.{key}"
            if deeper := _left_over(item, plain[key], f"{place}.{key}"):
                return deeper
    elif isinstance(value, (list, tuple)):
        for i, (item, other) in enumerate(zip(value, plain, strict=True)):
            if deeper := _left_over(item, other, f"{place}[{i}]"):
                return deeper
    return ""
