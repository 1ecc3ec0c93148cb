"""Images that people have labelled: from the inference log to the training images.

The log's table `feedback` (`serving/log.py`) has an image's bytes and a label a row. The rows of
one model become a set in the cache, `feedback/DIGEST/CLASS/SHA256.EXT` with a table of what became
of each row, written whole or not at all. Of equal images the newest row's label counts.

All of it comes from outside: a label names a folder only where it is a class of the data set, and
bytes keep the bounds of `serving.predictor`.

A set joins the training images alone. What equals an image that the data set holds, in whichever
split, is left out: the images to validate and to test on stay those of the data set, and have not
been trained on. A label that contradicts the data set's own is to be corrected there. Images that
the audit left out because their labels contradict each other may come back: a person has decided.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from sqlalchemy import URL, Engine, func, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines import audit, cache, database
from pipelines.config import FROM_ENVIRONMENT, SearchSettings
from pipelines.data import Dataset, Feedback
from pipelines.progress import progress
from serving.durable import SUFFIX, replacing
from serving.log import FEEDBACK, SUFFIXES, open_database
from serving.predictor import MAX_BYTES, ImageError, cores, opened
from serving.settings import UserError, require
from serving.uri import without_password

TABLE = ".images.parquet"  # of a set, in its folder: hidden, so no class is called so
# path: below the set's folder; reason: why a row is left out.
COLUMNS = ["row", "class", "path", "content", "width", "height", "reason"]
UNKNOWN = "is no class of the data set"
READERS = 8  # at most: each has a connection to the log, and an image in memory
CHUNK = 64  # rows; after an interrupt, those in hand are read to their end
NO_URL = (
    "Expected the URL of an inference log, as sqlite:///inference.db or "
    "postgresql://USER@HOST/DATABASE, got another."
)
SHOWN = 100  # characters of a label from outside


@dataclass(frozen=True)
class Row:
    """A row of the log: its id, and what a person says that its image shows."""

    id: int
    label: str


def add(dataset: Dataset, settings: SearchSettings, known: Feedback | None = None) -> Dataset:
    """The data set with the corrections of the log that `settings.feedback` names, if it does.

    known: those that a search began with; by default of the run that `settings.resume` names. They
    come from the cache, or else from the log again.
    Raises UserError where the log does not answer, or has nothing to train on.
    """
    if not settings.feedback:
        return dataset
    _require_unseen(settings.feedback)
    if known is None and settings.resume:
        known = began_with(settings.resume)
    name = settings.name or dataset.name
    kept = _folder(known.digest) if known else None
    if known is None or kept is None or not kept.exists():
        with _opened(settings.feedback) as engine:
            rows = _listed(engine, name, known.until if known else None)
            kept = _write(engine, rows, dataset.classes)
        known = Feedback(kept.name, rows[0].id)
    return join(dataset, kept, known, name)


def require_some(settings: SearchSettings) -> None:
    """Raises UserError where the log does not answer, or has no correction of the model."""
    with _opened(settings.feedback) as engine:
        _listed(engine, settings.name)


def join(dataset: Dataset, kept: Path, known: Feedback, name: str) -> Dataset:
    """The data set with a set's images to train on, and what was left out among `excluded`.

    kept: the set's folder; name: of the model, for the error.
    Raises UserError where nothing is left to train on.
    """
    table = _against(pd.read_parquet(kept / TABLE), dataset)
    good = table["reason"] == ""
    images = table[good].assign(
        path=[str(kept / path) for path in table.loc[good, "path"]],
        label=table.loc[good, "class"].map(dataset.classes.index).astype(np.int64),
        split="train",
    )
    left_out = table[~good].assign(path=table.loc[~good, "row"].map(_name), split="train")
    unknown = int(left_out["reason"].str.endswith(UNKNOWN).sum())
    require(
        len(images) > 0,
        f"Expected corrections of {name} to train on, but all {len(table)} are left out, "
        f"{unknown} of them since their label {UNKNOWN}; "
        f"the newest: {table['reason'].iloc[0] if len(table) else ''}.",
    )
    together = pd.concat([dataset.images, images[dataset.images.columns]])
    excluded = pd.concat([dataset.excluded, left_out[dataset.excluded.columns]])
    return replace(
        dataset,
        images=together.sort_values("content").reset_index(drop=True),
        excluded=excluded.reset_index(drop=True),
        feedback=replace(known, images=len(images), left_out=len(left_out), unknown=unknown),
    )


def tags(dataset: Dataset) -> dict[str, str]:
    """What a run, or a version, says of the corrections among its images."""
    held = dataset.feedback
    if held is None:
        return {}
    return {
        "feedback": str(held.images),
        "feedback_digest": held.digest,
        "feedback_until": str(held.until),
    }


def began_with(run_id: str) -> Feedback | None:
    """What a search's run says that it began with; None where it was interrupted before that."""
    told = mlflow.get_run(run_id).data.tags
    if "feedback_digest" not in told:
        return None
    return Feedback(told["feedback_digest"], int(told["feedback_until"]))


def public(setting: str) -> str:
    """The parameter as it may be logged: without a password."""
    return without_password(setting) if "://" in setting else setting


def from_anywhere(setting: str) -> str:
    """The parameter for processes in other folders, which have a password from elsewhere."""
    return database.from_anywhere(public(setting)) if "://" in setting else setting


def _against(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """A set's table, with the reasons that the data set gives to leave an image out."""
    table = table.copy()
    good = table["reason"] == ""
    foreign = good & ~table["class"].isin(dataset.classes)  # it was a class when the set was made
    table.loc[foreign, "reason"] = [_unknown(name) for name in table.loc[foreign, "class"]]
    held = dataset.images.set_index("content")
    for at in table.index[good & table["content"].isin(held.index)]:
        row = table.loc[at]
        equal = held.loc[row["content"]]
        contradicts = equal["class"] != row["class"]
        labelled = f", which is labelled {equal['class']}" if contradicts else ""
        table.loc[at, "reason"] = f"equal to {equal['path']}{labelled}"
    return table


def _write(engine: Engine, rows: Sequence[Row], classes: Sequence[str]) -> Path:
    """The folder of the set that the rows, newest first, make; what is there already stays."""
    where = cache.folder("feedback")
    _sweep(where)
    part = where / f".{uuid.uuid4().hex}{SUFFIX}"
    part.mkdir()
    try:
        table = _newest(pd.DataFrame(_read(engine, rows, classes, part), columns=COLUMNS))
        _tidy(part, set(table.loc[table["reason"] == "", "path"]))
        with replacing(part / TABLE) as file:
            table.to_parquet(file)
        target = _folder(cache.key(*table.itertuples(index=False, name=None)))
        try:
            part.rename(target)
        except OSError:  # it has been read before, or another process was faster
            if not target.exists():
                raise
        return target
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(
    engine: Engine, rows: Sequence[Row], classes: Sequence[str], part: Path
) -> Iterator[tuple[object, ...]]:
    """A row of COLUMNS for each row of the log, its image written below `part`."""
    for name in {row.label for row in rows} & set(classes):
        (part / name).mkdir()

    def look(row: Row) -> tuple[object, ...]:
        if row.label not in classes:
            return row.id, "", "", "", 0, 0, _unknown(row.label)
        try:
            path, *measured = _image(engine, row, part)
        except ImageError as error:
            return row.id, row.label, "", "", 0, 0, str(error)
        return row.id, row.label, path, *measured, ""

    with (
        ThreadPoolExecutor(min(READERS, cores())) as pool,
        progress("reading feedback", len(rows)) as done,
    ):
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            yield from pool.map(look, chunk)
            done(len(chunk))


def _image(engine: Engine, row: Row, part: Path) -> tuple[str, str, int, int]:
    """Writes a row's image. Returns its path below `part`, digest of its pixels, width and height.

    Raises ImageError where it cannot be used.
    """
    content = FEEDBACK.c.image
    bounded = select(content).where(FEEDBACK.c.id == row.id, func.length(content) <= MAX_BYTES)
    with engine.connect() as connection:
        found = connection.execute(bounded).scalar()
    if found is None:
        raise ImageError(f"more than the bound of {MAX_BYTES:,} bytes, or gone from the log")
    with opened(found) as image:
        kind = image.format or ""
        measured = audit.measure(image)
    name = f"{hashlib.sha256(found).hexdigest()}.{SUFFIXES.get(kind, kind.lower())}"
    with replacing(part / row.label / name) as file:
        file.write(found)
    return f"{row.label}/{name}", *measured


def _newest(table: pd.DataFrame) -> pd.DataFrame:
    """Leaves of equal images, in rows from the newest to the oldest, the first."""
    good = table["reason"] == ""
    first = table[good].drop_duplicates("content").set_index("content")
    for at in table.index[good & table["content"].duplicated()]:
        row = table.loc[at]
        newer = first.loc[row["content"]]
        labelled = f", which says {newer['class']}" if newer["class"] != row["class"] else ""
        table.loc[at, "reason"] = f"equal to the newer {_name(newer['row'])}{labelled}"
    return table


def _tidy(part: Path, kept: set[str]) -> None:
    """Removes the images of rows that are left out."""
    for path in part.glob("*/*"):
        if str(path.relative_to(part)) not in kept:
            path.unlink()


def _sweep(where: Path) -> None:
    """Removes what killed processes left half-written, once nobody can be writing it any more."""
    for part in where.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # another process may be sweeping too
            if time.time() - part.stat().st_mtime > cache.STALE:
                shutil.rmtree(part)


def _folder(digest: str) -> Path:
    return cache.folder("feedback") / digest


def _name(row: int) -> str:
    return f"feedback {row}"


def _unknown(label: str) -> str:
    """Why a label that anybody may have written is left out; as `repr` has it, it is one line."""
    shown = label if len(label) <= SHOWN else f"{label[:SHOWN]}..."
    return f"its label {shown!r} {UNKNOWN}"


def _listed(engine: Engine, name: str, until: int | None = None) -> list[Row]:
    """The model's rows, newest first; until: id of the newest that counts.

    Raises UserError where there is none.
    """
    wanted = select(FEEDBACK.c.id, FEEDBACK.c.label).where(FEEDBACK.c.model_name == name)
    if until is not None:
        wanted = wanted.where(FEEDBACK.c.id <= until)
    rows: list[Row] = []
    if inspect(engine).has_table(FEEDBACK.name):
        with engine.connect() as connection:
            found = connection.execute(wanted.order_by(FEEDBACK.c.id.desc()))
            rows = [Row(int(row.id), str(row.label)) for row in found]
    require(
        bool(rows),
        f"Expected corrections of {name} in the inference log, got none; people make them on the "
        "page of `mlflow run . -e app`.",
    )
    return rows


@contextmanager
def _opened(setting: str) -> Iterator[Engine]:
    """The log that a parameter names.

    Raises UserError where it does not answer, also later on.
    """
    _require_unseen(setting)
    text = os.environ.get("LOOKOUT_LOG", "") if setting == FROM_ENVIRONMENT else setting
    require(
        bool(text),
        f"Expected the URL of an inference log in LOOKOUT_LOG, which {FROM_ENVIRONMENT!r} stands "
        "for, but it is not set.",
    )
    url = _parsed(text)
    path = Path(url.database or "")
    require(
        url.get_backend_name() != "sqlite" or path.is_file(),
        f"Expected an inference log, but {path} is no file; give the log of the server that took "
        "the corrections.",
    )
    try:
        engine = open_database(text)
    except (ValueError, ArgumentError) as error:
        raise UserError(NO_URL) from error
    try:
        yield engine
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Expected an inference log that answers, but it says: {cause.rstrip('.')}."
        ) from error
    finally:
        engine.dispose()


def _require_unseen(setting: str) -> None:
    """Raises UserError for a URL with a password that `mlflow run` has logged."""
    if setting == FROM_ENVIRONMENT:
        return
    url = _parsed(setting)
    holds = bool(url.password) or any("password" in key.lower() for key in url.query)
    require(
        not (holds and os.environ.get("MLFLOW_RUN_ID")),
        "Expected a URL of the inference log without a password, since `mlflow run` logs its "
        f"parameters and has logged this one: change it, and give {FROM_ENVIRONMENT!r} with the "
        "URL in LOOKOUT_LOG.",
    )


def _parsed(text: str) -> URL:
    """Raises UserError for what is no URL, which it does not repeat: it may hold a password."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UserError(NO_URL) from error
    require(
        "@" not in (url.host or ""),
        "Expected a URL of the inference log with one @; write one in a password as %40.",
    )
    return url
