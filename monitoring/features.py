"""What monitoring measures on an image, and the table of it: one row an answered image.

`frame` makes both the reference that a model carries and the current rows of a check, so the two
are always comparable. An image feature is added in `serving/features.py`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from serving.features import FEATURES, SCALE, measure
from serving.folder import Answer
from serving.predictor import ImageError, Probabilities, opened, photo


def features(content: bytes) -> dict[str, float]:
    """Scalar features of one image's bytes, as `serving.features.measure`. Raises ImageError."""
    with opened(content) as image:
        seen = photo(image, SCALE)
        return measure(seen.image, seen.width, seen.height)


def frame(answers: Iterable[Answer], classes: Sequence[str]) -> pd.DataFrame:
    """One row an answered image; those that could not be read are left out.

    Columns: `path`, `label`, `confidence` (0..1), `entropy` (nats), `FEATURES`, and `p_CLASS`
    (0..1) for every class. The answers are consumed one by one: no image's bytes are kept.
    """
    rows = [row for answer in answers if (row := _row(answer, classes)) is not None]
    columns = ["path", "label", "confidence", "entropy", *FEATURES, *probability_columns(classes)]
    return pd.DataFrame(rows, columns=columns)


def probability_columns(classes: Sequence[str]) -> list[str]:
    """The columns of a frame that hold the probability of each class."""
    return [f"p_{name}" for name in classes]


def _row(answer: Answer, classes: Sequence[str]) -> dict[str, object] | None:
    if answer.probabilities is None:
        return None
    try:
        measured = features(answer.content)
    except ImageError:  # the model's own code may read more than this version does
        return None
    shares = dict(zip(probability_columns(classes), map(float, answer.probabilities), strict=True))
    return {
        "path": str(answer.path),
        "label": classes[int(answer.probabilities.argmax())],
        "confidence": float(answer.probabilities.max()),
        "entropy": _entropy(answer.probabilities),
        **measured,
        **shares,
    }


def _entropy(probabilities: Probabilities) -> float:
    positive = probabilities[probabilities > 0].astype(np.float64)
    return float(-(positive * np.log(positive)).sum())
