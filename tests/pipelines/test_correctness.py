"""When a model is right, learnt from worse images: in numbers, and of a small real network."""

from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import special
from sklearn.datasets import load_digits

from models import ARCHITECTURES
from monitoring.accuracy import Correctness, estimate, quadratic
from monitoring.features import told
from pipelines import correctness, export
from pipelines.correctness import KINDS, fit, learn
from serving.predictor import Classifier

NAMES = tuple(map(str, range(10)))
Images = NDArray[np.uint8]


def test_fit_recovers_a_quadratic_rule():
    generator = np.random.default_rng(0)
    inputs = generator.normal(3, [1, 2, 0.5], (20_000, 3)).astype(np.float32)
    z = (inputs - 3) / [1, 2, 0.5]
    chance = special.expit(1 + z[:, 0] - 1.5 * z[:, 1] * z[:, 2] - 0.5 * z[:, 0] ** 2)
    right = (generator.random(len(inputs)) < chance).astype(np.int64)
    found = fit(inputs, right, error=0.25)
    assert found.error == 0.25
    assert found.weights.shape == quadratic(inputs[:1]).shape[1:]
    assert np.abs(found(inputs) - chance).mean() < 0.02
    assert found(inputs).mean() == pytest.approx(right.mean(), abs=0.002)


def test_fit_bears_inputs_that_never_vary_or_say_the_same():
    generator = np.random.default_rng(1)
    one = generator.standard_normal(500)
    inputs = np.column_stack([one, one, np.full(500, 7.0), np.zeros(500)]).astype(np.float32)
    found = fit(inputs, (one > 0).astype(np.int64))
    assert np.isfinite(found.weights).all()
    assert found(inputs)[one > 1].min() > 0.7 > 0.3 > found(inputs)[one < -1].max()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [(32, 24), (1, 1)])
def test_every_kind_of_corruption_keeps_the_size_and_its_chance_has_a_seed(kind, size):
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    one, same, other = (np.asarray(kind(image, np.random.default_rng(seed))) for seed in (0, 0, 1))
    assert one.shape == (size[1], size[0], 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert np.array_equal(np.asarray(image), pixels)
    if size != (1, 1):
        assert not np.array_equal(one, other)
        assert not np.array_equal(one, pixels)


@pytest.fixture(scope="module")
def digits() -> tuple[Images, NDArray[np.int64]]:
    """Handwritten digits of 24 x 24 pixels, and which they are."""
    bunch = load_digits()
    small = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    large = [Image.fromarray(one).resize((24, 24), Image.Resampling.BICUBIC) for one in small]
    return np.stack(large)[..., None].repeat(3, axis=-1), bunch.target


@pytest.fixture(scope="module")
def classifier(digits, tmp_path_factory) -> Classifier:
    """A small convolutional network that tells them apart."""
    pixels, labels = digits
    keras.utils.set_random_seed(0)
    architecture = ARCHITECTURES["cnn"]
    params = architecture.start | {"units": 32, "filters": 8, "blocks": 2}
    model = architecture.build(params, (24, 24, 3), 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    for start in range(0, 3 * 1000, 50):
        rows = np.arange(start, start + 50) % 1000
        model.train_on_batch(pixels[rows].astype(np.float32), labels[rows])
    exported = export.export(model, NAMES, pixels[1000:1200], tmp_path_factory.mktemp("digits"))
    return Classifier(exported.folder)


@pytest.fixture(scope="module")
def known(classifier, digits) -> Correctness:
    pixels, labels = (part[1000:1300] for part in digits)
    found = learn(classifier, pixels, labels)
    assert found
    return found


def blurred(images: Images) -> Images:
    blur = ImageFilter.GaussianBlur(2)
    return np.stack([np.asarray(Image.fromarray(one).filter(blur)) for one in images])


def coarse(images: Images) -> Images:
    small = [Image.fromarray(one).resize((4, 4), Image.Resampling.BILINEAR) for one in images]
    return np.stack([np.asarray(one.resize((24, 24), Image.Resampling.BILINEAR)) for one in small])


def faint(images: Images) -> Images:
    return (images // 5 + 60).astype(np.uint8)


def asked(classifier: Classifier, images: Images, labels: NDArray[np.int64]) -> pd.DataFrame:
    table = told(*classifier.answer(images), NAMES)
    return table.assign(truth=[NAMES[label] for label in labels])


@pytest.mark.parametrize("worsen", [blurred, coarse, faint])
def test_the_estimate_is_near_where_that_by_confidence_is_far_off(
    classifier, digits, known, worsen: Callable[[Images], Images]
):
    pixels, labels = (part[1300:] for part in digits)
    reference = asked(classifier, pixels, labels)
    current = asked(classifier, worsen(pixels), labels)
    right = (current["label"] == current["truth"]).mean()
    found = estimate(reference, current, NAMES, known)
    by_confidence = estimate(reference, current, NAMES)
    assert abs(found.value - right) < 0.08
    assert abs(by_confidence.value - right) > 0.2
    assert found.low < right < found.high


def test_learning_is_the_same_twice_and_says_how_far_off_it_may_be(classifier, digits, known):
    pixels, labels = (part[1000:1300] for part in digits)
    again = learn(classifier, pixels, labels)
    assert again
    assert np.array_equal(again.weights, known.weights)
    assert 0 < known.error < 0.3


def test_too_few_images_or_answers_that_are_all_right_teach_nothing(classifier, digits):
    pixels, labels = digits
    few = correctness.ENOUGH - 1
    assert learn(classifier, pixels[:few], labels[:few]) is None
    blank = np.zeros((40, 24, 24, 3), np.uint8)
    answers = classifier.probabilities(blank).argmax(axis=1)
    assert learn(classifier, blank[:0], answers[:0]) is None
