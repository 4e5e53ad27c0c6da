"""Jobs in SQLite: what was asked, where each stands, and what came of it. A job that was accepted survives a killed process.

States: `queued` -> `running` -> `done`, `failed` or `cancelled`. Every change names the state and the attempt that it starts from, in one
transaction, so that two workers never take one job and a job ends once.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_DEATHS = 2
ENDED = ("done", "failed", "cancelled")
STATES = ("queued", "running", *ENDED)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL, priority REAL NOT NULL,
    state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
    graph TEXT NOT NULL, extra TEXT NOT NULL, idempotency TEXT,
    outputs TEXT, files TEXT, error TEXT, created REAL NOT NULL, started REAL, finished REAL);
CREATE INDEX IF NOT EXISTS waiting ON jobs (state, priority DESC, number);
CREATE UNIQUE INDEX IF NOT EXISTS once ON jobs (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE TABLE IF NOT EXISTS assets (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, type TEXT NOT NULL, size INTEGER NOT NULL,
    path TEXT NOT NULL, created REAL NOT NULL);
"""


@dataclass(frozen=True)
class Job:
    """One row of the table of jobs.

    `number` counts the jobs, `attempt` the times that a worker took this one, `deaths` those that ended
    with the worker's death. `graph` is in API format. `extra` holds `client_id`, `workflow` and other things that the client gave.
    `outputs`: the `ui` entries by node id. `files`: the results, `type/subfolder/name`, with their bytes. `error`: why the job failed.
    """

    number: int
    id: str
    owner: str
    name: str
    priority: float
    state: str
    attempt: int
    deaths: int
    graph: dict[str, Any] = field(repr=False)
    extra: dict[str, Any] = field(repr=False)
    idempotency: str | None
    outputs: dict[str, Any] = field(repr=False)
    files: dict[str, int]
    error: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state in ENDED


class Full(Exception):
    """The queue holds as many jobs as it may, in all or for this key."""

    def __init__(self, what: str) -> None:
        super().__init__(what)


class JobStore:
    """The table of jobs. Safe to use from several threads; one process at a time owns the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Yield the database inside one write transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def add(self, new: NewJob, most_waiting: int, most_of_owner: int) -> tuple[Job, bool]:
        """Add a job and return (job, True), or (the earlier job, False) where its owner used the idempotency key before.

        Raises :class:`Full` where `most_waiting` jobs wait already, or `most_of_owner` of this owner wait or run.
        """
        with self.changing() as db:
            if new.idempotency is not None:
                known = self.rows("SELECT * FROM jobs WHERE owner = ? AND idempotency = ?", new.owner, new.idempotency)
                if known:
                    return _job(known[0]), False
            if self.rows("SELECT count(*) FROM jobs WHERE state = 'queued'")[0][0] >= most_waiting:
                raise Full(f"{most_waiting} jobs are waiting, which is the most that this service takes")
            own = self.rows("SELECT count(*) FROM jobs WHERE owner = ? AND state IN ('queued', 'running')", new.owner)[0][0]
            if own >= most_of_owner:
                raise Full(f"this key has {own} jobs that wait or run, which is the most that one key may have")
            db.execute(
                "INSERT INTO jobs (id, owner, name, priority, state, graph, extra, idempotency, created) VALUES (?,?,?,?,'queued',?,?,?,?)",
                (
                    new.id, new.owner, new.name, new.priority, json.dumps(new.graph), json.dumps(new.extra), new.idempotency, time.time(),
                ),
            )  # fmt: skip
            return _job(self.rows("SELECT * FROM jobs WHERE id = ?", new.id)[0]), True

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """Return a job, of one owner if `owner` is given; None where there is none."""
        found = self.rows("SELECT * FROM jobs WHERE id = ? AND (?2 IS NULL OR owner = ?2)", job_id, owner)
        return _job(found[0]) if found else None

    def listed(self, owner: str | None, states: tuple[str, ...], most: int = 1000, offset: int = 0, newest: bool = False) -> list[Job]:
        """Return jobs in some states: those that run first in the order they will run in, or the newest first."""
        marks = ",".join("?" * len(states))
        order = "number DESC" if newest else "priority DESC, number"
        query = f"SELECT * FROM jobs WHERE state IN ({marks}) AND (? IS NULL OR owner = ?) ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
        return [_job(row) for row in self.rows(query, *states, owner, owner, most, offset)]

    def count(self, *states: str) -> int:
        """Return how many jobs are in these states."""
        marks = ",".join("?" * len(states))
        return self.rows(f"SELECT count(*) FROM jobs WHERE state IN ({marks})", *states)[0][0]  # noqa: S608 - question marks alone

    def claim(self) -> Job | None:
        """Take the next job, highest priority first, then oldest; None where nothing waits."""
        with self.changing() as db:
            found = self.rows("SELECT number FROM jobs WHERE state = 'queued' ORDER BY priority DESC, number LIMIT 1")
            if not found:
                return None
            number = found[0][0]
            db.execute("UPDATE jobs SET state = 'running', attempt = attempt + 1, started = ? WHERE number = ?", (time.time(), number))
            return _job(self.rows("SELECT * FROM jobs WHERE number = ?", number)[0])

    def finish(self, job: Job, outputs: dict[str, Any], files: dict[str, int]) -> bool:
        """Record what an attempt gave. False where the job has ended, or was given to another attempt, since it was claimed."""
        return self._end(job, "done", outputs, files, None)

    def fail(self, job: Job, error: dict[str, Any], state: str = "failed") -> bool:
        """Record why an attempt failed, or that it was cancelled. False as for :meth:`finish`."""
        return self._end(job, state, {}, {}, error)

    def _end(self, job: Job, state: str, outputs: dict[str, Any], files: dict[str, int], error: dict[str, Any] | None) -> bool:
        values = (state, json.dumps(outputs), json.dumps(files), None if error is None else json.dumps(error), time.time())
        with self.changing() as db:
            done = db.execute(
                "UPDATE jobs SET state = ?, outputs = ?, files = ?, error = ?, finished = ? "
                "WHERE id = ? AND state = 'running' AND attempt = ?",
                (*values, job.id, job.attempt),
            )
            return done.rowcount == 1

    def cancel_waiting(self, job_id: str, owner: str | None) -> bool:
        """Cancel a job that waits. False where it does not wait."""
        with self.changing() as db:
            done = db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued' AND (? IS NULL OR owner = ?)",
                (time.time(), job_id, owner, owner),
            )
            return done.rowcount == 1

    def give_back(self, job: Job, why: str, died: bool = True) -> str:
        """Put a running job back into the queue and return its new state. A job whose worker `died` for the second time fails instead. ""
        where this attempt does not run any more."""
        deaths = job.deaths + died
        is_last = deaths >= MOST_DEATHS
        error = json.dumps({"type": "WorkerDied", "message": f"{why}, {deaths} times"}) if is_last else None
        values = ("failed" if is_last else "queued", error, time.time() if is_last else None, deaths)
        with self.changing() as db:
            done = db.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ?, deaths = ? WHERE id = ? AND state = 'running' AND attempt = ?",
                (*values, job.id, job.attempt),
            )
        return values[0] if done.rowcount else ""

    def recover(self) -> list[Job]:
        """Put the jobs that ran when the last process ended back into the queue, and return them. For the start of a service."""
        found = self.listed(None, ("running",), most=10**6)
        for job in found:
            self.give_back(job, "the worker died")
        return found

    def ahead(self, job: Job) -> int:
        """Return how many jobs run before a waiting one."""
        query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND (priority > ?1 OR (priority = ?1 AND number < ?2))"
        return self.rows(query, job.priority, job.number)[0][0]

    def ended_before(self, moment: float, most: int = 1000) -> list[str]:
        """Return the ids of jobs that ended before `moment` (seconds since 1970), the oldest first."""
        marks = ",".join("?" * len(ENDED))
        query = f"SELECT id FROM jobs WHERE state IN ({marks}) AND finished < ? ORDER BY finished LIMIT ?"  # noqa: S608 - question marks alone
        return [row[0] for row in self.rows(query, *ENDED, moment, most)]

    def forget(self, job_id: str, owner: str | None) -> bool:
        """Delete a job that has ended. False where there is none."""
        with self.changing() as db:
            done = db.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled') AND (? IS NULL OR owner = ?)",
                (job_id, owner, owner),
            )
            return done.rowcount == 1


@dataclass(frozen=True)
class NewJob:
    """What a client asked for. `priority`: higher runs first."""

    owner: str
    name: str
    graph: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    priority: float = 0.0
    idempotency: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name, empty in (("graph", {}), ("extra", {}), ("outputs", {}), ("files", {}), ("error", None)):
        values[name] = json.loads(values[name]) if values[name] else empty
    return Job(**values)
