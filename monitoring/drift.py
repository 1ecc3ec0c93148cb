"""Whether current rows differ from the reference: pure statistics, and the table of detectors.

A detector is one line of `DETECTORS`: a pure function (values, draws) -> outcomes, and how large
the difference must be that it finds. `draws` are ways to part the rows into reference and current:
the first is the one to judge, the others are random. The p-values of all detectors are corrected
together by what the random ones give (`monitoring.correction`), so `alpha` bounds the chance of any
false alarm in a check. What is significant must also be large: below the `floor` of its line a
difference is real, but a hair that a million rows would find.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monitoring import correction
from monitoring.accuracy import Accuracy, Correctness, estimate
from monitoring.detectors import (
    Draws,
    Files,
    Outcomes,
    Values,
    chi_squared,
    distance,
    excess,
    kolmogorov_smirnov,
    maximum_mean_discrepancy,
    unreadable,
    upper_tail,
    variation,
    witness,
)
from monitoring.features import NOVELTY, embedding_columns, probability_columns
from serving.features import FEATURES
from serving.settings import require

MINIMUM = 30  # rows: fewer hold no difference that a corrected test can tell from chance
ALPHA = 0.025  # of a check, every detector counted: an alarm without a cause in forty checks
# Share of images. Parts of one collection (scenes: train, test, new) lie up to 0.055 apart by
# chance and by their mix of classes; a tenth of foreign images moves what tells them apart by 0.1.
FLOOR = 0.08
NOVEL = (
    0.02  # of the share of novel images: new scenes have 0.005 more of them than the test images
)
VARIATION, DISTANCE = "total variation distance", "KS distance"
EXCESS, WITNESS = "excess share", "KS distance along the witness"


@dataclass(frozen=True)
class Detector:
    """One line of the table.

    test: on the values of all rows; effect: (reference values, current values) -> least share of
    images that must have changed, 0..1. columns: of a frame; together: one test of all of them,
    else one of each. weight: the detector's part in the chance of a false alarm, which its columns
    share. paper: where the test comes from.
    """

    test: Callable[[Values, Draws], Outcomes]
    effect: Callable[[Values, Values], float]
    columns: Callable[[pd.DataFrame, Sequence[str]], Sequence[str]]
    name: str
    unit: str
    floor: float
    weight: float
    paper: str
    together: bool = False


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
    estimated: Accuracy

    @property
    def estimated_accuracy(self) -> float:
        """Accuracy to expect on the current images, 0..1."""
        return self.estimated.value

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


LIPTON = "Lipton et al. 2018, arXiv:1802.03916"
DETECTORS: dict[str, Detector] = {
    "labels": Detector(
        chi_squared, variation, lambda *_: ("label",), "chi-squared", VARIATION, FLOOR, 0.2, LIPTON
    ),
    "probabilities": Detector(
        kolmogorov_smirnov,
        distance,
        lambda _, classes: probability_columns(classes),
        "KS",
        DISTANCE,
        FLOOR,
        0.15,
        LIPTON,
    ),
    "confidence": Detector(
        kolmogorov_smirnov,
        distance,
        lambda *_: ("confidence",),
        "KS",
        DISTANCE,
        FLOOR,
        0.05,
        "Rabanser et al. 2019, arXiv:1810.11953",
    ),
    "entropy": Detector(
        kolmogorov_smirnov,
        distance,
        lambda *_: ("entropy",),
        "KS",
        DISTANCE,
        FLOOR,
        0.05,
        "Rabanser et al. 2019, arXiv:1810.11953",
    ),
    "features": Detector(
        kolmogorov_smirnov,
        distance,
        lambda *_: FEATURES,
        "KS",
        DISTANCE,
        FLOOR,
        0.15,
        "Smirnov 1948, doi 10.1214/aoms/1177730256",
    ),
    "embedding": Detector(
        maximum_mean_discrepancy,
        witness,
        lambda frame, _: embedding_columns(frame),
        "MMD",
        WITNESS,
        FLOOR,
        0.2,
        "Gretton et al. 2012, JMLR 13",
        together=True,
    ),
    "novelty": Detector(
        upper_tail,
        excess,
        lambda *_: (NOVELTY,),
        "hypergeometric",
        EXCESS,
        NOVEL,
        0.18,
        "Wang et al. 2022, arXiv:2203.10807",
    ),
}
FISHER = "Fisher's exact"
UNREADABLE_FLOOR = 0.02
UNREADABLE_WEIGHT = 0.02  # of alpha; the other detectors share the rest


@dataclass(frozen=True)
class Column:
    """A test to be made: a detector, the frame's columns that it takes, and their name."""

    key: str
    name: str
    columns: tuple[str, ...]
    weight: float

    def of(self, frame: pd.DataFrame) -> Values:
        """The values of the frame's rows.

        Numbers as float32: one side may be kept less exactly than the other, and what is equal
        must stay so.
        """
        if DETECTORS[self.key].together:
            return np.asarray(frame[list(self.columns)], np.float32)
        values = frame[self.columns[0]]
        return np.asarray(values, np.float32 if pd.api.types.is_numeric_dtype(values) else object)


def check(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    classes: Sequence[str],
    alpha: float = ALPHA,
    files: Files | None = None,
    correctness: Correctness | None = None,
) -> Verdict:
    """The verdict on `current` against `reference`, two frames of `monitoring.features.frame`.

    reference: also has a column `truth`, the right labels. Either may lack columns of detectors,
    which are then not asked; `label` and the probabilities must be there.
    alpha: the most that the chance of a false alarm may be, of all detectors together.
    files: counts of files; None: how many cannot be read is not asked. correctness: of the model.
    Raises UserError where a side lacks what it must have, or has fewer than `MINIMUM` rows.
    """
    needed = ["label", *probability_columns(classes)]
    require_columns(reference, [*needed, "truth"], "the model's reference")
    require_columns(current, needed, "the images to check")
    _require_rows(reference, "the model's reference")
    _require_rows(current, "the images to check")
    columns = asked(reference, current, classes)
    found = _findings(columns, reference, current, alpha)
    if files is not None:
        found.append(_unreadable(files, alpha))
    right = (reference["label"] == reference["truth"]).to_numpy()
    return Verdict(
        findings=tuple(found),
        alpha=alpha,
        reference_images=len(reference),
        images=len(current),
        reference_accuracy=float(right.mean()),
        estimated=estimate(reference, current, classes, correctness),
    )


def asked(reference: pd.DataFrame, current: pd.DataFrame, classes: Sequence[str]) -> list[Column]:
    """The tests that both frames have the columns for."""
    found = []
    for key, line in DETECTORS.items():
        wanted = line.columns(reference, classes)
        names = [n for n in wanted if n in reference.columns and n in current.columns]
        if line.together:
            whole = bool(names) and len(names) == len(wanted)
            found += [Column(key, key, tuple(names), line.weight)] if whole else []
        else:
            found += [Column(key, name, (name,), line.weight / len(names)) for name in names]
    return found


def _findings(
    columns: Sequence[Column], reference: pd.DataFrame, current: pd.DataFrame, alpha: float
) -> list[Finding]:
    sample = correction.Sample.of(len(reference), len(current), len(columns))
    effects, statistics, observed, random = [], [], [], []
    whole = correction.observed(len(reference), len(current))
    for column in columns:
        line = DETECTORS[column.key]
        before, now = column.of(reference), column.of(current)
        drawn = line.test(sample.take(before, now), sample.draws)
        if sample.is_whole or line.together:
            outcome = Outcomes(drawn.statistic[:1], drawn.p_value[:1])
        else:
            outcome = line.test(np.concatenate([before, now]), whole)
        random.append(drawn.p_value[1:])
        statistics.append(float(outcome.statistic[0]))
        observed.append(float(outcome.p_value[0]))
        if line.together:
            before, now = sample.parts(before, now)
        known = line.effect is distance  # the statistic itself, and sorting takes its time
        effects.append(statistics[-1] if known else line.effect(before, now))
    weights = np.array([column.weight for column in columns])
    corrected = correction.step_down(np.array(observed), np.stack(random, axis=1), weights)
    corrected = np.minimum(1, corrected / (1 - UNREADABLE_WEIGHT))
    return [
        _finding(column, statistic, p_value, fair, effect, alpha)
        for column, statistic, p_value, fair, effect in zip(
            columns, statistics, observed, corrected.tolist(), effects, strict=True
        )
    ]


def _unreadable(files: Files, alpha: float) -> Finding:
    share, p_value, effect = unreadable(files)
    corrected = min(1.0, p_value / UNREADABLE_WEIGHT)
    moved = corrected <= alpha and effect >= UNREADABLE_FLOOR
    name = "unreadable"
    return Finding(name, name, share, p_value, corrected, effect, UNREADABLE_FLOOR, moved)


def _finding(
    column: Column, statistic: float, p_value: float, corrected: float, effect: float, alpha: float
) -> Finding:
    floor = DETECTORS[column.key].floor
    moved = corrected <= alpha and effect >= floor
    return Finding(column.key, column.name, statistic, p_value, corrected, effect, floor, moved)


def require_columns(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raises UserError where the frame lacks one of the columns."""
    missing = [column for column in columns if column not in frame.columns]
    require(
        not missing,
        f"Expected columns {', '.join(missing)} in {what}, but it lacks them; "
        "register the model again with `mlflow run .`.",
    )


def _require_rows(frame: pd.DataFrame, what: str) -> None:
    require(
        len(frame) >= MINIMUM,
        f"Expected at least {MINIMUM} answered images in {what}, got {len(frame)}; "
        "fewer cannot tell drift from chance.",
    )
