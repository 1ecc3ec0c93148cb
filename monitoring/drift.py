"""Whether current rows differ from the reference: pure statistics, and the table of detectors.

A detector is one pure function (reference, current) -> Outcome and one line in `DETECTORS`. It is
run on each column that its line names; the p-values of all of them are corrected together (Holm),
so `alpha` bounds the chance of any false alarm in a check. What is significant must also be large:
below the `floor` of its line a difference is real, but a hair that a million rows would find.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from monitoring.features import probability_columns
from serving.features import FEATURES
from serving.settings import require

Values = NDArray[np.generic]

MINIMUM = 30  # rows: fewer hold no difference that a corrected test can tell from chance
EXPECTED = 5  # counts: below, the chi-squared distribution is no longer a fair approximation
DRAWS = 19_999  # of the exact test: its smallest p-value, 5e-5, outlives Holm over 1,000 columns
# Share of images. Parts of one collection (scenes: train, test, new) lie up to 0.055 apart by
# chance and by their mix of classes; a tenth of foreign images moves what tells them apart by 0.1.
FLOOR = 0.08
VARIATION, DISTANCE = "total variation distance", "KS distance"


@dataclass(frozen=True)
class Outcome:
    """What one test says of one column."""

    statistic: float
    p_value: float
    effect_size: float


@dataclass(frozen=True)
class Detector:
    """One line of the table: which test, on which columns, and from what effect size it counts."""

    test: Callable[[Values, Values], Outcome]
    columns: Callable[[Sequence[str]], Sequence[str]]
    name: str
    effect: str
    floor: float


@dataclass(frozen=True)
class Finding:
    """What a detector says of one column, after the correction over all of them."""

    detector: str
    column: str
    statistic: float
    p_value: float
    corrected_p_value: float
    effect_size: float
    floor: float
    moved: bool


@dataclass(frozen=True)
class Verdict:
    """Of one check: every detector's finding, and how accurate the model is expected to be."""

    findings: tuple[Finding, ...]
    alpha: float
    reference_images: int
    images: int
    reference_accuracy: float
    estimated_accuracy: float

    @property
    def moved(self) -> tuple[Finding, ...]:
        """The findings that are flagged, the largest effect first."""
        flagged = (finding for finding in self.findings if finding.moved)
        return tuple(sorted(flagged, key=lambda finding: -finding.effect_size))

    @property
    def drift(self) -> bool:
        """Whether any detector is flagged."""
        return bool(self.moved)

    @property
    def sentence(self) -> str:
        """The verdict for a reader."""
        total = len(self.findings)
        if not self.moved:
            return f"No drift: none of {total} detectors moved."
        most = self.moved[0]
        return (
            f"Drift: {len(self.moved)} of {total} detectors moved, "
            f"most of all {most.column} (effect size {most.effect_size:.2f})."
        )


def chi_squared(reference: Values, current: Values) -> Outcome:
    """Pearson's chi-squared test of homogeneity on categories.

    Where an expected count is below `EXPECTED` (Cochran 1954, doi 10.2307/3001666), the p-value
    is instead the share of `DRAWS` tables with the same margins that differ at least as much: a
    Monte Carlo exact test, counted so that it never says 0 (Phipson and Smyth 2010,
    doi 10.2202/1544-6115.1585). Effect size: the total variation distance, 0..1, the smallest
    share of images whose label would have to change (Gibbs and Su 2002,
    doi 10.1111/j.1751-5823.2002.tb00178.x).
    """
    labels, codes = np.unique(np.concatenate([reference, current]), return_inverse=True)
    counts = np.bincount(codes, minlength=len(labels))
    drawn = np.bincount(codes[len(reference) :], minlength=len(labels))
    statistic = float(_pearson(drawn[None], counts)[0])
    expected = counts.min() * min(len(reference), len(current)) / len(codes)
    if expected >= EXPECTED:
        p_value = float(stats.chi2.sf(statistic, len(labels) - 1)) if len(labels) > 1 else 1.0
    else:
        p_value = _exact(statistic, counts, len(current))
    shares = np.abs((counts - drawn) / len(reference) - drawn / len(current))
    return Outcome(statistic, p_value, float(shares.sum() / 2))


def kolmogorov_smirnov(reference: Values, current: Values) -> Outcome:
    """Two-sample Kolmogorov-Smirnov test on numbers, two-sided, with its asymptotic p-value.

    On the probabilities of a classifier it is black-box shift detection (Lipton et al. 2018,
    arXiv:1802.03916), the best of the detectors that Rabanser et al. 2019 (arXiv:1810.11953)
    compare. Ties make it conservative: a constant column has p-value 1. Effect size: its own
    statistic, the largest difference of the cumulative shares, 0..1, which is the least share of
    images that must have changed.
    """
    result = stats.ks_2samp(reference, current, method="asymp")
    distance = float(result.statistic)
    return Outcome(distance, float(result.pvalue), distance)


DETECTORS: dict[str, Detector] = {
    "labels": Detector(chi_squared, lambda _: ("label",), "chi-squared", VARIATION, FLOOR),
    "probabilities": Detector(kolmogorov_smirnov, probability_columns, "KS", DISTANCE, FLOOR),
    "confidence": Detector(kolmogorov_smirnov, lambda _: ("confidence",), "KS", DISTANCE, FLOOR),
    "features": Detector(kolmogorov_smirnov, lambda _: FEATURES, "KS", DISTANCE, FLOOR),
}


def check(
    reference: pd.DataFrame, current: pd.DataFrame, classes: Sequence[str], alpha: float = 0.05
) -> Verdict:
    """The verdict on `current` against `reference`, two frames of `monitoring.features.frame`.

    reference: also has a column `truth`, the right labels.
    alpha: the most that the chance of a false alarm may be, of all detectors together.
    Raises UserError where the reference lacks a column, or either has fewer than `MINIMUM` rows.
    """
    pairs = [(key, column) for key, line in DETECTORS.items() for column in line.columns(classes)]
    _require_columns(reference, [*(column for _, column in pairs), "truth"])
    _require_rows(reference, "the model's reference")
    _require_rows(current, "the images to check")
    outcomes = [
        DETECTORS[key].test(reference[column].to_numpy(), current[column].to_numpy())
        for key, column in pairs
    ]
    corrected = holm([outcome.p_value for outcome in outcomes])
    findings = (
        _finding(key, column, outcome, p_value, alpha)
        for (key, column), outcome, p_value in zip(pairs, outcomes, corrected, strict=True)
    )
    right = (reference["label"] == reference["truth"]).to_numpy()
    return Verdict(
        findings=tuple(findings),
        alpha=alpha,
        reference_images=len(reference),
        images=len(current),
        reference_accuracy=float(right.mean()),
        estimated_accuracy=estimated_accuracy(
            reference["confidence"].to_numpy(),
            float(right.mean()),
            current["confidence"].to_numpy(),
        ),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being many, in the order given (Holm 1979, jstor 4615733).

    Rejecting those below alpha keeps the chance of any false alarm below alpha, however the tests
    depend on each other.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def estimated_accuracy(
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


def _finding(
    key: str, column: str, outcome: Outcome, corrected_p_value: float, alpha: float
) -> Finding:
    floor = DETECTORS[key].floor
    return Finding(
        detector=key,
        column=column,
        statistic=outcome.statistic,
        p_value=outcome.p_value,
        corrected_p_value=corrected_p_value,
        effect_size=outcome.effect_size,
        floor=floor,
        moved=corrected_p_value <= alpha and outcome.effect_size >= floor,
    )


def _exact(statistic: float, counts: NDArray[np.int64], current: int) -> float:
    """Share of random tables with the margins of this one that differ at least as much from it."""
    generator = np.random.default_rng(0)
    size = max(1, min(DRAWS, 2_000_000 // len(counts)))
    as_extreme = 0
    for start in range(0, DRAWS, size):
        tables = generator.multivariate_hypergeometric(
            counts, current, min(size, DRAWS - start), method="marginals"
        )
        as_extreme += int((_pearson(tables, counts) >= statistic * (1 - 1e-12)).sum())
    return (1 + as_extreme) / (1 + DRAWS)


def _pearson(drawn: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's statistic of 2 x categories tables, given their second rows and their sums."""
    share = drawn.sum(axis=1, keepdims=True) / counts.sum()
    expected = counts * share
    terms = (drawn - expected) ** 2 / (expected * (1 - share))
    return np.asarray(terms.sum(axis=1), np.float64)


def _require_columns(reference: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in reference.columns]
    require(
        not missing,
        f"Expected columns {', '.join(missing)} in the model's reference, but it lacks them; "
        "register the model again with `mlflow run .`.",
    )


def _require_rows(frame: pd.DataFrame, what: str) -> None:
    require(
        len(frame) >= MINIMUM,
        f"Expected at least {MINIMUM} answered images in {what}, got {len(frame)}; "
        "fewer cannot tell drift from chance.",
    )
