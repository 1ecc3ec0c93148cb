"""How accurate a model is on current images: estimated without labels, measured with them.

The estimate asks of every image how likely its answer is right, given how sure the model was and
what it saw. A model is sure of itself on blurred and noisy images too, so that is learnt when it is
registered, from validation images corrupted in many ways (`pipelines/correctness.py`; Schelter et
al. 2020, Learning to validate the predictions of black box classifiers on unseen data, doi
10.1145/3318464.3380604). A model without that falls back on average thresholded confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from monitoring.features import NOVELTY, embedding_columns, probability_columns
from serving.durable import replacing

CORRECTNESS = "correctness.npz"  # in the folder of a registered model
Z = 1.959964  # of a 95% interval
CLIP = 5.0  # standard deviations: further out, a quadratic has learnt nothing
CHUNK = 20_000  # rows at once
TINY = 1e-6


@dataclass(frozen=True)
class Accuracy:
    """Share of images that get their right label, 0..1, with its 95% interval."""

    value: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Correctness:
    """Chance that an answer is right: a quadratic logistic model of `describe`.

    mean, scale: (inputs,) of what it was fitted on; weights: (terms,) on `quadratic`; error:
    standard deviation of how far its mean was off on kinds of corruption that it had not seen.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    intercept: float
    error: float

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """inputs: (n, inputs). Returns (n,), 0..1."""
        values = np.clip((inputs - self.mean) / self.scale, -CLIP, CLIP)
        width = values.shape[1]
        products = np.zeros((width, width), np.float32)
        products[np.triu_indices(width)] = self.weights[width:]
        terms = values @ self.weights[:width] + ((values @ products) * values).sum(axis=1)
        return np.asarray(special.expit(terms.astype(np.float64) + self.intercept))

    def mean_of(self, frame: pd.DataFrame, classes: Sequence[str]) -> float:
        """Over the rows of a frame with an embedding, CHUNK at a time."""
        parts = (frame.iloc[start : start + CHUNK] for start in range(0, len(frame), CHUNK))
        return float(sum(self(describe(part, classes)).sum() for part in parts) / len(frame))

    def write(self, path: Path) -> None:
        """As a file of NumPy arrays."""
        with replacing(path) as file:
            np.savez(
                file,
                mean=self.mean,
                scale=self.scale,
                weights=self.weights,
                numbers=np.array([self.intercept, self.error]),
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote; nothing in it is unpickled."""
        with np.load(path, allow_pickle=False) as file:
            intercept, error = file["numbers"].tolist()
            return cls(file["mean"], file["scale"], file["weights"], intercept, error)


def describe(frame: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float32]:
    """What `Correctness` is asked about: (rows, inputs), of a frame with an embedding."""
    names = probability_columns(classes)
    values = frame[names].to_numpy(np.float32)
    best = np.partition(values, -2, axis=1)
    known = [
        np.log((best[:, -1] + TINY) / (1 - best[:, -1] + TINY)),
        best[:, -1] - best[:, -2],
        frame["entropy"].to_numpy(np.float32),
        frame[NOVELTY].to_numpy(np.float32),
    ]
    return np.column_stack([*known, frame[embedding_columns(frame)].to_numpy(np.float32)])


def quadratic(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values (n, inputs), clipped, and all their products of two: (n, terms)."""
    clipped = np.clip(values, -CLIP, CLIP).astype(np.float32)
    left, right = np.triu_indices(clipped.shape[1])
    return np.hstack([clipped, clipped[:, left] * clipped[:, right]])


def estimate(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    classes: Sequence[str],
    correctness: Correctness | None = None,
) -> Accuracy:
    """Accuracy to expect on the current rows, anchored at that of the reference, which is known.

    reference: with `truth`. correctness: of the model; None, or rows without its embedding:
    `thresholded_confidence`. The interval counts the rows of both sides, and how far the
    model of correctness was off on corruptions that were new to it, as far as the estimate moved.
    """
    right = (reference["label"] == reference["truth"]).to_numpy()
    accuracy = float(right.mean())
    if correctness is None or not _is_embedded(reference, current):
        confidences = (frame["confidence"].to_numpy(np.float64) for frame in (reference, current))
        value = thresholded_confidence(next(confidences), accuracy, next(confidences))
        moved, error = abs(value - accuracy), UNTRIED
    else:
        before, now = (correctness.mean_of(side, classes) for side in (reference, current))
        value = float(np.clip(accuracy + now - before, 0, 1))
        moved, error = abs(now - before), correctness.error
    sampling = _fair_variance(accuracy, len(reference)) + _fair_variance(value, len(current))
    width = Z * np.sqrt(sampling + (error * min(1.0, moved / ASIDE)) ** 2)
    return Accuracy(
        value, max(0.0, float(value - width)), min(1.0, float(value + width)), len(current)
    )


UNTRIED = 0.15  # the error of thresholded confidence on heavily corrupted scenes, and more
ASIDE = 0.1  # an estimate that moved so far, or further, may be off by the whole error


def _is_embedded(reference: pd.DataFrame, current: pd.DataFrame) -> bool:
    """Whether both sides have an embedding, and the same."""
    both = NOVELTY in reference and NOVELTY in current
    return both and embedding_columns(reference) == embedding_columns(current)


def measured(truth: Sequence[str], label: Sequence[str]) -> Accuracy:
    """The real accuracy, with Wilson's interval (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    truth, label: right and answered labels of one row or more.
    """
    right = np.asarray(truth, object) == np.asarray(label, object)
    n, share = len(right), float(right.mean())
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z / (1 + Z**2 / n) * np.sqrt(_variance(share, n) + Z**2 / (4 * n**2))
    return Accuracy(share, max(0.0, float(middle - width)), min(1.0, float(middle + width)), n)


def by_class(truth: Sequence[str], label: Sequence[str]) -> dict[str, Accuracy]:
    """`measured` on the images of each class that occurs, in the order of their names."""
    table = pd.DataFrame({"truth": list(truth), "label": list(label)})
    return {
        str(name): measured(rows["truth"], rows["label"]) for name, rows in table.groupby("truth")
    }


def thresholded_confidence(
    reference: NDArray[np.float64], accuracy: float, current: NDArray[np.float64]
) -> float:
    """Accuracy to expect on current images without labels, 0..1, from confidences, 0..1.

    Average thresholded confidence (Garg et al. 2022, arXiv:2201.04234): the threshold is where the
    share of the reference above it equals its `accuracy`; the estimate is the share of current
    images above it. Confidences that tie at the threshold count by the fraction that makes the
    estimate exact on the reference.
    """
    right = round(accuracy * len(reference))
    if right == 0:
        return 0.0
    threshold = np.sort(reference)[-right]
    above, tied = (reference > threshold).sum(), (reference == threshold).sum()
    fraction = (right - above) / tied
    return float((current > threshold).mean() + fraction * (current == threshold).mean())


def _variance(share: float, n: int) -> float:
    return share * (1 - share) / n


def _fair_variance(share: float, n: int) -> float:
    """Of a share of n, also of none or all: Agresti and Coull 1998, doi 10.2307/2685469."""
    return _variance((share * n + Z**2 / 2) / (n + Z**2), int(n + Z**2))
