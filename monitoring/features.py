"""What monitoring measures on an image, and the table of it: one row an answered image.

`frame` makes both the reference that a model carries and the current rows of a check, so the two
are always comparable. An image feature is added in `serving/features.py`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.features import FEATURES, SCALE, measure
from serving.folder import Answer, written
from serving.predictor import HALF, Photo, opened, photo

NOVELTY = "novelty"
FILES = ("files", "unreadable")  # attributes of a reference: counts of what its data set holds


def features(content: bytes) -> dict[str, float]:
    """Scalar features of one image's bytes, as `serving.features.measure`. Raises ImageError."""
    with opened(content) as image:
        return of_photo(photo(image, SCALE))


def of_photo(seen: Photo) -> dict[str, float]:
    """As `features`, of a photo that is as large as SCALE where it is so itself."""
    return measure(seen.image, seen.width, seen.height)


def frame(answers: Iterable[Answer], classes: Sequence[str]) -> pd.DataFrame:
    """One row an answered image; those that could not be read are left out.

    answers: those of `serving.folder.answer` with `of_photo` as its `measure`. Columns: `path`
    (as `serving.folder.written`), those of `told`, and `FEATURES`. The answers are consumed one by
    one: no image is kept.
    """
    paths, measured, probabilities, embeddings = [], [], [], []
    for answer in answers:
        if answer.probabilities is not None:
            paths.append(written(answer.path))
            measured.append([answer.measured[name] for name in FEATURES])
            probabilities.append(answer.probabilities)
            embeddings.append(answer.embedding)
    size = len(paths)
    table = told(
        np.reshape(probabilities, (size, len(classes))),
        np.reshape(embeddings, (size, -1)) if size else np.empty((0, 0)),
        classes,
    )
    scalars = np.reshape(np.asarray(measured, np.float64), (size, len(FEATURES)))
    own = pd.DataFrame(scalars, columns=list(FEATURES))
    return pd.concat([pd.DataFrame({"path": pd.Series(paths, dtype="str")}), table, own], axis=1)


def told(
    probabilities: NDArray[np.floating], embeddings: NDArray[np.floating], classes: Sequence[str]
) -> pd.DataFrame:
    """What the model told of images, a row each.

    probabilities: (n, classes), 0..1; embeddings: (n, width), width 0 where there are none, which
    are rounded as the inference log does, or they would differ from those in it.
    Columns: `label`, `confidence` (0..1), `entropy` (nats), `p_CLASS` (0..1) for every class; with
    embeddings `e_0`, `e_1`, ... and `novelty` (0..1), the last number of each.
    """
    values = probabilities.astype(np.float32, copy=False)
    best = values.argmax(axis=1) if len(values) else np.empty(0, np.int64)
    table = pd.DataFrame(
        {
            "label": pd.Series(np.asarray(classes, object)[best], dtype="str"),
            "confidence": values.max(axis=1, initial=0),
            "entropy": entropy(values),
        }
    )
    columns = [pd.DataFrame(values, columns=probability_columns(classes))]
    if width := embeddings.shape[1]:
        names = [*(f"e_{i}" for i in range(width - 1)), NOVELTY]
        rounded = np.clip(embeddings, *HALF).astype(np.float16)
        if embeddings.dtype != np.float16:  # of a log, whose rows may be many, they stay so
            rounded = rounded.astype(np.float32)
        columns.append(pd.DataFrame(rounded, columns=names))
    return pd.concat([table, *columns], axis=1)


def entropy(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Of rows (n, classes) of probabilities, in nats, 0 .. log(classes)."""
    found = np.zeros(len(probabilities), np.float32)
    for values in np.asarray(probabilities).T:  # a class at a time: the rows may be many
        found -= values * np.log(np.maximum(values, np.finfo(np.float32).tiny))
    return found


def probability_columns(classes: Sequence[str]) -> list[str]:
    """The columns of a frame that hold the probability of each class."""
    return [f"p_{name}" for name in classes]


def embedding_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that hold the embedding, in order; none where it has none."""
    names = (f"e_{i}" for i in range(frame.shape[1]))
    return [name for name in names if name in frame.columns]
