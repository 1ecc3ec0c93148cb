"""The inference log as a source: what a served model answered within a window."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import URL, Engine, Select, Text, cast, func, inspect, make_url, null, select
from sqlalchemy.exc import SQLAlchemyError

from monitoring.rows import Rows, at_once
from monitoring.sources import Current, Labelled
from monitoring.window import Window
from serving import folder
from serving.features import FEATURES
from serving.log import ANSWERS, FEEDBACK, open_database
from serving.predictor import ImageError
from serving.registered import RegisteredModel
from serving.settings import UserError, require
from serving.uri import without_password

IMAGES = "LOOKOUT_LOG_IMAGES"
ENVIRONMENT = "env"  # as the log's URL: it is that in LOOKOUT_LOG
NO_URL = (
    "Expected the URL of an inference log, as sqlite:///inference.db or "
    "postgresql://USER@HOST/DATABASE, got another."
)


def url(log: str) -> URL:
    """The URL that the parameter `log` names; `env`: that in the environment, with its password.

    Raises UserError for what is no URL, which it does not repeat: it may hold a password.
    """
    text = os.environ.get("LOOKOUT_LOG", "") if log == ENVIRONMENT else log
    require(bool(text), "Expected the URL of the inference log in LOOKOUT_LOG, which is not set.")
    try:
        known = make_url(text)
    except SQLAlchemyError as error:
        raise UserError(NO_URL) from error
    require(
        "@" not in (known.host or ""),
        "Expected a URL of the inference log with one @; write one in a password as %40.",
    )
    logged = log != ENVIRONMENT and bool(os.environ.get("MLFLOW_RUN_ID"))
    require(
        not (logged and _secrets(known)),
        "Expected a URL of the inference log without a password, since `mlflow run` logs its "
        f"parameters and has logged this one: change it, and give {ENVIRONMENT!r} with the URL in "
        "LOOKOUT_LOG.",
    )
    return known


def public(log: str) -> str:
    """The log's URL without its password. Raises UserError as `url`."""
    return without_password(url(log).render_as_string(hide_password=False))


def _is_secret(key: str) -> bool:
    return "password" in key.lower()


def _secrets(known: URL) -> list[str]:
    """The passwords in a URL."""
    query = [str(value) for key, value in known.query.items() if _is_secret(key)]
    return [secret for secret in (str(known.password or ""), *query) if secret]


def of_log(model: RegisteredModel, log: str, window: Window) -> Current:
    """The answers of this version of the model within a window, and people's labels of them.

    Raises UserError for a URL of another form, a log that does not answer or has no table of
    answers, and answers with other classes than the model's.
    """
    engine = _opened(log)
    with _answering(engine, public(log)):
        where = _conditions(ANSWERS, model, window)
        columns = [ANSWERS.c.id, cast(ANSWERS.c.probabilities, Text)]
        query = select(*columns, *_there(engine, ("embedding", *FEATURES))).where(*where)
        newest = query.order_by(ANSWERS.c.time.desc(), ANSWERS.c.id.desc())
        classes = model.classifier.card.classes
        rows = Rows(classes, public(log))
        wanted = newest.limit(window.most) if window.most else newest
        with closing(_parts(engine, wanted, at_once(len(classes)))) as parts:
            for part in parts:
                rows.add(part)
        labels = _feedback(engine, model, _spanned(engine, newest, window))
        others = _others(engine, model, window)
    table, left_out = rows.frame()
    if others:
        left_out.append(f"{others:,} answers of other models or versions are not looked at.")
    identities = rows.identities()
    return Current(table, None, lambda row: _image(engine, identities[row]), labels, left_out)


def _opened(log: str) -> Engine:
    """Raises UserError for another kind of database, and a file that is missing: not made here."""
    known = url(log)
    path = Path(known.database or "")
    require(
        known.get_backend_name() != "sqlite" or path.is_file(),
        f"Expected an inference log, but {path} is no file; is it the URL that the server's "
        "LOOKOUT_LOG has?",
    )
    try:
        return open_database(known.render_as_string(hide_password=False))
    except ValueError as error:
        raise UserError(NO_URL) from error


def _there(engine: Engine, names: Sequence[str]) -> list[Any]:
    """The columns of the answers; of an older log, nothing for those that it has not."""
    there = inspect(engine)
    require(
        there.has_table(ANSWERS.name),
        f"Expected an inference log, but the database has no table {ANSWERS.name}; is it the URL "
        "that the server's LOOKOUT_LOG has, and has it answered yet?",
    )
    known = {column["name"] for column in there.get_columns(ANSWERS.name)}
    return [ANSWERS.c[name] if name in known else null().label(name) for name in names]


@contextmanager
def _answering(engine: Engine, name: str) -> Iterator[None]:
    """Closes what was opened. Raises UserError for what the database does not answer, without the
    password.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in _secrets(engine.url):
            cause = cause.replace(secret, "***")
        raise UserError(
            f"Expected an inference log at {name}, but: {cause.rstrip('.')}; is it the URL that "
            "the server's LOOKOUT_LOG has?"
        ) from error
    finally:
        engine.dispose()


def _conditions(table: Any, model: RegisteredModel, window: Window) -> list[Any]:
    found = [
        table.c.model_name == model.name,
        table.c.model_version == model.version,
        table.c.time <= window.until,
    ]
    return [*found, table.c.time > window.after] if window.after else found


def _parts(engine: Engine, query: Select[Any], size: int) -> Generator[Sequence[Any], None, None]:
    """The query's rows, `size` at a time, as the driver gives them."""
    with (
        engine.connect().execution_options(yield_per=size) as connection,
        connection.execute(query) as result,
    ):
        while part := result.fetchmany(size):
            yield part


def _spanned(engine: Engine, newest: Select[Any], window: Window) -> Window:
    """The time that the newest answers span, where a window is a number of them."""
    if not window.most:
        return window
    times = newest.with_only_columns(ANSWERS.c.time).limit(window.most).subquery()
    with engine.connect() as connection:
        oldest = connection.execute(select(func.min(times.c.time))).scalar_one()
    return replace(window, after=oldest)


def _feedback(engine: Engine, model: RegisteredModel, window: Window) -> Labelled | None:
    """What people said of answers within the window: of each image, the last word."""
    query = (
        select(FEEDBACK.c.content, FEEDBACK.c.label, FEEDBACK.c.answered)
        .where(*_conditions(FEEDBACK, model, window))
        .order_by(FEEDBACK.c.time, FEEDBACK.c.id)
    )
    with engine.connect() as connection:
        if not engine.dialect.has_table(connection, FEEDBACK.name):
            return None
        last = {row.content: (row.label, row.answered) for row in connection.execute(query)}
    return Labelled(*map(list, zip(*last.values(), strict=True))) if last else None


def _others(engine: Engine, model: RegisteredModel, window: Window) -> int:
    """How many answers within the window are not this version's."""
    own = (ANSWERS.c.model_name == model.name) & (ANSWERS.c.model_version == model.version)
    query = select(func.count()).where(ANSWERS.c.time <= window.until, ~own)
    if window.after:
        query = query.where(ANSWERS.c.time > window.after)
    with engine.connect() as connection:
        return 0 if window.most else int(connection.execute(query).scalar_one())


def _image(engine: Engine, identity: int) -> bytes:
    """The kept image of an answer, where LOOKOUT_LOG_IMAGES says that images are kept there.

    Raises ImageError: also for one that the log says is elsewhere, which is not followed.
    """
    root = os.environ.get(IMAGES, "")
    query = select(ANSWERS.c.image).where(ANSWERS.c.id == int(identity))
    try:
        with engine.connect() as connection:
            where = connection.execute(query).scalar_one_or_none()
    except SQLAlchemyError as error:
        raise ImageError("the log does not answer any more") from error
    finally:
        engine.dispose()
    if not root or not where:
        raise ImageError("not kept")
    if "://" in root:
        return _fetched(root, where)
    try:
        path = Path(where).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # what is in a log may be anything
        raise ImageError("kept nowhere") from error
    if not path.is_relative_to(Path(root).resolve()):
        raise ImageError("kept elsewhere")
    return folder.read(path)


def _fetched(root: str, where: str) -> bytes:
    """An image of an object store, below `root`."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if not where.startswith(f"{root.rstrip('/')}/") or ".." in urlsplit(where).path.split("/"):
        raise ImageError("kept elsewhere")
    try:
        with TemporaryDirectory() as fetched:
            return folder.read(Path(download_artifacts(artifact_uri=where, dst_path=fetched)))
    except (MlflowException, OSError) as error:
        raise ImageError("cannot be fetched") from error
