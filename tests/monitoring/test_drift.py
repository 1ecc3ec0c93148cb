import math

import numpy as np
import pandas as pd
import pytest

from monitoring.drift import (
    DETECTORS,
    MINIMUM,
    check,
    chi_squared,
    estimated_accuracy,
    holm,
    kolmogorov_smirnov,
)
from monitoring.features import probability_columns
from serving.features import FEATURES
from serving.settings import UserError

CLASSES = ("a", "b", "c", "d", "e", "f")
COLUMNS = [(key, column) for key in DETECTORS for column in DETECTORS[key].columns(CLASSES)]


def rows(count: int, seed: int, **moved: float) -> pd.DataFrame:
    """Synthetic rows of six classes; `moved` adds to a column, in its standard deviations."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((count, len(CLASSES)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array(CLASSES, object)[shares.argmax(axis=1)]
    right = generator.random(count) < shares.max(axis=1)
    numbers = {name: generator.standard_normal(count) for name in FEATURES}
    numbers |= {"width": np.full(count, 150.0), "aspect": np.ones(count)}
    numbers |= {name: numbers[name] + by for name, by in moved.items()}
    columns = {
        "label": labels,
        "truth": np.where(right, labels, "none"),
        "confidence": shares.max(axis=1),
        **numbers,
        **dict(zip(probability_columns(CLASSES), shares.T, strict=True)),
    }
    return pd.DataFrame(columns)


def words(**counts: int) -> np.ndarray:
    return np.repeat(list(counts), list(counts.values())).astype(object)


def test_chi_squared_of_a_large_table_is_the_hand_computed_one():
    outcome = chi_squared(words(a=60, b=40), words(a=40, b=60))
    assert outcome.statistic == pytest.approx(8)
    assert outcome.p_value == pytest.approx(math.erfc(2), rel=1e-9)  # one degree of freedom
    assert outcome.effect_size == pytest.approx(0.2)


def test_chi_squared_of_a_small_table_is_exact():
    outcome = chi_squared(words(a=3, b=1), words(a=1, b=3))  # Fisher's tea: 34 of 70 tables
    assert outcome.statistic == pytest.approx(2)
    assert outcome.p_value == pytest.approx(34 / 70, abs=0.015)


def test_chi_squared_sees_a_label_that_the_reference_never_had():
    assert chi_squared(words(a=100, b=100), words(a=40, new=10)).p_value < 0.001


def test_chi_squared_of_a_single_label_says_nothing():
    outcome = chi_squared(words(a=100), words(a=50))
    assert (outcome.statistic, outcome.p_value, outcome.effect_size) == (0, 1, 0)


def test_kolmogorov_smirnov_is_the_hand_computed_one():
    outcome = kolmogorov_smirnov(np.arange(1000.0), np.arange(100.0, 1100.0))
    assert outcome.statistic == outcome.effect_size == pytest.approx(0.1)
    tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * 500 * 0.01) for k in range(1, 9))
    assert outcome.p_value == pytest.approx(tail, rel=0.1)  # Kolmogorov's series, n m / (n + m)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_estimated_accuracy_is_the_share_above_the_reference_threshold():
    reference = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    current = np.array([0.1, 0.5, 0.55, 0.9])
    assert estimated_accuracy(reference, 0.6, current) == 0.75  # the threshold is 0.5
    assert estimated_accuracy(reference, 0.0, current) == 0
    assert estimated_accuracy(reference, 1.0, current) == 1


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("confidence", [np.linspace(0, 1, 10), np.ones(10), np.repeat([0.5, 1], 5)])
def test_estimated_accuracy_of_the_reference_is_its_own_even_with_ties(confidence, accuracy):
    assert estimated_accuracy(confidence, accuracy, confidence) == pytest.approx(accuracy)


@pytest.mark.parametrize(("key", "column"), COLUMNS)
class TestEveryDetector:
    def test_answers_with_numbers_in_range(self, key, column):
        reference, current = (rows(200, seed)[column].to_numpy() for seed in (0, 1))
        outcome = DETECTORS[key].test(reference, current)
        assert outcome.statistic >= 0
        assert 0 <= outcome.p_value <= 1
        assert 0 <= outcome.effect_size <= 1
        assert 0 < DETECTORS[key].floor < 1

    def test_finds_nothing_between_a_sample_and_itself(self, key, column):
        values = rows(200, 0)[column].to_numpy()
        outcome = DETECTORS[key].test(values, values)
        assert (outcome.p_value, outcome.effect_size) == (pytest.approx(1), 0)

    def test_finds_what_has_nothing_in_common(self, key, column):
        values = rows(200, 0)[column]
        other = values + (1000 if pd.api.types.is_numeric_dtype(values) else "?")
        outcome = DETECTORS[key].test(values.to_numpy(), other.to_numpy())
        assert outcome.p_value < 1e-4
        assert outcome.effect_size == pytest.approx(1)

    def test_leaves_its_input_alone_and_answers_alike_twice(self, key, column):
        reference, current = (rows(60, seed)[column].to_numpy() for seed in (0, 1))
        kept = reference.copy(), current.copy()
        assert DETECTORS[key].test(reference, current) == DETECTORS[key].test(reference, current)
        assert (reference == kept[0]).all()
        assert (current == kept[1]).all()


@pytest.mark.parametrize("count", [50, 200])
def test_false_alarms_stay_below_alpha(count):
    reference = rows(20_000, seed=0)
    alarms = [
        check(reference.sample(1000, random_state=i), rows(count, seed=1000 + i), CLASSES).drift
        for i in range(150)
    ]
    assert np.mean(alarms) <= 0.05


@pytest.mark.parametrize(("count", "by"), [(100, 1.0), (500, 0.4)])
def test_one_moved_feature_is_found_and_named(count, by):
    verdict = check(rows(1000, 0), rows(count, 2, brightness=by), CLASSES)
    assert [finding.column for finding in verdict.moved] == ["brightness"]
    assert verdict.sentence.startswith("Drift: 1 of 17 detectors moved, most of all brightness")


def test_a_hair_in_many_rows_is_significant_but_not_drift():
    verdict = check(rows(100_000, 0), rows(100_000, 1, brightness=0.1), CLASSES)
    hair = next(finding for finding in verdict.findings if finding.column == "brightness")
    assert hair.corrected_p_value < 1e-20
    assert not verdict.drift
    assert verdict.sentence == "No drift: none of 17 detectors moved."


def test_verdict_carries_the_accuracies_and_the_counts():
    reference = rows(2000, 0)
    verdict = check(reference, reference.head(500), CLASSES)
    assert verdict.reference_accuracy == (reference["label"] == reference["truth"]).mean()
    assert verdict.estimated_accuracy == pytest.approx(verdict.reference_accuracy, abs=0.06)
    assert (verdict.reference_images, verdict.images) == (2000, 500)


@pytest.mark.parametrize(
    ("reference", "current", "sentence"),
    [
        (
            rows(100, 0),
            rows(MINIMUM - 1, 1),
            "at least 30 answered images in the images to check, got 29",
        ),
        (rows(10, 0), rows(100, 1), "at least 30 answered images in the model's reference, got 10"),
        (rows(100, 0).drop(columns=["truth", "p_b"]), rows(100, 1), "columns p_b, truth in"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(reference, current, sentence):
    with pytest.raises(UserError, match=sentence):
        check(reference, current, CLASSES)
