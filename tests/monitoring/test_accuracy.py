"""Accuracies: measured, and estimated without a label."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from monitoring import accuracy
from monitoring.accuracy import (
    Correctness,
    by_class,
    describe,
    estimate,
    measured,
    quadratic,
    thresholded_confidence,
)
from tests.monitoring.rows import CLASSES, WIDTH, rows

INPUTS = 4 + WIDTH


def known(inputs: int = INPUTS, error: float = 0.02, seed: int = 0) -> Correctness:
    generator = np.random.default_rng(seed)
    terms = inputs + inputs * (inputs + 1) // 2
    weights = generator.normal(0, 0.3, terms)
    numbers = np.zeros(inputs), np.ones(inputs), weights
    return Correctness(*(one.astype(np.float32) for one in numbers), 0.5, error)


def worse(count: int, seed: int) -> pd.DataFrame:
    """Rows that lie elsewhere, where `known` expects another accuracy."""
    found = rows(count, seed)
    found[["e_0", "e_1", "e_2"]] += 0.7
    return found


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [  # the intervals of R's prop.test(correct = FALSE)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (29, 29, 0.8830, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_the_interval_of_a_measured_accuracy_is_wilsons(right, images, low, high):
    found = measured(["a"] * images, ["a"] * right + ["b"] * (images - right))
    assert found.value == right / images
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.images == images


def test_accuracies_by_class_are_of_the_classes_that_occur_in_order():
    truth, label = ["b", "a", "b", "b", "ü"], ["b", "b", "a", "b", "ü"]
    found = by_class(truth, label)
    assert list(found) == ["a", "b", "ü"]
    assert [one.value for one in found.values()] == pytest.approx([0, 2 / 3, 1])
    assert [one.images for one in found.values()] == [1, 3, 1]
    assert by_class([], []) == {}


def test_thresholded_confidence_is_the_share_above_the_threshold_of_the_reference():
    reference = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    current = np.array([0.1, 0.5, 0.55, 0.9])
    assert thresholded_confidence(reference, 0.6, current) == 0.75  # the threshold is 0.5
    assert thresholded_confidence(reference, 0.0, current) == 0
    assert thresholded_confidence(reference, 1.0, current) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("confidence", [np.linspace(0, 1, 10), np.ones(10), np.repeat([0.5, 1], 5)])
def test_thresholded_confidence_of_the_reference_is_its_own_accuracy_even_with_ties(
    confidence, share
):
    assert thresholded_confidence(confidence, share, confidence) == pytest.approx(share)


def test_what_correctness_is_asked_about_is_the_hand_computed_one():
    frame = rows(3, 0)
    shares = np.sort(frame[[f"p_{name}" for name in CLASSES]].to_numpy(np.float64), axis=1)
    found = describe(frame, CLASSES)
    assert found.shape == (3, INPUTS)
    assert found.dtype == np.float32
    assert found[:, 0] == pytest.approx(np.log(shares[:, -1] / (1 - shares[:, -1])), rel=1e-3)
    assert found[:, 1] == pytest.approx(shares[:, -1] - shares[:, -2], abs=1e-6)
    assert found[:, 2].tolist() == frame["entropy"].tolist()
    assert found[:, 3].tolist() == frame["novelty"].tolist()
    assert found[:, 4:].tolist() == frame[[f"e_{i}" for i in range(WIDTH)]].values.tolist()


def test_a_model_that_is_quite_sure_is_asked_about_in_finite_numbers():
    frame = rows(2, 0, ("a", "b"))
    frame.loc[0, ["p_a", "p_b", "entropy"]] = [1.0, 0.0, 0.0]
    frame.loc[1, ["p_a", "p_b"]] = [np.nextafter(np.float32(1), np.float32(2)), 0.0]
    assert np.isfinite(describe(frame, ("a", "b"))).all()


def test_quadratic_terms_are_the_values_and_their_products_clipped():
    found = quadratic(np.array([[2.0, -9.0]], np.float32))
    assert found.tolist() == [[2, -5, 4, -10, 25]]


def test_correctness_comes_back_from_its_file_as_it_was_and_is_no_pickle(tmp_path):
    path = tmp_path / "correctness.npz"
    before = known()
    before.write(path)
    after = Correctness.read(path)
    for name in ("mean", "scale", "weights", "intercept", "error"):
        assert np.array_equal(getattr(after, name), getattr(before, name))
    inputs = describe(rows(50, 0), CLASSES)
    assert np.array_equal(after(inputs), before(inputs))
    assert ((after(inputs) > 0) & (after(inputs) < 1)).all()
    with zipfile.ZipFile(path) as archive:
        assert all(not archive.read(name).startswith(b"\x80") for name in archive.namelist())
    assert [one.name for one in tmp_path.iterdir()] == ["correctness.npz"]


def test_a_file_with_a_pickle_in_it_is_not_read(tmp_path):
    path = tmp_path / "correctness.npz"
    np.savez(path, numbers=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Correctness.read(path)


def test_correctness_answers_alike_in_parts_and_for_no_row(monkeypatch):
    inputs = describe(rows(100, 0), CLASSES)
    whole = known()(inputs)
    monkeypatch.setattr(accuracy, "CHUNK", 7)
    assert known()(inputs) == pytest.approx(whole, abs=1e-6)
    assert known()(inputs[:0]).shape == (0,)


@pytest.mark.parametrize("correctness", [None, known()])
def test_the_estimate_of_the_reference_is_its_own_accuracy(correctness):
    reference = rows(500, 0)
    right = (reference["label"] == reference["truth"]).mean()
    found = estimate(reference, reference, CLASSES, correctness)
    assert found.value == pytest.approx(right)
    assert found.low < found.value < found.high
    assert found.images == 500


def test_the_estimate_moves_as_correctness_does_from_the_reference_to_the_current_images():
    reference, current, correctness = rows(500, 0), worse(300, 1), known()
    right = (reference["label"] == reference["truth"]).mean()
    before, now = (correctness(describe(side, CLASSES)).mean() for side in (reference, current))
    assert abs(now - before) > 0.02
    found = estimate(reference, current, CLASSES, correctness).value
    assert found == pytest.approx(right + now - before)


def test_the_interval_narrows_with_images_and_widens_with_what_correctness_does_not_know():
    reference = rows(5000, 0)

    def width(count: int, error: float) -> float:
        found = estimate(reference, worse(count, 1), CLASSES, known(error=error))
        assert 0 <= found.low <= found.value <= found.high <= 1
        return found.high - found.low

    widths = [width(count, 0.0) for count in (50, 500, 5000)]
    assert widths[0] > 2 * widths[1] > 4 * widths[2] * 0.9
    assert width(5000, 0.1) > width(5000, 0.02) > widths[2]


@pytest.mark.parametrize("lacking", [["novelty"], ["e_7"], ["e_0"]])
def test_rows_without_the_embedding_of_the_model_are_estimated_by_their_confidence(lacking):
    reference, current = rows(300, 0), rows(200, 1)
    expected = estimate(reference, current, CLASSES)
    assert estimate(reference, current.drop(columns=lacking), CLASSES, known()) == expected
    assert estimate(reference.drop(columns=lacking), current, CLASSES, known()) == expected
