"""The written gates between a candidate and the alias `champion`.

A gate is a pure function (candidate, bounds) -> refusal: one sentence, or an empty string where the
candidate passes. To add one, write the function and add a line to `GATES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from pipelines.config import GateSettings

PASSED = "passed"


@dataclass(frozen=True)
class Comparison:
    """A candidate against today's champion on the same images, image by image.

    only_candidate, only_champion: images that one got right and the other wrong.
    """

    champion_version: str
    images: int
    candidate_accuracy: float
    champion_accuracy: float
    only_candidate: int
    only_champion: int

    @property
    def p_value(self) -> float:
        """Exact McNemar test, two-sided: a binomial test on the images that one alone got right.

        McNemar 1947, Psychometrika 12; the exact form as in Agresti, Categorical Data Analysis.
        """
        discordant = self.only_candidate + self.only_champion
        if discordant == 0:
            return 1.0
        return float(binomtest(self.only_candidate, discordant, 0.5).pvalue)


@dataclass(frozen=True)
class Candidate:
    """What the gates look at; fractions 0..1, milliseconds, megabytes.

    largest_class: share of the test images that the most frequent class holds.
    comparison: None where there is no champion, or this is the champion; incomparable: why a
    champion that is there could not be compared.
    """

    test_accuracy: float
    overfit_gap: float
    latency_ms: float
    size_mb: float
    largest_class: float
    comparison: Comparison | None = None
    incomparable: str = ""


Gate = Callable[[Candidate, GateSettings], str]


def min_accuracy(candidate: Candidate, bounds: GateSettings) -> str:
    """Refuses what is no better than the bound, or than answering the largest class always."""
    if candidate.test_accuracy < bounds.min_accuracy:
        return (
            f"Expected a test accuracy of at least {bounds.min_accuracy:.4f}, "
            f"got {candidate.test_accuracy:.4f}."
        )
    if candidate.test_accuracy <= candidate.largest_class:
        return (
            f"Expected a test accuracy above the largest class's share of "
            f"{candidate.largest_class:.4f}, got {candidate.test_accuracy:.4f}."
        )
    return ""


def max_overfit_gap(candidate: Candidate, bounds: GateSettings) -> str:
    """Refuses what knows its training images by heart."""
    if candidate.overfit_gap > bounds.max_overfit_gap:
        return (
            f"Expected a train minus test accuracy of at most {bounds.max_overfit_gap:.4f}, "
            f"got {candidate.overfit_gap:.4f}."
        )
    return ""


def max_latency_ms(candidate: Candidate, bounds: GateSettings) -> str:
    """Refuses what answers too slowly; a bound of 0 is none."""
    if bounds.max_latency_ms and candidate.latency_ms > bounds.max_latency_ms:
        return (
            f"Expected at most {bounds.max_latency_ms:g} ms for one image on one thread, "
            f"got {candidate.latency_ms:.2f}."
        )
    return ""


def max_size_mb(candidate: Candidate, bounds: GateSettings) -> str:
    """Refuses what is too large; a bound of 0 is none."""
    if bounds.max_size_mb and candidate.size_mb > bounds.max_size_mb:
        return f"Expected at most {bounds.max_size_mb:g} MB, got {candidate.size_mb:.2f}."
    return ""


def not_worse(candidate: Candidate, bounds: GateSettings) -> str:
    """Refuses what gets fewer of the same test images right than today's champion."""
    del bounds
    if candidate.incomparable:
        return candidate.incomparable
    comparison = candidate.comparison
    if comparison and comparison.only_candidate < comparison.only_champion:
        return (
            f"Expected at least the {comparison.champion_accuracy:.4f} of champion version "
            f"{comparison.champion_version} on the same {comparison.images} test images, "
            f"got {comparison.candidate_accuracy:.4f} (exact McNemar p = {comparison.p_value:.3g})."
        )
    return ""


GATES: dict[str, Gate] = {
    "min_accuracy": min_accuracy,
    "max_overfit_gap": max_overfit_gap,
    "max_latency_ms": max_latency_ms,
    "max_size_mb": max_size_mb,
    "not_worse": not_worse,
}


def judge(candidate: Candidate, bounds: GateSettings) -> dict[str, str]:
    """Every gate's verdict: PASSED, or the refusal."""
    return {name: gate(candidate, bounds) or PASSED for name, gate in GATES.items()}


def refusals(verdicts: dict[str, str]) -> dict[str, str]:
    """The verdicts that are none of PASSED."""
    return {name: verdict for name, verdict in verdicts.items() if verdict != PASSED}


def compare(
    version: str, truth: pd.Series, candidate: pd.Series, champion: pd.Series
) -> Comparison:
    """Two models' labels on the same images, against the truth; all three in the same order."""
    right = (candidate.to_numpy() == truth.to_numpy(), champion.to_numpy() == truth.to_numpy())
    return Comparison(
        version,
        len(truth),
        float(right[0].mean()),
        float(right[1].mean()),
        int(np.sum(right[0] & ~right[1])),
        int(np.sum(right[1] & ~right[0])),
    )
