"""The database's schema as migrations, from its first version to the current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from bench.core import schema4

# The entry at index N migrates a database from version N to N + 1. It is SQL, or a function that is called within the
# transaction. Never change an entry that was released.
MIGRATIONS: tuple[str | Callable[[sqlite3.Connection], None], ...] = (
    """
    CREATE TABLE meta (revision INTEGER NOT NULL);
    INSERT INTO meta VALUES (0);
    CREATE TABLE run (
        id TEXT PRIMARY KEY, created_s REAL NOT NULL, state TEXT NOT NULL, spec TEXT NOT NULL, device TEXT NOT NULL,
        message TEXT, started_s REAL, finished_s REAL);
    CREATE TABLE variant (
        run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, position INTEGER NOT NULL,
        artefact TEXT, opening TEXT, coverage TEXT, PRIMARY KEY (run_id, position));
    CREATE TABLE failure (
        id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, variant INTEGER,
        stage TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL, log TEXT NOT NULL,
        superseded INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE measured_group (
        id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, model TEXT NOT NULL,
        threads INTEGER NOT NULL, batch INTEGER NOT NULL, length_s REAL NOT NULL, variants TEXT NOT NULL,
        state TEXT NOT NULL, ended TEXT);
    CREATE TABLE visit (
        id INTEGER PRIMARY KEY, group_id INTEGER NOT NULL REFERENCES measured_group ON DELETE CASCADE,
        variant INTEGER NOT NULL, round INTEGER NOT NULL, position INTEGER NOT NULL, started_s REAL NOT NULL,
        reading TEXT NOT NULL, UNIQUE (group_id, variant, round));
    CREATE TABLE pass (
        visit_id INTEGER NOT NULL REFERENCES visit ON DELETE CASCADE, position INTEGER NOT NULL, kind TEXT NOT NULL,
        seconds REAL NOT NULL, PRIMARY KEY (visit_id, position)) WITHOUT ROWID;
    CREATE INDEX group_of_run ON measured_group (run_id);
    CREATE INDEX failure_of_run ON failure (run_id);
    """,
    """
    ALTER TABLE run ADD COLUMN kind TEXT NOT NULL DEFAULT 'benchmark';
    CREATE TABLE clip (
        run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, position INTEGER NOT NULL, id TEXT NOT NULL,
        path TEXT NOT NULL, text TEXT NOT NULL, length_s REAL, PRIMARY KEY (run_id, position));
    CREATE TABLE heard (
        run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, variant INTEGER NOT NULL, clip INTEGER NOT NULL,
        seconds REAL NOT NULL, transcription TEXT NOT NULL, PRIMARY KEY (run_id, variant, clip));
    CREATE TABLE transcript (
        id INTEGER PRIMARY KEY, created_s REAL NOT NULL, source TEXT NOT NULL, length_s REAL NOT NULL,
        reference TEXT NOT NULL, audio TEXT, texts TEXT NOT NULL);
    """,
    """
    ALTER TABLE heard ADD COLUMN paired INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE transcript ADD COLUMN device TEXT;
    """,
    schema4.migrate,
    # A group's number within what it was measured with: null for one measured here, whose number is its id.
    """
    ALTER TABLE measured_group ADD COLUMN number INTEGER;
    ALTER TABLE run ADD COLUMN imported_s REAL;
    """,
)


def apply(db: sqlite3.Connection, version: int, steps: tuple[str | Callable[[sqlite3.Connection], None], ...]) -> None:
    """Migrate a database from a version to the newest one, within the caller's open transaction."""
    for step in steps[version:]:
        if callable(step):
            step(db)
            continue
        for statement in filter(str.strip, step.split(";")):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(steps)}")
