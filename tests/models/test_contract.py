"""What every architecture promises: a new line in `ARCHITECTURES` inherits these tests."""

import keras
import numpy as np
import optuna
import pytest
import tensorflow as tf

from models import ARCHITECTURES, Architecture, Params, Shape
from models.augment import Augment

CLASSES = 7
SHAPE: Shape = (32, 32, 3)
QUICK = {"backbone": "mobilenet", "alpha": 0.25}  # read by `transfer` alone
TOO_SMALL: dict[str, tuple[Params, Shape]] = {
    "lm": ({"pool": 4}, (3, 32, 3)),
    "nn": ({"pool": 4}, (32, 3, 3)),
    "dnn": ({"pool": 4}, (3, 3, 3)),
    "dnnd": ({"pool": 4}, (3, 3, 3)),
    "cnn": ({"blocks": 4}, (15, 32, 3)),
    "dcnn": ({"blocks": 4}, (32, 15, 3)),
    "transfer": ({}, (31, 31, 3)),
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def images(shape: Shape, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, *shape)).astype(np.float32)


def drawn(architecture: Architecture, seed: int) -> Params:
    """Params of a random trial."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return architecture.space(study.ask())


def test_the_params_that_are_tried_first_lie_in_the_space(architecture: Architecture) -> None:
    assert architecture.space(optuna.trial.FixedTrial(architecture.start)) == architecture.start


@pytest.mark.parametrize("shape", [SHAPE, (48, 40, 3), (33, 65, 3)])
def test_start_builds_a_network_of_logits_at_any_size(
    architecture: Architecture, shape: Shape
) -> None:
    model = architecture.build(architecture.start | QUICK, shape, CLASSES)
    logits = model(images(shape)).numpy()
    assert model.input_shape == (None, *shape)
    assert logits.shape == (4, CLASSES)
    assert np.isfinite(logits).all()
    assert logits.min() < 0 or logits.sum(axis=1).max() > 1.01  # no probabilities


@pytest.mark.parametrize("seed", range(3))
def test_random_params_train_every_weight(architecture: Architecture, seed: int) -> None:
    model = architecture.build(drawn(architecture, seed) | QUICK, SHAPE, CLASSES)
    with tf.GradientTape() as tape:
        logits = model(images(SHAPE), training=True)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2, 6], logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert gradients
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
    assert any(np.any(gradient) for gradient in gradients)


def test_a_network_is_rebuilt_from_its_params_alone(architecture: Architecture) -> None:
    params = drawn(architecture, 0) | QUICK
    keras.utils.set_random_seed(0)
    one = architecture.build(params, SHAPE, CLASSES)
    other = architecture.build(dict(params), SHAPE, CLASSES)
    other.set_weights(one.get_weights())
    assert np.array_equal(one(images(SHAPE)), other(images(SHAPE)))


def test_a_network_is_neither_compiled_nor_augmenting(architecture: Architecture) -> None:
    params = architecture.start | QUICK | {"flip": True, "shift": 0.1}
    model = architecture.build(params, SHAPE, CLASSES)
    assert not model.compiled
    assert not [layer for layer in model.layers if isinstance(layer, Augment)]


@pytest.mark.parametrize("code", ARCHITECTURES)
def test_an_input_that_is_too_small_is_refused(code: str) -> None:
    params, shape = TOO_SMALL[code]
    architecture = ARCHITECTURES[code]
    with pytest.raises(ValueError, match=r"^Expected an input of at least \d+ pixels a side"):
        architecture.build(architecture.start | params, shape, CLASSES)
