"""The SQLite store. Takes raw passes, returns records; no statistic is stored. More SQL: `rows`, and the migrations.

Every write is one transaction with `synchronous=FULL`, so committed data survives a power cut. `revision` grows with
each write: a reader that has seen the current one need not read again.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from bench.core import migrations, records, rows
from bench.core.bundle import VERSION, Bundle
from bench.core.codec import from_json, to_json
from bench.core.errors import EarbenchError
from bench.core.lease import NAME as LEASE_NAME
from bench.core.lease import WAIT_S, Lease
from bench.core.migrations import MIGRATIONS
from bench.core.records import (
    Artefact,
    ClipRecord,
    Coverage,
    Device,
    Evaluation,
    Failure,
    Group,
    Opening,
    Prediction,
    Run,
    RunState,
    Transcript,
    VariantRecord,
    VariantText,
    Visit,
)
from bench.core.specs import EvaluationSpec, Placement, RunSpec

_KINDS = {RunSpec: "benchmark", EvaluationSpec: "evaluation"}
T = TypeVar("T")


class StoreError(EarbenchError):
    """The database can't do what was requested."""


class Store:
    """The database of a data folder. Safe to use from several threads and processes.

    Every method that writes raises StoreError if the write fails, for example on a full disk; then nothing changed.
    """

    def __init__(self, path: Path) -> None:
        """Open the database; create or migrate it if needed. Raises StoreError for one of a newer Earbench."""
        self.path = path
        self._local = threading.local()
        self._migrate()

    def revision(self) -> int:
        """A number that grows with every write."""
        return int(self._db.execute("SELECT revision FROM meta").fetchone()[0])

    # --- runs

    def create_run(self, spec: RunSpec | EvaluationSpec, device: Device) -> str:
        """Create a run or an evaluation in the state `preparing`; returns its id, which sorts by time."""
        now = time.time()
        run_id = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + "-" + secrets.token_hex(2)
        with self._write() as db:
            db.execute(
                "INSERT INTO run (id, kind, created_s, state, spec, device) VALUES (?, ?, ?, 'preparing', ?, ?)",
                (run_id, _KINDS[type(spec)], now, to_json(spec), to_json(device)),
            )
            db.executemany(
                "INSERT INTO variant (run_id, position) VALUES (?, ?)", [(run_id, i) for i in range(len(spec.variants))]
            )
        return run_id

    def set_state(self, run_id: str, state: RunState, message: str | None = None) -> None:
        """Set a run's state. The first `running` sets the start time; an end state sets the finish time.

        `cancelling` has no effect on a finished run, nor `running` on one that is being cancelled.
        """
        now = time.time()
        finished_s = None if state in records.LIVE_STATES else now
        with self._write() as db:
            db.execute(
                "UPDATE run SET state = ?, message = ?, finished_s = ?, "
                "started_s = CASE WHEN started_s IS NULL AND ? = 'running' THEN ? ELSE started_s END WHERE id = ? AND "
                "NOT (? = 'cancelling' AND finished_s IS NOT NULL) AND NOT (? = 'running' AND state = 'cancelling')",
                (state, message, finished_s, state, now, run_id, state, state),
            )

    def interrupt_live(self, message: str) -> list[str]:
        """Mark all runs in a live state as interrupted; returns their ids. Only for the holder of the lease."""
        stored = self._db.execute("SELECT id, state FROM run").fetchall()
        run_ids = [row["id"] for row in stored if row["state"] in records.LIVE_STATES]
        for run_id in run_ids:
            self.set_state(run_id, "interrupted", message)
        return run_ids

    def run(self, run_id: str) -> Run | None:
        """A benchmark run, or None. Raises StoreError if it is damaged."""
        return next((_run(row) for row in self._rows("benchmark", run_id)), None)

    def runs(self) -> list[Run]:
        """All benchmark runs that can be read, newest first."""
        return list(_readable(_run, self._rows("benchmark")))

    def evaluation(self, run_id: str) -> Evaluation | None:
        """An evaluation, or None. Raises StoreError if it is damaged."""
        return next((_evaluation(row) for row in self._rows("evaluation", run_id)), None)

    def evaluations(self) -> list[Evaluation]:
        """All evaluations that can be read, newest first."""
        return list(_readable(_evaluation, self._rows("evaluation")))

    def damaged(self) -> list[str]:
        """The ids of the runs and evaluations that can't be read and so are in no list."""
        readable_ids = {*(run.id for run in self.runs()), *(e.id for e in self.evaluations())}
        return [row["id"] for kind in _KINDS.values() for row in self._rows(kind) if row["id"] not in readable_ids]

    def delete_run(self, run_id: str) -> None:
        """Delete a run or an evaluation and all its rows. Raises StoreError while it is live."""
        with self._write() as db:
            row = db.execute("SELECT state FROM run WHERE id = ?", (run_id,)).fetchone()
            if row and row["state"] in records.LIVE_STATES:
                raise StoreError(f"Run {run_id} is {row['state']}; cancel it before deleting it.")
            db.execute("DELETE FROM run WHERE id = ?", (run_id,))

    # --- variants and failures

    def set_variant(
        self,
        run_id: str,
        position: int,
        *,
        artefact: Artefact | None = None,
        opening: Opening | None = None,
        coverage: Coverage | None = None,
    ) -> None:
        """Update a variant's record; arguments that are None leave the stored value unchanged."""
        values = [None if x is None else to_json(x) for x in (artefact, opening, coverage)]
        with self._write() as db:
            db.execute(
                "UPDATE variant SET artefact = coalesce(?, artefact), opening = coalesce(?, opening), "
                "coverage = coalesce(?, coverage) WHERE run_id = ? AND position = ?",
                (*values, run_id, position),
            )

    def variants(self, run: Run | Evaluation) -> list[VariantRecord]:
        """The variants of a run, in the spec's order."""
        stored = self._db.execute("SELECT * FROM variant WHERE run_id = ? ORDER BY position", (run.id,))
        return [
            VariantRecord(
                variant=run.spec.variants[row["position"]],
                artefact=from_json(row["artefact"], Artefact) if row["artefact"] else None,
                opening=from_json(row["opening"], Opening) if row["opening"] else None,
                coverage=from_json(row["coverage"], Coverage) if row["coverage"] else None,
            )
            for row in stored
        ]

    def add_failure(self, run_id: str, failure: Failure) -> None:
        """Store a failure with its run."""
        with self._write() as db:
            rows.insert_failures(db, run_id, [failure], superseded=False)

    def failures(self, run_id: str, *, superseded: bool = False) -> list[Failure]:
        """The failures of a run in order, or only the superseded ones."""
        query = "SELECT * FROM failure WHERE run_id = ? AND superseded = ? ORDER BY id"
        stored = self._db.execute(query, (run_id, superseded))
        return [Failure(r["variant"], r["stage"], r["kind"], r["message"], r["log"]) for r in stored]

    # --- groups and visits

    def start_group(
        self, run_id: str, model: str, placement: Placement, batch: int, size: float, variants: Sequence[int]
    ) -> int:
        """Create a group; returns its id. In an imported run its number is above those that the run came with."""
        with self._write() as db:
            row = db.execute(
                "INSERT INTO measured_group (run_id, model, placement, batch, size, variants, state, number) "
                "VALUES (?, ?, ?, ?, ?, ?, 'running', (SELECT MAX(COALESCE(g.number, g.id)) + 1 FROM measured_group g "
                "JOIN run ON run.id = g.run_id WHERE run.id = ? AND run.imported_s IS NOT NULL)) RETURNING id",
                (run_id, model, str(placement), batch, size, json.dumps(list(variants)), run_id),
            ).fetchone()
            return int(row[0])

    def end_group(self, group_id: int, ended: str) -> None:
        """Mark a group as done; `ended` is the reason why it ended."""
        with self._write() as db:
            db.execute("UPDATE measured_group SET state = 'done', ended = ? WHERE id = ?", (ended, group_id))

    def supersede_unfinished(self, run_id: str) -> None:
        """Mark the unfinished groups and the failures of a run as superseded, when the run is resumed.

        A resumed variant can't be paired with old baseline passes, and variants that failed are tried again.
        """
        with self._write() as db:
            db.execute("UPDATE failure SET superseded = 1 WHERE run_id = ?", (run_id,))
            db.execute(
                "UPDATE measured_group SET state = 'superseded' WHERE run_id = ? AND state = 'running'", (run_id,)
            )

    def add_visit(self, group_id: int, visit: Visit) -> None:
        """Store a visit with its passes in one commit."""
        with self._write() as db:
            rows.insert_visit(db, group_id, visit)

    def groups(self, run_id: str, *, superseded: bool = False) -> list[Group]:
        """The groups of a run with visits and passes, in the order they were started."""
        with self.snapshot():
            return rows.groups(self._db, run_id, superseded=superseded)

    # --- evaluations

    def set_clips(self, run_id: str, clips: Sequence[ClipRecord]) -> None:
        """Store the clips of an evaluation, once at its start."""
        with self._write() as db:
            rows.insert_clips(db, run_id, clips)

    def clips(self, run_id: str) -> list[ClipRecord]:
        """The clips of an evaluation, in order."""
        stored = self._db.execute("SELECT * FROM clip WHERE run_id = ? ORDER BY position", (run_id,))
        return [ClipRecord(r["position"], r["id"], r["path"], r["text"], r["length_s"]) for r in stored]

    def add_predictions(self, run_id: str, length_s: float, predictions: Sequence[Prediction]) -> None:
        """Store the variants' predictions for one clip, and the clip's length, in one commit."""
        with self._write() as db:
            rows.insert_predictions(db, run_id, predictions)
            db.execute(
                "UPDATE clip SET length_s = ? WHERE run_id = ? AND position = ?",
                (length_s, run_id, predictions[0].clip),
            )

    def predictions(self, run_id: str, output: Callable[[Any], Any] = records.transcription_from) -> list[Prediction]:
        """All predictions of an evaluation, by clip and variant; `output` turns the parsed JSON into a record."""
        stored = self._db.execute("SELECT * FROM prediction WHERE run_id = ? ORDER BY clip, variant", (run_id,))
        return [
            Prediction(r["variant"], r["clip"], r["seconds"], output(json.loads(r["output"])), bool(r["paired"]))
            for r in stored
        ]

    # --- bundles

    def bundle(self, run_id: str) -> Bundle:
        """A run or an evaluation with everything that is stored of it, from one snapshot.

        Raises StoreError if there is none, if it is damaged, and while it is live.
        """
        with self.snapshot():
            run, evaluation = self.run(run_id), self.evaluation(run_id)
            record = run or evaluation
            if record is None:
                raise StoreError(f"There is no run {run_id}. `python -m bench runs` lists them.")
            if record.state in records.LIVE_STATES:
                raise StoreError(
                    f"{run_id} is {record.state}; only what has ended can be taken along as a bundle. Wait for it to "
                    "end, or cancel it."
                )
            return Bundle(
                earbench_bundle=VERSION,
                run=run,
                evaluation=evaluation,
                variants=tuple(self.variants(record)),
                groups=tuple(rows.groups(self._db, run_id, superseded=True)),
                failures=tuple(self.failures(run_id)),
                superseded_failures=tuple(self.failures(run_id, superseded=True)),
                clips=tuple(self.clips(run_id)),
                predictions=tuple(self.predictions(run_id, lambda plain: plain)),
            )

    def add_bundle(self, bundle: Bundle) -> bool:
        """Store what a checked bundle holds, in one commit; False, and no change, if it is here already.

        Raises StoreError if another run with its id is here.
        """
        r = bundle.record
        with self._write() as db:
            if db.execute("SELECT 1 FROM run WHERE id = ?", (r.id,)).fetchone():
                if self.bundle(r.id) != bundle:
                    raise StoreError(
                        f"{bundle.what} is here already with other content, so one of both was changed. Nothing was "
                        "imported: delete the one that is here first if you trust the file more."
                    )
                return False
            rows.insert_bundle(db, _KINDS[type(r.spec)], bundle)
            return True

    def imported(self) -> dict[str, float]:
        """When each imported run or evaluation was imported, in seconds since the epoch, by id."""
        stored = self._db.execute("SELECT id, imported_s FROM run WHERE imported_s IS NOT NULL")
        return {row["id"]: row["imported_s"] for row in stored}

    # --- transcripts

    def add_transcript(self, transcript: Transcript) -> int:
        """Store a transcript; returns its new id. The id in the record is ignored."""
        t = transcript
        with self._write() as db:
            row = db.execute(
                "INSERT INTO transcript (created_s, source, length_s, reference, audio, texts, device) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    t.created_s,
                    t.source,
                    t.length_s,
                    t.reference,
                    t.audio,
                    to_json(t.texts),
                    to_json(t.device) if t.device else None,
                ),
            ).fetchone()
            return int(row[0])

    def transcripts(self) -> list[Transcript]:
        """All transcripts, newest first."""
        return [
            Transcript(
                id=r["id"],
                created_s=r["created_s"],
                source=r["source"],
                length_s=r["length_s"],
                reference=r["reference"],
                audio=r["audio"],
                texts=from_json(r["texts"], tuple[VariantText, ...]),
                device=from_json(r["device"], Device) if r["device"] else None,
            )
            for r in self._db.execute("SELECT * FROM transcript ORDER BY id DESC")
        ]

    def set_reference(self, transcript_id: int, reference: str) -> None:
        """Set the reference text of a transcript."""
        with self._write() as db:
            db.execute("UPDATE transcript SET reference = ? WHERE id = ?", (reference, transcript_id))

    def delete_transcript(self, transcript_id: int) -> None:
        """Delete a transcript."""
        with self._write() as db:
            db.execute("DELETE FROM transcript WHERE id = ?", (transcript_id,))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read a consistent snapshot within the block, whatever others write meanwhile. May be nested."""
        db = self._db
        if db.in_transaction:
            yield
            return
        db.execute("BEGIN")
        try:
            yield
        finally:
            db.execute("COMMIT")

    # --- plumbing

    def _rows(self, kind: str, run_id: str | None = None) -> list[Any]:
        id_clause, arguments = (" AND id = ?", (kind, run_id)) if run_id is not None else ("", (kind,))
        query = f"SELECT * FROM run WHERE kind = ?{id_clause} ORDER BY created_s DESC, rowid DESC"
        return self._db.execute(query, arguments).fetchall()

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's connection, opened on first use."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            self._local.db = db
        connection: sqlite3.Connection = self._local.db
        return connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                before = db.total_changes
                yield db
                if db.total_changes > before:
                    db.execute("UPDATE meta SET revision = revision + 1")
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite rolls back by itself if the disk is full
                    db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as e:
            raise StoreError(
                f"{self.path} can't be written ({e}). Free some space there, see that the folder is writable and no "
                "other program holds it, then try again."
            ) from e

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the data folder's lease within the block. Raises StoreError if a job, of an older Earbench, holds it."""
        lease = Lease(self.path.with_name(LEASE_NAME))
        try:
            held = lease.try_take("bringing the database up to date", WAIT_S)
        except OSError as e:
            raise StoreError(
                f"{self.path} can't be locked to bring it up to date ({e}). Is the folder writable?"
            ) from e
        if held is None:
            raise StoreError(
                f"{self.path} is of an older Earbench, which is still at work with it. {lease.sentence()} Wait for "
                "that, or cancel it there, then start this Earbench again: it will bring the database up to date."
            )
        with held:
            yield

    def _copy(self, version: int) -> None:
        """Copy the unmigrated database to a file beside it, for an older Earbench. Raises StoreError."""
        backup = self.path.with_name(f"{self.path.name}.schema{version}")
        try:
            with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(backup)) as target:
                source.backup(target)
        except sqlite3.Error as e:
            raise StoreError(
                f"{self.path} is of an older Earbench and can't be copied to {backup} before it is brought up to date "
                f"({e}). Free some space there, then start again."
            ) from e

    def _migrate(self) -> None:
        try:
            db = self._db
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as e:
            raise StoreError(
                f"{self.path} can't be used now ({e}). Is the folder writable, or another program in it?"
            ) from e
        except sqlite3.DatabaseError as e:
            raise StoreError(
                f"{self.path} can't be opened as Earbench's database ({e}). Move it away to start anew."
            ) from e
        try:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"{self.path} was written by a newer Earbench (schema {version}; this one knows "
                    f"{len(MIGRATIONS)}). Update Earbench, or name another folder in EARBENCH_DATA."
                )
            is_old = 0 < version < len(MIGRATIONS)
            with self._exclusive() if is_old else nullcontext():
                if is_old:
                    self._copy(version)
                migrations.apply(db, version, MIGRATIONS)
                db.execute("COMMIT")
        except BaseException as e:
            if db.in_transaction:  # SQLite rolls back by itself if the disk is full
                db.execute("ROLLBACK")
            if isinstance(e, sqlite3.Error):
                raise StoreError(
                    f"{self.path} can't be brought up to date ({e}); it is as it was. Free some space there and see "
                    "that the folder is writable, then start again."
                ) from e
            raise


def _run(row: Any) -> Run:
    with _parsing(row):
        return Run(spec=from_json(row["spec"], RunSpec), **_common_fields(row))


def _evaluation(row: Any) -> Evaluation:
    with _parsing(row):
        return Evaluation(spec=from_json(row["spec"], EvaluationSpec), **_common_fields(row))


@contextmanager
def _parsing(row: Any) -> Iterator[None]:
    """Turn errors in parsing a row into StoreError. Its spec may be truncated, or unknown to this Earbench."""
    try:
        yield
    except (EarbenchError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise StoreError(
            f"{row['id']} can't be read: it is damaged in the database, or of another Earbench ({e}). All others are "
            "as they were; this one can be deleted under Results."
        ) from e


def _readable(read: Callable[[Any], T], stored: Iterable[Any]) -> Iterator[T]:
    """Parse the rows and skip damaged ones, so that one does not hide all others."""
    for row in stored:
        with suppress(StoreError):
            yield read(row)


def _common_fields(row: Any) -> dict[str, Any]:
    columns = ("id", "created_s", "state", "message", "started_s", "finished_s")
    return {**{name: row[name] for name in columns}, "device": from_json(row["device"], Device)}
