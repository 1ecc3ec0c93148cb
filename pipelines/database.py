"""Databases, SQLite or a server: how they are opened, and named."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, make_url

SQLITE_TIMEOUT = 60  # seconds to wait for another process's lock
CONNECT_TIMEOUT = 10  # seconds, of a server


def options(url: str) -> dict[str, Any]:
    """What `sqlalchemy.create_engine` is given."""
    if _is_sqlite(url):
        return {"connect_args": {"timeout": SQLITE_TIMEOUT}}
    return {"connect_args": {"connect_timeout": CONNECT_TIMEOUT}, "pool_pre_ping": True}


def _is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def take_turns(engine: Engine) -> None:
    """Locks SQLite from the begin of a transaction on; a server does better by itself.

    Optuna reads a trial's state FOR UPDATE before it changes it, which SQLite ignores: without
    this, eight workers claimed 24 of 20 trials. (SQLAlchemy's documentation of pysqlite has why
    the driver must be told to begin no transaction by itself.)
    """
    if engine.dialect.name != "sqlite":
        return

    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")  # half the time of a commit, as durable

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    engine.dispose()  # connections from before know nothing of it


def from_anywhere(url: str) -> str:
    """A database's URL for processes that run in other folders: a file's path from the root."""
    known = make_url(url)
    if not _is_sqlite(url) or known.database in (None, "", ":memory:"):
        return url
    path = str(Path(str(known.database)).resolve())
    return known.set(database=path).render_as_string(hide_password=False)
