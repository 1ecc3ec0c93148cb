"""How right a model is, with how sure that is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """Share of images that get their right label, 0..1, with its 95% interval.

    images: that it was measured or estimated on.
    """

    value: float
    low: float
    high: float
    images: int
