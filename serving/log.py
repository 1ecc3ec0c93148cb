"""The inference log: a row for every answered image, and the corrections of people.

Switched on by LOOKOUT_LOG, the URL of a database (`sqlite:///inference.db`, `postgresql://...`), in
whatever process answers. LOOKOUT_LOG_IMAGES, a folder or an S3 URL, keeps the images too;
LOOKOUT_LOG_DAYS is how long answers and images in a folder are kept (0: for ever).

Rows wait in a bounded queue for a thread that writes them; no answer waits for a database, and none
fails because of one. What the queue cannot take is dropped and counted. The file travels with a
registered model (`BESIDE` in `predictor.py`), so it imports nothing of ours.
"""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

MAX_ROWS, MAX_BYTES = 5000, 64 * 2**20  # that wait: rows, and bytes of images
BATCH = 1000  # rows a transaction
# Seconds that a row waits for others: few, because uvicorn ends itself by the signal that stopped
# it, 0.1 s after its last answer, and then no exit handler runs.
WITHIN = 0.05
RETRY = 1.0  # seconds until a database that failed is asked again
CLOSING = 10.0  # seconds that the end of the process waits for the last rows
TIMEOUT = 30  # seconds that a connection may take, or another process to unlock SQLite
CLEANING = 3600.0  # seconds between looks at what is too old
UPLOADS = 8  # images on their way at once
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}

_logger = logging.getLogger(__name__)
_metadata = MetaData()
_key = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts INTEGER keys alone

# time: UTC; position: of the image in its request; content: SHA-256 of the image's bytes; image:
# where it is kept, if it is; embedding: the network's, as little-endian float16. The features are
# those of `features.py`, which says their units.
ANSWERS = Table(
    "answers",
    _metadata,
    Column("id", _key, primary_key=True),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("position", Integer, nullable=False),
    Column("model_name", String(256), nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("label", String(1024), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("probabilities", JSON, nullable=False),
    Column("content", String(64)),
    Column("brightness", Float),
    Column("contrast", Float),
    Column("saturation", Float),
    Column("sharpness", Float),
    Column("noise", Float),
    Column("colour_cast", Float),
    Column("width", Float),
    Column("height", Float),
    Column("aspect", Float),
    Column("image", String(1024)),
    Column("embedding", LargeBinary),
    Index("answers_time", "time"),
    Index("answers_request_id", "request_id"),
)
# label: what the image shows, as a person says; answered: what the model said; image: its bytes.
FEEDBACK = Table(
    "feedback",
    _metadata,
    Column("id", _key, primary_key=True),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("model_name", String(256), nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("label", String(1024), nullable=False),
    Column("answered", String(1024), nullable=False),
    Column("content", String(64), nullable=False),
    Column("image", LargeBinary, nullable=False),
    Index("feedback_time", "time"),
)
_EMPTY: Mapping[str, Any] = {column.name: None for column in ANSWERS.columns if column.name != "id"}
_COLUMNS = _EMPTY.keys() - {"image"}


def from_environment() -> "Log":
    """The log that LOOKOUT_LOG, LOOKOUT_LOG_IMAGES and LOOKOUT_LOG_DAYS describe.

    Raises ValueError, in a sentence, for settings that cannot be meant.
    """
    days = os.environ.get("LOOKOUT_LOG_DAYS", "") or "0"
    try:
        kept = float(days)
    except ValueError as error:
        raise ValueError(f"Expected days as LOOKOUT_LOG_DAYS, got {days!r}.") from error
    return Log(os.environ["LOOKOUT_LOG"], os.environ.get("LOOKOUT_LOG_IMAGES", ""), kept)


class Log:
    """A log in a database, for one process of the several that may write to it.

    url: of the database; images: folder or URL to keep images in, empty: none; days: that answers
    and images are kept, 0: for ever. written, dropped: rows so far.
    Raises ValueError for a URL or an age that cannot be meant; the database is not asked yet.
    """

    def __init__(self, url: str, images: str = "", days: float = 0) -> None:
        if not 0 <= days < 100_000:
            raise ValueError(f"Expected 0 or more days to keep the inference log, got {days}.")
        self._days = days
        self._engine = open_database(url)
        self._images = _store(images) if images else None
        self._queue: deque[dict[str, Any]] = deque()
        self._bytes = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._made = False
        self._complained = self._cleaned = 0.0
        self.written = self.dropped = 0

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return len(self._queue)

    def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes rows with the columns of ANSWERS, `image` being bytes; drops what has no room."""
        with self._wake:
            if self._closing:
                self.dropped += len(rows)
                return
            for row in rows:
                size = len(row.get("image", b"")) if self._images else 0
                if len(self._queue) >= MAX_ROWS or self._bytes + size > MAX_BYTES:
                    self.dropped += 1
                    continue
                kept = dict(row)
                if not self._images:
                    kept.pop("image", None)
                self._queue.append(kept)
                self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="inference log", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify()

    def correct(self, image: bytes, row: Mapping[str, str]) -> None:
        """Stores a person's correction, row: the text columns of FEEDBACK, before it returns.

        Raises SQLAlchemyError where the database does not take it.
        """
        told = {"time": datetime.now(UTC), "content": hashlib.sha256(image).hexdigest()}
        self._make()
        with self._engine.begin() as connection:
            connection.execute(insert(FEEDBACK), [{**row, **told, "image": image}])

    def close(self, seconds: float = CLOSING) -> None:
        """Writes what waits, for at most `seconds`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(seconds)
            if self._queue:
                _logger.error("%d rows of the inference log are lost.", len(self._queue))
        atexit.unregister(self.close)

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write(batch)
                self._clean()
            except Exception as error:  # noqa: BLE001 - a log goes on, whatever happens
                self._complain(error)
                with self._wake:
                    self.dropped += len(batch)

    def _take(self) -> list[dict[str, Any]]:
        """The next rows, at most BATCH; waits for the first, and for more; none at the end."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
        if not self._closing:
            time.sleep(WITHIN)
        with self._wake:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._bytes -= sum(len(row.get("image", b"")) for row in batch)
        return batch

    def _write(self, batch: list[dict[str, Any]]) -> None:
        """Writes rows, trying again while the database is away; drops what it does not accept."""
        rows = self._keep_images(batch)
        given_up = time.monotonic() + CLOSING
        while True:
            try:
                self._make()
                with self._engine.begin() as connection:
                    connection.execute(insert(ANSWERS), rows)
                self.written += len(rows)
                return
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the log goes on
                self._complain(error)
                if self._closing and time.monotonic() > given_up:
                    break
                if not isinstance(error, OperationalError | InterfaceError | OSError):
                    break
                time.sleep(RETRY)
        with self._wake:
            self.dropped += len(rows)

    def _keep_images(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows as the table takes them, their images kept where that is asked for."""
        rows = [{**_EMPTY, **{name: row[name] for name in _COLUMNS & row.keys()}} for row in batch]
        if self._images is None:
            return rows
        try:
            with ThreadPoolExecutor(UPLOADS) as pool:
                kept = list(pool.map(self._keep_image, batch))
        except RuntimeError:  # at the end of the interpreter, which starts no threads any more
            kept = list(map(self._keep_image, batch))
        for row, where in zip(rows, kept, strict=True):
            row["image"] = where
        return rows

    def _keep_image(self, row: Mapping[str, Any]) -> str | None:
        if self._images is None or "image" not in row:
            return None
        kind = row.get("format") or ""
        name = f"{row['content']}.{SUFFIXES.get(kind, kind.lower())}"
        try:
            return self._images.keep(row["image"], f"{row['time']:%Y-%m-%d}", name)
        except Exception as error:  # noqa: BLE001 - as above
            self._complain(error)
            return None

    def _make(self) -> None:
        """Makes the tables where they are missing; several processes may at once."""
        if not self._made:
            for _ in range(2):  # another process may make one between the look and the making
                with suppress(DBAPIError):
                    _metadata.create_all(self._engine)
                    break
            with suppress(DBAPIError):  # as above
                self._add_columns()
            self._add_columns()
            self._made = True

    def _add_columns(self) -> None:
        """Adds the columns that an older log has not."""
        known = {column["name"] for column in inspect(self._engine).get_columns(ANSWERS.name)}
        for column in ANSWERS.columns:
            if column.name not in known:
                kind = column.type.compile(self._engine.dialect)
                with self._engine.begin() as connection:
                    connection.exec_driver_sql(
                        f"ALTER TABLE {ANSWERS.name} ADD COLUMN {column.name} {kind}"
                    )

    def _clean(self) -> None:
        """Removes what is too old, every CLEANING seconds."""
        if not self._days or (self._cleaned and time.monotonic() - self._cleaned < CLEANING):
            return
        self._cleaned = time.monotonic()
        oldest = datetime.now(UTC) - timedelta(days=self._days)
        try:
            old = select(ANSWERS.c.id).where(ANSWERS.c.time < oldest).limit(BATCH)
            removed = BATCH
            while removed == BATCH:  # in slices: others write in between
                with self._engine.begin() as connection:
                    removed = connection.execute(
                        delete(ANSWERS).where(ANSWERS.c.id.in_(old))
                    ).rowcount
            if self._images is not None:
                self._images.clean(oldest.date())
        except Exception as error:  # noqa: BLE001 - as above
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Says, once a minute at most, that the log fails; not the rows or the URL: secrets."""
        if not self._complained or time.monotonic() - self._complained > 60:
            self._complained = time.monotonic()
            cause = getattr(error, "orig", None) or error
            _logger.error(
                "The inference log cannot be written (%s: %s).", type(cause).__name__, cause
            )


def open_database(url: str) -> Engine:
    """An engine for the log: SQLite so that several processes write at once, or PostgreSQL.

    Raises ValueError for what is no URL of these, without repeating it: it may hold a password.
    """
    try:
        known = make_url(url)
        backend = known.get_backend_name()
    except ArgumentError:
        backend = ""
    if backend == "sqlite" and known.database:
        engine = create_engine(known, connect_args={"timeout": TIMEOUT})
        event.listen(engine, "connect", _write_ahead)
        return engine
    if backend == "postgresql":
        known = known.set(drivername="postgresql+psycopg")
        return create_engine(known, connect_args={"connect_timeout": TIMEOUT}, pool_pre_ping=True)
    raise ValueError(
        "Expected the URL of a database for the inference log, as sqlite:///inference.db or "
        "postgresql://USER@HOST/DATABASE, got another; set LOOKOUT_LOG."
    )


def _write_ahead(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a commit outlives the process


def _store(where: str) -> "_Folder | _Elsewhere":
    return _Elsewhere(where) if "://" in where else _Folder(Path(where))


class _Folder:
    """Images in a folder of this machine, a folder a day below it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def keep(self, content: bytes, day: str, name: str) -> str:
        path = self._root / day / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}.part")
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return str(path)

    def clean(self, oldest: date) -> None:
        for folder in self._root.iterdir():
            with suppress(ValueError):  # not one of ours
                if folder.is_dir() and date.fromisoformat(folder.name) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)  # several processes clean


class _Elsewhere:
    """Images in an object store that MLflow can write to, S3 above all."""

    def __init__(self, url: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._url, self._repository = url.rstrip("/"), get_artifact_repository(url)

    def keep(self, content: bytes, day: str, name: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self._repository.log_artifact(str(path), day)  # type: ignore[no-untyped-call]
        return f"{self._url}/{day}/{name}"

    def clean(self, oldest: date) -> None:
        """Leaves that to the store, whose rules for it (S3: lifecycle) cost nothing here."""
