"""Where current images come from: a folder, a table of scores, or the inference log.

Each gives the same: a frame as `monitoring.features.frame` makes it, as far as the source knows its
columns, with what is known of right labels, and what a reader has to be told.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from tqdm import tqdm

from monitoring.features import (
    NOVELTY,
    entropy,
    frame,
    of_photo,
    probability_columns,
)
from monitoring.window import Window
from serving import folder
from serving.features import FEATURES
from serving.predictor import ImageError
from serving.registered import RegisteredModel
from serving.settings import UserError, require


@dataclass(frozen=True)
class Labelled:
    """Images whose right label is known: what it is, and what the model answered, one a row."""

    truth: Sequence[str]
    label: Sequence[str]


@dataclass
class Current:
    """The images to check.

    rows: a frame; unreadable: files without an answer, None where the source cannot know; labels:
    of the images whose right label is known; left_out: sentences for the reader; picture: the bytes
    of the image in a row of the frame, given its position, or an ImageError.
    """

    rows: pd.DataFrame
    unreadable: int | None
    picture: Callable[[int], bytes]
    labels: Labelled | None = None
    left_out: list[str] = field(default_factory=list)


def of_folder(
    model: RegisteredModel, root: Path, window: Window, *, labelled: bool = False
) -> Current:
    """The images below a folder, streamed; a window counts by the time when a file was changed.

    labelled: the first folder below `root` is the right label of what lies in it.
    Raises UserError where there is no such folder or no file, or a label is no class of the model.
    """
    found = folder.files(root)
    paths = _within(found, window)
    classes = model.classifier.card.classes
    if labelled:
        require_classes({path.relative_to(root).parts[0] for path in paths}, classes, str(root))
    answered: list[Path] = []
    answers = folder.answer(model.classifier, paths, of_photo)
    rows = frame(_noted(_progress(answers, len(paths)), answered), classes)
    below = [path.relative_to(root) for path in answered]
    rows["path"] = list(map(folder.written, below))
    labels = None
    if labelled:
        labels = Labelled([path.parts[0] for path in below], rows["label"].tolist())
    left_out = []
    if outside := len(found) - len(paths):
        left_out.append(f"{outside:,} files were changed outside of this time: not looked at.")
    unreadable = len(paths) - len(rows)
    return Current(rows, unreadable, lambda row: folder.read(answered[row]), labels, left_out)


def of_table(model: RegisteredModel, path: Path, window: Window) -> Current:
    """The rows of a Parquet file as `score` writes it: `label`, `confidence`, `p_CLASS`, `error`.

    What else a frame knows is used where it is there; `truth` holds right labels, `time` says when,
    for a window: in UTC where it does not say otherwise, text as ISO 8601 has it.
    Raises UserError for what is no such file, another model's classes, and numbers out of their
    range.
    """
    require(path.is_file(), f"Expected a Parquet file of scores, but {path} is no file.")
    classes = model.classifier.card.classes
    known = _read(path, classes)
    known = _windowed(known, window, path)
    if "error" in known:
        answered = known["error"].isna() | (known["error"] == "")
    else:
        answered = known["label"].notna()
    rows = known[answered].reset_index(drop=True)
    rows["label"] = rows["label"].astype("str")
    names = probability_columns(classes)
    shares = _numbers(rows, names, path)
    require(
        bool((shares >= 0).all() and (shares <= 1).all()),
        f"Expected probabilities from 0 to 1 in {path}, got others.",
    )
    others = [name for name in rows if name in (NOVELTY, *FEATURES) or _is_embedding(name)]
    rows[others] = _numbers(rows, others, path)
    require_classes(set(rows["label"]), classes, str(path))
    rows = rows.assign(confidence=shares.max(axis=1, initial=0), entropy=entropy(shares))
    labels = None
    if "truth" in rows and (right := rows["truth"].notna()).any():
        told = rows.loc[right, ["truth", "label"]].astype("str")
        labels = Labelled(told["truth"].tolist(), told["label"].tolist())
        require_classes(set(labels.truth), classes, str(path))
    unreadable = int((~answered).sum()) if "error" in known else None
    return Current(rows, unreadable, _no_picture, labels, _lacking(rows))


def require_classes(labels: set[Any], classes: Sequence[str], where: str) -> None:
    """Raises UserError where one of the labels is no class of the model."""
    unknown = sorted(map(str, labels - set(classes)))
    require(
        not unknown,
        f"Expected the classes of the model ({listed(classes)}) in {where}, but it has "
        f"{listed(unknown)}; check with the model that they belong to.",
    )


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a reader, the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _within(paths: list[Path], window: Window) -> list[Path]:
    """The files of a window, in the order given."""
    if window.after is None and window.most is None:
        return paths
    changed = {path: _changed(path) for path in paths}
    after = window.after.timestamp() if window.after else -np.inf
    found = [path for path in paths if after < changed[path] <= window.until.timestamp()]
    if window.most and len(found) > window.most:
        newest = set(sorted(found, key=lambda path: (changed[path], path))[-window.most :])
        found = [path for path in found if path in newest]
    return found


def _changed(path: Path) -> float:
    """Seconds since 1970; of a file that is gone by now, before all windows."""
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except OSError:
        return -np.inf


def _noted(answers: Iterator[folder.Answer], paths: list[Path]) -> Iterator[folder.Answer]:
    """The answers; `paths` gets the paths of those that `frame` makes a row of."""
    for answer in answers:
        if answer.probabilities is not None:
            paths.append(answer.path)
        yield answer


def _progress(answers: Iterator[folder.Answer], total: int) -> Iterator[folder.Answer]:
    """The answers, with a bar where standard error is a terminal."""
    yield from tqdm(answers, total=total, unit="image", disable=not sys.stderr.isatty())


def _read(path: Path, classes: Sequence[str]) -> pd.DataFrame:
    """The columns of a table of scores that a check can use."""
    names = probability_columns(classes)
    try:
        there = parquet.read_schema(path).names
        missing = [name for name in ("label", *names) if name not in there]
        others = [n for n in there if n.startswith("p_") and n not in names]
        require(
            not missing and not others,
            f"Expected label and the probabilities of the model's classes ({listed(names)}) in "
            f"{path}, but {'it lacks' if missing else 'it also has'} {listed(missing or others)}; "
            "check with the model that it was scored by.",
        )
        more = {"path", "error", "truth", "time", NOVELTY, *FEATURES}
        wanted = [n for n in there if n in more or n in ("label", *names) or _is_embedding(n)]
        require(
            len(set(wanted)) == len(wanted),
            f"Expected every column of {path} once, but some have the same name.",
        )
        return parquet.read_table(path, columns=wanted).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Expected a Parquet file of scores, but {path} cannot be read as one; write it with "
            "`-e score -P output=NAME.parquet`."
        ) from error


def _numbers(rows: pd.DataFrame, names: Sequence[str], path: Path) -> NDArray[np.float32]:
    """The columns' values (rows, names). Raises UserError for what is no finite number."""
    try:
        values: NDArray[np.float32] = rows[list(names)].to_numpy(np.float32)
        right = bool(np.isfinite(values).all())
    except (ValueError, TypeError):
        right = False
    require(right, f"Expected numbers in {listed(names)} of {path}, got others.")
    return values


def _is_embedding(name: str) -> bool:
    return name.startswith("e_") and name[2:].isdecimal()


def _windowed(rows: pd.DataFrame, window: Window, path: Path) -> pd.DataFrame:
    if window.after is None and window.most is None:
        return rows
    require(
        "time" in rows or window.after is None,
        f"Expected a column time in {path}, for a window of time.",
    )
    if "time" in rows:
        try:
            rows = rows.assign(time=pd.to_datetime(rows["time"], utc=True, format="ISO8601"))
        except (ValueError, TypeError) as error:
            raise UserError(f"Expected times in the column time of {path}, got others.") from error
        rows = rows.sort_values("time", kind="stable", na_position="first")
    if window.after is not None:
        rows = rows[(rows["time"] > window.after) & (rows["time"] <= window.until)]
    return rows.tail(window.most) if window.most else rows


def _lacking(rows: pd.DataFrame) -> list[str]:
    """What a reader has to know of columns that a source has not."""
    missing = [name for name in FEATURES if name not in rows]
    found = []
    if missing:
        found.append(f"Not known here, so not compared: {', '.join(missing)}.")
    if NOVELTY not in rows:
        found.append("The embeddings of these images are not known, so not compared.")
    return found


def _no_picture(row: int) -> bytes:
    raise ImageError(f"no picture of row {row}")


def now() -> datetime:
    """The present, in whole seconds, UTC."""
    return datetime.now(UTC).replace(microsecond=0)
