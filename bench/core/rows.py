"""Rows of the store's tables from records and back, within the store's transactions: a part of its SQL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable

from bench.core.bundle import Bundle
from bench.core.codec import from_json, to_json
from bench.core.records import ClipRecord, Failure, Group, Pass, Prediction, Reading, Visit
from bench.core.specs import Placement


def insert_visit(db: sqlite3.Connection, group_id: int, visit: Visit) -> None:
    """Insert a visit with its passes."""
    row = db.execute(
        "INSERT INTO visit (group_id, variant, round, position, started_s, reading) VALUES (?, ?, ?, ?, ?, ?) "
        "RETURNING id",
        (group_id, visit.variant, visit.round, visit.position, visit.started_s, to_json(visit.reading)),
    ).fetchone()
    db.executemany(
        "INSERT INTO pass (visit_id, position, kind, seconds, phases) VALUES (?, ?, ?, ?, ?)",
        [
            (row[0], i, p.kind, p.seconds, json.dumps(p.phases) if p.phases else None)
            for i, p in enumerate(visit.passes)
        ],
    )


def insert_failures(db: sqlite3.Connection, run_id: str, failures: Iterable[Failure], *, superseded: bool) -> None:
    """Insert failures of a run."""
    db.executemany(
        "INSERT INTO failure (run_id, variant, stage, kind, message, log, superseded) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(run_id, f.variant, f.stage, f.kind, f.message, f.log, superseded) for f in failures],
    )


def insert_clips(db: sqlite3.Connection, run_id: str, clips: Iterable[ClipRecord]) -> None:
    """Insert the clips of an evaluation."""
    db.executemany(
        "INSERT INTO clip (run_id, position, id, path, text, length_s) VALUES (?, ?, ?, ?, ?, ?)",
        [(run_id, c.position, c.id, c.path, c.text, c.length_s) for c in clips],
    )


def insert_predictions(db: sqlite3.Connection, run_id: str, predictions: Iterable[Prediction]) -> None:
    """Insert predictions, or replace those of the same clip and variant."""
    db.executemany(
        "INSERT OR REPLACE INTO prediction (run_id, variant, clip, seconds, output, paired) VALUES (?, ?, ?, ?, ?, ?)",
        [(run_id, p.variant, p.clip, p.seconds, to_json(p.output), p.paired) for p in predictions],
    )


def insert_bundle(db: sqlite3.Connection, kind: str, bundle: Bundle) -> None:
    """Insert a run or an evaluation with all its parts, as imported now."""
    r = bundle.record
    columns = ("id", "kind", "created_s", "state", "spec", "device", "message", "started_s", "finished_s")
    db.execute(
        f"INSERT INTO run ({', '.join(columns)}, imported_s) VALUES ({'?, ' * len(columns)}?)",
        (
            *(r.id, kind, r.created_s, r.state, to_json(r.spec), to_json(r.device)),
            *(r.message, r.started_s, r.finished_s, time.time()),
        ),
    )
    db.executemany(
        "INSERT INTO variant (run_id, position, artefact, opening, coverage) VALUES (?, ?, ?, ?, ?)",
        [
            (r.id, i, *(to_json(x) if x else None for x in (v.artefact, v.opening, v.coverage)))
            for i, v in enumerate(bundle.variants)
        ],
    )
    for g in bundle.groups:
        row = db.execute(
            "INSERT INTO measured_group (run_id, model, placement, batch, size, variants, state, ended, "
            "number) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (r.id, g.model, str(g.placement), g.batch, g.size, json.dumps(g.variants), g.state, g.ended, g.id),
        ).fetchone()
        for visit in g.visits:
            insert_visit(db, row[0], visit)
    insert_failures(db, r.id, bundle.superseded_failures, superseded=True)
    insert_failures(db, r.id, bundle.failures, superseded=False)
    insert_clips(db, r.id, bundle.clips)
    insert_predictions(db, r.id, bundle.predictions)


def groups(db: sqlite3.Connection, run_id: str, *, superseded: bool) -> list[Group]:
    """The groups of a run with visits and passes, in the order they were started; read them within a snapshot."""
    passes: dict[int, list[Pass]] = {}
    for row in db.execute(
        "SELECT p.visit_id, p.kind, p.seconds, p.phases FROM pass p JOIN visit v ON v.id = p.visit_id "
        "JOIN measured_group g ON g.id = v.group_id WHERE g.run_id = ? ORDER BY p.visit_id, p.position",
        (run_id,),
    ):
        phases = tuple((name, seconds) for name, seconds in json.loads(row["phases"])) if row["phases"] else ()
        passes.setdefault(row["visit_id"], []).append(Pass(row["kind"], row["seconds"], phases))
    visits: dict[int, list[Visit]] = {}
    for row in db.execute(
        "SELECT v.* FROM visit v JOIN measured_group g ON g.id = v.group_id WHERE g.run_id = ? ORDER BY v.id",
        (run_id,),
    ):
        visits.setdefault(row["group_id"], []).append(
            Visit(
                variant=row["variant"],
                round=row["round"],
                position=row["position"],
                started_s=row["started_s"],
                passes=tuple(passes.get(row["id"], ())),
                reading=from_json(row["reading"], Reading),
            )
        )
    return [
        Group(
            id=row["id"] if row["number"] is None else row["number"],
            model=row["model"],
            placement=Placement.parse(row["placement"]),
            batch=row["batch"],
            size=row["size"],
            variants=tuple(json.loads(row["variants"])),
            state=row["state"],
            ended=row["ended"],
            visits=tuple(visits.get(row["id"], ())),
        )
        for row in db.execute("SELECT * FROM measured_group WHERE run_id = ? ORDER BY id", (run_id,))
        if superseded or row["state"] != "superseded"
    ]
