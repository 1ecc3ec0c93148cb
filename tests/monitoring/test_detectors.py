"""Known values of every test and effect, and what every line of the table promises."""

import math
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitoring import correction, detectors
from monitoring.detectors import Files, Outcomes
from monitoring.drift import DETECTORS, UNREADABLE_WEIGHT, Column, asked
from tests.monitoring.rows import CLASSES, rows

COLUMNS = {column.name: column for column in asked(rows(9, 0), rows(9, 0), CLASSES)}


def words(**counts: int) -> np.ndarray:
    return np.repeat(list(counts), list(counts.values())).astype(object)


def outcome(test, reference: np.ndarray, current: np.ndarray) -> tuple[float, float]:
    """Statistic and p-value of the two sides as they are."""
    draws = correction.observed(len(reference), len(current))
    found = test(np.concatenate([reference, current]), draws)
    return float(found.statistic[0]), float(found.p_value[0])


def permuted(column: Column, reference: pd.DataFrame, current: pd.DataFrame) -> Outcomes:
    """The detector's outcomes of the two sides, and of random draws."""
    sample = correction.Sample.of(len(reference), len(current), 1)
    values = sample.take(column.of(reference), column.of(current))
    return DETECTORS[column.key].test(values, sample.draws)


def test_chi_squared_of_a_large_table_is_the_hand_computed_one():
    statistic, p_value = outcome(detectors.chi_squared, words(a=60, b=40), words(a=40, b=60))
    assert statistic == pytest.approx(8)
    assert p_value == pytest.approx(math.erfc(2), rel=1e-9)  # one degree of freedom


def test_chi_squared_of_a_small_table_is_exact():
    # Fisher's tea: 34 of 70 tables differ as much.
    statistic, p_value = outcome(detectors.chi_squared, words(a=3, b=1), words(a=1, b=3))
    assert statistic == pytest.approx(2)
    assert p_value == pytest.approx(34 / 70, abs=0.015)


def test_chi_squared_sees_a_label_that_the_reference_never_had():
    assert outcome(detectors.chi_squared, words(a=100, b=100), words(a=40, new=10))[1] < 0.001


def test_chi_squared_of_a_single_label_says_nothing():
    assert outcome(detectors.chi_squared, words(a=100), words(a=50)) == (0, 1)


def test_kolmogorov_smirnov_is_the_hand_computed_one():
    statistic, p_value = outcome(
        detectors.kolmogorov_smirnov, np.arange(1000.0), np.arange(100.0, 1100.0)
    )
    assert statistic == pytest.approx(0.1)
    tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * 500 * 0.01) for k in range(1, 9))
    assert p_value == pytest.approx(tail, rel=1e-6)  # Kolmogorov's series, n m / (n + m) = 500


def test_kolmogorov_smirnov_counts_ties_once():
    # Shares up to 0, 1, 2: 1/2, 3/4, 1 and 1/4, 1/4, 1.
    statistic, _ = outcome(
        detectors.kolmogorov_smirnov, np.array([0, 0, 1, 2.0]), np.array([0, 2, 2, 2.0])
    )
    assert statistic == pytest.approx(0.5)


def test_kolmogorov_smirnov_of_a_constant_says_nothing():
    found = outcome(detectors.kolmogorov_smirnov, np.full(50, 0.1), np.full(30, 0.1))
    assert found == pytest.approx((0, 1))


def test_kolmogorov_smirnov_is_exact_where_one_side_is_ten_thousand_times_the_other():
    generator = np.random.default_rng(0)
    few, many = generator.standard_normal(30), generator.standard_normal(300_000)
    expected = stats.ks_2samp(few, many, method="asymp").statistic
    for sides in ((few, many), (many, few)):
        assert outcome(detectors.kolmogorov_smirnov, *sides)[0] == pytest.approx(expected, abs=1e-9)


def test_kolmogorov_smirnov_of_every_draw_is_scipys():
    values = np.round(np.random.default_rng(1).standard_normal(120), 1)  # with ties
    sample = correction.Sample.of(80, 40, 1)
    found = detectors.kolmogorov_smirnov(values, sample.draws)
    for index in (0, 1, 500):
        of_current = sample.draws[index] == 1
        expected = stats.ks_2samp(values[~of_current], values[of_current]).statistic
        assert found.statistic[index] == pytest.approx(expected, abs=1e-5)


def test_upper_tail_is_the_hand_computed_one():
    # Of 200 rows, the highest 10, 4, 2 and 1 are all among the 50 current ones.
    statistic, p_value = outcome(detectors.upper_tail, np.arange(150.0), np.arange(150, 200.0))
    assert p_value == pytest.approx(4 * math.comb(50, 10) / math.comb(200, 10))
    variance = 10 * 0.25 * 0.75 * 190 / 199
    assert statistic == pytest.approx((10 - 2.5) / math.sqrt(variance), rel=1e-6)


def test_upper_tail_counts_ties_together():
    assert outcome(detectors.upper_tail, np.zeros(100), np.zeros(50)) == (0, 1)
    _, p_value = outcome(detectors.upper_tail, np.repeat([0.0, 1.0], 50), np.repeat([0.0, 1.0], 25))
    assert p_value == 1


def test_upper_tail_finds_a_few_where_the_whole_distribution_hardly_moves():
    reference, current = rows(1000, 0), rows(100, 1, novel=10)
    sides = [frame["novelty"].to_numpy() for frame in (reference, current)]
    assert outcome(detectors.upper_tail, *sides)[1] < 1e-6
    assert outcome(detectors.kolmogorov_smirnov, *sides)[1] > 0.01


def test_maximum_mean_discrepancy_is_the_difference_of_the_mean_kernels():
    reference, current = np.array([[0.0], [1.0]]), np.array([[1.0], [3.0]])

    # Of all pairs, the squared distances are 0 (6 times), 1, 1, 1, 1, 4, 4, 4, 4, 9, 9: median 1.
    def kernel(left, right):
        return np.mean([[math.exp(-((a - b) ** 2)) for b in right] for a in left])

    sides = reference.ravel(), current.ravel()
    expected = kernel(sides[0], sides[0]) + kernel(sides[1], sides[1]) - 2 * kernel(*sides)
    draws = np.concatenate([correction.observed(2, 2), [[1, 0, 1, 0], [0, 1, 1, 0]]])
    found = detectors.maximum_mean_discrepancy(np.concatenate([reference, current]), draws)
    assert found.statistic[0] == pytest.approx(expected, rel=1e-5)


def test_maximum_mean_discrepancy_says_p_values_that_are_even_where_nothing_moved():
    generator = np.random.default_rng(2)
    p_values = [
        detectors.maximum_mean_discrepancy(
            generator.standard_normal((90, 5)), correction.Sample.of(60, 30, 1).draws
        ).p_value[0]
        for _ in range(150)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_maximum_mean_discrepancy_sees_a_change_that_no_number_alone_shows():
    generator = np.random.default_rng(3)
    plain, tied = generator.standard_normal((2, 300, 2))
    tied[:, 1] = np.where(tied[:, 0] > 0, 1, -1) * np.abs(tied[:, 1])
    values = np.concatenate([plain, tied])
    draws = correction.Sample.of(300, 300, 1).draws
    assert detectors.maximum_mean_discrepancy(values, draws).p_value[0] < 1e-4
    assert outcome(detectors.kolmogorov_smirnov, plain[:, 1], tied[:, 1])[1] > 0.05


def test_variation_is_half_the_sum_of_the_differences():
    assert detectors.variation(words(a=60, b=40), words(a=40, b=60)) == pytest.approx(0.2)
    assert detectors.variation(words(a=1, b=1), words(c=7)) == 1


def test_distance_is_the_largest_difference_of_the_shares():
    assert detectors.distance(np.arange(10.0), np.arange(3.0, 13.0)) == pytest.approx(0.3)
    assert detectors.distance(np.zeros(3), np.zeros(7)) == 0


def test_excess_is_the_share_beyond_what_few_of_the_reference_exceed():
    reference = np.arange(1000.0)
    current = np.concatenate([np.arange(0.0, 900, 10), np.full(10, 2000.0)])
    # Above the 99.5% quantile lie 5 of 1,000, and 10 of 100.
    assert detectors.excess(reference, current) == pytest.approx(0.1 - 0.005)
    assert detectors.excess(reference, reference - 500) == 0
    assert detectors.excess(np.ones(50), np.ones(50)) == 0


@pytest.mark.parametrize("apart", [3, 30, 3000])
def test_witness_tells_the_share_of_vectors_that_moved_however_far(apart):
    generator = np.random.default_rng(4)
    reference = generator.standard_normal((600, 16)).astype(np.float32)
    current = generator.standard_normal((300, 16)).astype(np.float32)
    current[:90] += apart
    assert detectors.witness(reference, current) == pytest.approx(0.3, abs=0.06)
    current += apart
    assert detectors.witness(reference, current) == 1


@pytest.mark.parametrize("value", [0.3, -12.1, 3e4])
def test_vectors_that_are_equal_are_not_told_apart_by_rounding(value):
    generator = np.random.default_rng(5)
    blank = np.tile(generator.normal(value, 1, 64), (300, 1)).astype(np.float32)
    draws = correction.Sample.of(200, 100, 1).draws
    found = detectors.maximum_mean_discrepancy(blank, draws).p_value
    assert (found[1:] <= found[0]).all()
    assert detectors.witness(blank[:200], blank[200:]) == 0
    blank[generator.random(300) < 0.4] += generator.standard_normal(64).astype(np.float32)
    assert detectors.witness(blank[:200], blank[200:]) < 0.15  # chance


def test_unreadable_is_fishers_exact_test_of_the_share():
    share, p_value, effect = detectors.unreadable(Files(100, 0, 50, 3))
    assert (share, effect) == (0.06, 0.06)
    assert p_value == pytest.approx(math.comb(50, 3) / math.comb(150, 3))
    assert detectors.unreadable(Files(100, 50, 50, 3))[2] == 0  # there are fewer than before
    assert detectors.unreadable(Files(100, 0, 50, 0)) == (0, 1, 0)


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
class TestEveryDetector:
    def test_answers_with_numbers_in_range(self, column):
        reference, current = rows(120, 0), rows(60, 1)
        found = permuted(column, reference, current)
        assert found.statistic.shape == found.p_value.shape == (1 + correction.DRAWS,)
        assert np.isfinite(found.statistic).all()
        assert ((found.p_value >= 0) & (found.p_value <= 1)).all()
        line = DETECTORS[column.key]
        assert 0 <= line.effect(column.of(reference), column.of(current)) <= 1
        assert 0 < line.floor < 1
        assert line.paper

    def test_finds_nothing_between_a_sample_and_itself(self, column):
        frame = rows(120, 0)
        p_values = permuted(column, frame, frame).p_value
        assert (p_values[1:] <= p_values[0]).mean() > 0.4
        assert DETECTORS[column.key].effect(column.of(frame), column.of(frame)) < 0.05

    def test_finds_what_has_nothing_in_common(self, column):
        frame, other = rows(120, 0), rows(120, 1)
        for name in column.columns:
            other[name] += 1000 if pd.api.types.is_numeric_dtype(other[name]) else "?"
        p_values = permuted(column, frame, other).p_value
        assert p_values[0] < 1e-3
        assert (p_values[1:] > p_values[0]).all()
        assert DETECTORS[column.key].effect(column.of(frame), column.of(other)) > 0.99

    def test_leaves_its_input_alone_and_answers_alike_twice(self, column):
        reference, current = rows(60, 0), rows(60, 1)
        kept = reference.copy(), current.copy()
        one, other = (permuted(column, reference, current) for _ in range(2))
        assert all(map(np.array_equal, astuple(one), astuple(other)))
        effect = DETECTORS[column.key].effect
        sides = column.of(reference), column.of(current)
        assert effect(*sides) == effect(*sides)
        pd.testing.assert_frame_equal(reference, kept[0])
        pd.testing.assert_frame_equal(current, kept[1])


def test_the_weights_leave_room_for_the_unreadable_files():
    assert sum(line.weight for line in DETECTORS.values()) + UNREADABLE_WEIGHT == pytest.approx(1)
