"""What a schedule remembers when it is killed: a row of text and JSON in a database.

A row belongs to one schedule, and one process at a time changes it: what that process holds in
memory is right, and written through. A database that is away costs the memory, never a check.
"""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from serving.log import open_database
from serving.settings import UserError, require

DEAD_LETTERS = 1000  # that are kept of a schedule, the newest

_metadata = MetaData()

# settings: without passwords; next_run_time, told_at: ISO 8601; owed: when a check was due that has
# no result yet; running: the check that began last, until its verdict is told; verdict: the last
# one that a check gave; told: the last one that people were told, or `failure`.
SCHEDULES = Table(
    "lookout_schedules",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("settings", JSON(none_as_null=True)),
    Column("next_run_time", String(64)),
    Column("owed", String(64)),
    Column("running", JSON(none_as_null=True)),
    Column("verdict", String(16)),
    Column("told", String(16)),
    Column("told_at", String(64)),
    Column("retraining", JSON(none_as_null=True)),
)
# Alerts that no try delivered, and why.
LETTERS = Table(
    "lookout_dead_letters",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("schedule", String(64), nullable=False, index=True),
    Column("time", String(64), nullable=False),
    Column("reason", String(256), nullable=False),
    Column("message", Text, nullable=False),
)


def open_jobs(url: str) -> Engine:
    """The database of `jobs`, which is not asked yet. Raises UserError for another URL."""
    try:
        require(":memory:" not in url, "Expected as `jobs` a database that outlives the schedule.")
        return open_database(url)
    except ValueError as error:
        raise UserError(
            "Expected as `jobs` the URL of a database, as sqlite:///schedule.db or "
            "postgresql://USER@HOST/DATABASE, got another."
        ) from error


class State:
    """One schedule's row; `state["told"]` reads a column, `write` changes some.

    url: of the database; settings: of the schedule, of which `cron` and `timezone` decide whether
    the time that an earlier schedule of this id would have run next still counts.
    Raises UserError for a database that cannot be opened.
    """

    def __init__(self, url: str, schedule: str, settings: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._row: dict[str, Any] = dict.fromkeys(SCHEDULES.columns.keys())
        self._row |= {"id": schedule, "settings": dict(settings)}
        self._engine = open_jobs(url)
        try:
            self._open()
        except SQLAlchemyError as error:
            raise UserError(
                f"Expected a database for `jobs` that can be written, but: {_cause(error)}."
            ) from error

    def __getitem__(self, column: str) -> Any:
        return self._row[column]

    def write(self, **columns: Any) -> None:
        """Changes columns, in one transaction: to a value, or by a function of what is there."""
        with self._lock:
            for name, value in columns.items():
                self._row[name] = value(self._row[name]) if callable(value) else value
            self._commit(lambda connection: connection.execute(self._update()))

    def bury(self, letter: str, message: Mapping[str, Any], reason: str) -> None:
        """Keeps an alert that was not delivered, under an id of its own."""
        row = {
            "id": letter,
            "schedule": self["id"],
            "time": datetime.now(UTC).isoformat(),
            "reason": reason,
            "message": json.dumps(message, ensure_ascii=False),
        }
        own = LETTERS.c.schedule == self["id"]
        newest = select(LETTERS.c.id).where(own).order_by(LETTERS.c.time.desc())
        kept = newest.limit(DEAD_LETTERS)

        def write(connection: Connection) -> None:
            connection.execute(insert(LETTERS), [row])
            connection.execute(delete(LETTERS).where(own, LETTERS.c.id.not_in(kept)))

        self._commit(write)

    def time(self, column: str) -> datetime | None:
        """A column's time."""
        text = self[column]
        return datetime.fromisoformat(text) if text else None

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _open(self) -> None:
        for _ in range(2):  # another process may make a table, or the row, at the same time
            with suppress(DBAPIError):
                _metadata.create_all(self._engine)
                break
        with suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(insert(SCHEDULES), [{"id": self["id"]}])
        with self._engine.begin() as connection:
            query = select(SCHEDULES).where(SCHEDULES.c.id == self["id"])
            kept = dict(connection.execute(query).mappings().one())
            before, now = kept["settings"] or {}, self._row["settings"]
            if any(before.get(name) != now.get(name) for name in ("cron", "timezone")):
                kept["next_run_time"] = None
            self._row = kept | {"settings": now}
            connection.execute(self._update())

    def _update(self) -> Any:
        return update(SCHEDULES).where(SCHEDULES.c.id == self["id"]).values(self._row)

    def _commit(self, write: Callable[[Connection], object]) -> None:
        try:
            with self._engine.begin() as connection:
                write(connection)
        except SQLAlchemyError as error:
            complain(
                f"What the schedule must remember cannot be written ({_cause(error)}); a restart "
                "will not know of it."
            )


class JobStore(MemoryJobStore):  # type: ignore[misc]
    """APScheduler's jobs, with the next run time written to the schedule's row.

    APScheduler's own store of jobs in a database unpickles what it finds there; and an error of its
    own would end the thread that runs them, as an error of any store would.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def add_job(self, job: Job) -> None:
        """Adds the schedule's job."""
        super().add_job(job)
        self._state.write(next_run_time=job.next_run_time.isoformat())

    def update_job(self, job: Job) -> None:
        """Notes a new time to run, which comes as the old one is due: a check is owed."""
        super().update_job(job)
        due = self._state["next_run_time"]
        self._state.write(next_run_time=job.next_run_time.isoformat(), owed=due)


def complain(sentence: str) -> None:
    """Says what went wrong while the schedule goes on."""
    with suppress(OSError):  # nobody listens
        print(f"lookout: {sentence}", file=sys.stderr, flush=True)


def _cause(error: SQLAlchemyError) -> str:
    """What a database said, without the statement and its parameters."""
    text = str(getattr(error, "orig", None) or error)
    return " ".join(text.split()).rstrip(".")
