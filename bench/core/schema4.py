"""Schema 4: sizes on an axis in place of lengths, placements in place of thread counts, predictions, phases of a pass.

What a row of JSON held under the old names is kept under the new ones; nothing is dropped.
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
# What a length meant to the only family that there was.
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
    """Bring a database from schema 3 to schema 4. A row that can't be read stays as it is, damaged as it was."""
    for statement in _COLUMNS:
        db.execute(statement)
    _rewrite(db, "run", "spec", _spec)
    _rewrite(db, "transcript", "texts", _texts)


def _rewrite(db: sqlite3.Connection, table: str, column: str, change: Any) -> None:
    for rowid, text in db.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
        try:
            changed = change(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (json.dumps(changed, ensure_ascii=False), rowid))


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    changed = {**spec, "variants": [_variant(v) for v in spec["variants"]]}
    if "lengths_s" not in spec:  # an evaluation
        return {**changed, "task": "transcription"}
    changed["sizes"] = changed.pop("lengths_s")
    return {**changed, "axis": _AXIS}


def _texts(texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**text, "variant": _variant(text["variant"])} for text in texts]


def _variant(variant: dict[str, Any]) -> dict[str, Any]:
    changed = dict(variant)
    changed["placement"] = {"device": "cpu", "threads": changed.pop("threads")}
    return changed
