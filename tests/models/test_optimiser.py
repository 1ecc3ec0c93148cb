"""Schedules rise and fall as planned; each optimiser gets its own rate and decay."""

import numpy as np
import pytest

from models import Params, optimiser

STEPS = 200


def rates(params: Params, steps: int = STEPS) -> np.ndarray:
    """The learning rate of each step."""
    built = optimiser.build(params, steps)
    found = []
    for step in range(steps):
        built.iterations.assign(step)
        found.append(float(built.learning_rate))
    return np.array(found)


def test_cosine_warms_up_over_a_tenth_of_the_steps_and_ends_near_zero() -> None:
    rate = rates(optimiser.START)
    peak = STEPS // 10
    assert rate[peak] == pytest.approx(3e-3)
    assert rate.argmax() == peak
    assert (np.diff(rate[: peak + 1]) > 0).all()
    assert (np.diff(rate[peak:]) < 0).all()
    assert rate[-1] < 1e-3 * rate.max()


def test_cosine_is_at_half_its_peak_half_way_down() -> None:
    assert rates(optimiser.START)[STEPS // 10 + 9 * STEPS // 20] == pytest.approx(1.5e-3)


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_a_training_of_few_steps_reaches_its_peak(steps: int) -> None:
    assert rates(optimiser.START, steps).max() == pytest.approx(3e-3)


def test_constant_keeps_the_rate() -> None:
    built = optimiser.build(optimiser.START | {"schedule": "constant"}, STEPS)
    assert float(built.learning_rate) == pytest.approx(3e-3)


@pytest.mark.parametrize(
    ("params", "kind", "rate", "decay"),
    [
        ({"optimizer": "adamw"}, "AdamW", 3e-3, 0.02),
        ({"optimizer": "adam"}, "Adam", 3e-3, None),
        ({"optimizer": "sgd", "sgd_learning_rate": 0.05}, "SGD", 0.05, None),
    ],
)
def test_an_optimiser_has_its_own_rate_and_decay(
    params: Params, kind: str, rate: float, decay: float | None
) -> None:
    built = optimiser.build(optimiser.START | params | {"schedule": "constant"}, STEPS)
    assert type(built).__name__ == kind
    assert float(built.learning_rate) == pytest.approx(rate)
    assert built.weight_decay == decay


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"optimizer": "lion"}, "Unknown optimizer 'lion'; choose adamw, adam or sgd."),
        ({"schedule": "step"}, "Unknown schedule 'step'; choose cosine or constant."),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(params: Params, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        optimiser.build(optimiser.START | params, STEPS)
