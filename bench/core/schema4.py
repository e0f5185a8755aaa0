"""Schema 4: sizes on an axis replace lengths, placements replace thread counts; adds predictions and phases of a pass.

Values in JSON columns move from the old keys to the new ones. Nothing is dropped.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

_COLUMNS = (
    "ALTER TABLE measured_group RENAME COLUMN length_s TO size",
    "ALTER TABLE measured_group ADD COLUMN placement TEXT NOT NULL DEFAULT 'cpu/1'",
    "UPDATE measured_group SET placement = 'cpu/' || threads",
    "ALTER TABLE measured_group DROP COLUMN threads",
    "ALTER TABLE heard RENAME TO prediction",
    "ALTER TABLE prediction RENAME COLUMN transcription TO output",
    "ALTER TABLE pass ADD COLUMN phases TEXT",
)
# The axis of the only family that existed before schema 4.
_AXIS = {
    "name": "length",
    "unit": "s",
    "label": "Input length",
    "low": 0.1,
    "high": 60.0,
    "defaults": [1.0, 5.0],
    "sweep": [1.0, 2.0, 5.0, 10.0, 20.0],
}


def migrate(db: sqlite3.Connection) -> None:
    """Migrate a database from schema 3 to schema 4. A damaged row, which can't be parsed, stays unchanged."""
    for statement in _COLUMNS:
        db.execute(statement)
    _rewrite(db, "run", "spec", _spec)
    _rewrite(db, "transcript", "texts", _texts)


def _rewrite(db: sqlite3.Connection, table: str, column: str, convert: Any) -> None:
    rows = db.execute(f"SELECT rowid, CAST({column} AS BLOB) FROM {table}").fetchall()  # damaged text may be no UTF-8
    for rowid, text in rows:
        try:
            value = convert(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (json.dumps(value, ensure_ascii=False), rowid))


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    new_spec = {**spec, "variants": [_variant(v) for v in spec["variants"]]}
    if "lengths_s" not in spec:  # an evaluation
        return {**new_spec, "task": "transcription"}
    new_spec["sizes"] = new_spec.pop("lengths_s")
    return {**new_spec, "axis": _AXIS}


def _texts(texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**text, "variant": _variant(text["variant"])} for text in texts]


def _variant(variant: dict[str, Any]) -> dict[str, Any]:
    new_variant = dict(variant)
    new_variant["placement"] = {"device": "cpu", "threads": new_variant.pop("threads")}
    return new_variant
