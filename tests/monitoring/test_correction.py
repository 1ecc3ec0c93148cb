"""P-values corrected for being many: by hand, by force, and in the long run."""

import numpy as np
import pytest

from monitoring import correction
from monitoring.correction import Sample, step_down

EVEN = np.ones(3)


def by_force(observed: np.ndarray, random: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Westfall and Young 1993, algorithm 2.8, as it is written."""
    ratios, drawn = observed / weights, random / weights
    order = sorted(range(len(ratios)), key=lambda test: ratios[test])
    corrected, largest = np.zeros(len(ratios)), 0.0
    for place, test in enumerate(order):
        left = order[place:]
        as_small = sum(min(draw[left]) <= ratios[test] for draw in drawn)
        largest = max(largest, (1 + as_small) / (1 + len(drawn)))
        corrected[test] = largest
    return corrected


def test_corrected_p_values_are_the_hand_computed_ones():
    random = np.array([[0.02, 0.5, 0.9], [0.6, 0.04, 0.7], [0.3, 0.8, 0.03], [0.9, 0.9, 0.9]])
    # Smallest of all: .02, .04, .03, .9; of the last two: .5, .04, .03, .9; of the last: .9 ...
    corrected = step_down(np.array([0.01, 0.035, 0.5]), random, EVEN)
    assert corrected == pytest.approx([1 / 5, 2 / 5, 2 / 5])
    assert step_down(np.array([1.0, 1, 1]), random, EVEN) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_corrected_p_values_are_those_found_by_force_with_ties_and_weights(seed):
    generator = np.random.default_rng(seed)
    observed = np.round(generator.uniform(0, 0.3, 8), 1)
    random = np.round(generator.uniform(0, 1, (60, 8)), 2)
    weights = generator.choice([0.5, 1, 2], 8)
    found = step_down(observed, random, weights)
    assert found == pytest.approx(by_force(observed, random, weights))


def test_independent_tests_are_corrected_as_sidak_has_it():
    random = np.random.default_rng(0).uniform(0, 1, (20_000, 10))
    corrected = step_down(np.array([0.005, *np.full(9, 0.9)]), random, np.ones(10))
    assert corrected[0] == pytest.approx(1 - (1 - 0.005) ** 10, rel=0.05)


def test_tests_that_say_the_same_cost_nothing():
    random = np.random.default_rng(1).uniform(0, 1, (20_000, 1))
    observed = np.full(10, 0.01)
    corrected = step_down(observed, np.repeat(random, 10, axis=1), np.ones(10))
    assert corrected == pytest.approx(0.01, rel=0.1)


def test_a_test_of_more_weight_may_raise_the_alarm_at_a_larger_p_value():
    random = np.random.default_rng(2).uniform(0, 1, (20_000, 2))
    corrected = step_down(np.array([0.04, 0.01]), random, np.array([0.8, 0.2]))
    assert corrected == pytest.approx([0.04 + 0.01 - 0.0004] * 2, rel=0.1)


def test_a_corrected_p_value_is_never_smaller_than_the_draws_can_tell_nor_than_one_before_it():
    random = np.random.default_rng(3).uniform(0.1, 1, (99, 3))
    corrected = step_down(np.array([0.0, 1e-9, 0.5]), random, EVEN)
    assert corrected[:2] == pytest.approx([0.01, 0.01])
    assert corrected[2] >= 0.01


def test_a_small_sample_is_all_rows_parted_as_they_are_and_at_random():
    sample = Sample.of(50, 20, 3)
    assert sample.is_whole
    assert sample.reference.tolist() == list(range(50))
    assert sample.draws.shape == (1 + correction.DRAWS, 70)
    assert sample.draws[0].tolist() == [0] * 50 + [1] * 20
    assert (sample.draws.sum(axis=1) == 20).all()
    assert sample.draws[1:].mean(axis=0) == pytest.approx(20 / 70, abs=0.07)
    assert np.array_equal(sample.draws, Sample.of(50, 20, 3).draws)


@pytest.mark.parametrize(("tests", "side"), [(20, 2000), (1000, 500), (10_000, 500)])
def test_of_many_rows_a_part_is_drawn_the_smaller_the_more_tests_there_are(tests, side):
    sample = Sample.of(10_000_000, 300, tests)
    assert not sample.is_whole
    assert len(sample.reference) == side
    assert len(sample.current) == min(side, 300)
    assert len(set(sample.reference.tolist())) == side
    assert sample.draws.nbytes < 20e6 * 2
