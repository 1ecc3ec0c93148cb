"""One training: every row once an epoch, the best weights kept, an end where it is due."""

from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
import pytest

from models import ARCHITECTURES, Params
from models.augment import Augment
from pipelines import training
from pipelines.training import Fit, Part

SHAPE = (8, 8, 3)
LM: Params = ARCHITECTURES["lm"].start | {"learning_rate": 0.02, "batch_size": 32}
RANDOM: Params = LM | {"brightness": 0.2}
WILD: Params = LM | {"optimizer": "sgd", "sgd_learning_rate": 1.0, "schedule": "constant"}


def tinted(seed: int, count: int = 96) -> Part:
    """Noise with a tint of one of three colours: every second row of the inputs, backwards."""
    generator = np.random.default_rng(seed)
    labels = np.arange(2 * count) % 3
    pixels = generator.normal(100, 40, (2 * count, *SHAPE))
    pixels[np.arange(2 * count), :, :, labels] += 40
    rows = np.arange(2 * count - 1, 0, -2)
    return Part(np.clip(pixels, 0, 255).astype(np.uint8), rows, labels[rows])


def numbered(count: int) -> Part:
    """Rows that hold their own number, as does their label."""
    rows = np.random.default_rng(0).permutation(2 * count)[:count]
    return Part(np.arange(2 * count, dtype=np.uint8)[:, None], rows, rows)


def mislabelled(part: Part) -> Part:
    return Part(part.inputs, part.rows, (part.labels + 1) % 3)


def build(params: Params, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return ARCHITECTURES["lm"].build(params, SHAPE, 3)


def loss(model: keras.Model, part: Part) -> float:
    """Mean cross-entropy with the penalties on weights, as Keras reports it."""
    probabilities = training.probabilities(model, part)
    own = -np.log(probabilities[np.arange(len(part.labels)), part.labels])
    return float(own.mean() + sum(float(penalty) for penalty in model.losses))


def epochs_of(part: Part, size: int, seed: int | None, count: int = 1) -> list[np.ndarray]:
    """The labels of each epoch, in the order in which they come."""
    dataset = training.batches(part, size, seed)
    return [np.concatenate([labels for _, labels in dataset]) for _ in range(count)]


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("count", "size"), [(50, 16), (48, 16), (3, 16), (1, 1)])
def test_an_epoch_holds_every_row_once_with_its_label(
    count: int, size: int, seed: int | None
) -> None:
    part = numbered(count)
    found = list(training.batches(part, size, seed))
    inputs = np.concatenate([inputs for inputs, _ in found])
    labels = np.concatenate([labels for _, labels in found])
    assert inputs.dtype == np.float32
    assert [len(batch) for batch, _ in found] == [
        min(size, count - start) for start in range(0, count, size)
    ]
    assert np.array_equal(inputs[:, 0], labels)
    assert sorted(labels) == sorted(part.rows)


def test_rows_come_in_their_order_without_a_seed_and_reshuffled_with_one() -> None:
    part = numbered(50)
    assert np.array_equal(epochs_of(part, 16, None)[0], part.labels)
    first, second = epochs_of(part, 16, seed=0, count=2)
    again = epochs_of(part, 16, seed=0)[0]
    other = epochs_of(part, 16, seed=1)[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, part.labels)


@pytest.mark.parametrize("seed", [None, 0])
def test_no_data_set_waits_for_the_tuner_of_tf_data(seed: int | None) -> None:
    assert training.batches(numbered(4), 2, seed).options().autotune.enabled is False


def test_a_training_learns_and_tells_every_epoch() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    model, val = build(LM), tinted(1)
    result = training.fit(
        model,
        LM,
        tinted(0),
        val,
        epochs=4,
        seed=0,
        on_epoch=lambda epoch, metrics: seen.append((epoch, metrics)),
    )
    assert training.accuracy(training.probabilities(model, val), val.labels) > 0.9
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert [metrics for _, metrics in seen] == result.rows
    assert list(result.history.columns) == ["epoch", *training.METRICS]
    assert result.stopped == ""


def test_the_best_weights_are_put_back() -> None:
    model, val = build(WILD), tinted(1)
    result = training.fit(model, WILD, tinted(0), val, epochs=12, seed=0)
    losses = result.history["val_loss"]
    assert losses.iloc[-1] > losses.min()
    assert result.best_epoch == losses.argmin() + 1
    assert result.best("val_loss") == losses.min()
    assert loss(model, val) == pytest.approx(losses.min(), rel=1e-4)


def test_a_training_ends_early_where_validation_gets_no_better() -> None:
    val = mislabelled(tinted(1))
    result = training.fit(build(LM), LM, tinted(0), val, epochs=16, seed=0)
    assert result.stopped == "early"
    assert len(result.rows) == result.best_epoch + 4  # a quarter of the epochs


def test_a_training_ends_after_the_epoch_in_which_the_deadline_passes() -> None:
    asked: list[bool] = []

    def deadline() -> bool:
        asked.append(len(asked) == 1)
        return asked[-1]

    result = training.fit(build(LM), LM, tinted(0), tinted(1), epochs=9, seed=0, deadline=deadline)
    assert result.stopped == "timeout"
    assert asked == [False, True]
    assert len(result.rows) == 2


def test_whoever_watches_may_end_a_training() -> None:
    def prune(epoch: int, metrics: dict[str, float]) -> None:
        raise InterruptedError(f"pruned in epoch {epoch}")

    with pytest.raises(InterruptedError, match="pruned in epoch 1"):
        training.fit(build(LM), LM, tinted(0), tinted(1), epochs=9, seed=0, on_epoch=prune)


def test_the_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    one, same, other = (
        training.fit(build(RANDOM, seed), RANDOM, tinted(0), tinted(1), epochs=2, seed=seed).history
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, same, rtol=1e-4)
    assert not np.allclose(one["val_loss"], other["val_loss"], rtol=1e-3)


def test_augmentation_is_no_part_of_the_network_that_is_left() -> None:
    model = build(RANDOM)
    training.fit(model, RANDOM, tinted(0), tinted(1), epochs=1, seed=0)
    assert not [layer for layer in model.layers if isinstance(layer, Augment)]
    assert np.array_equal(*(training.probabilities(model, tinted(1)) for _ in range(2)))


def test_a_loss_that_is_no_number_ends_the_training_with_an_error() -> None:
    part = tinted(0)
    broken = Part(np.where(part.inputs == 100, np.nan, part.inputs), part.rows, part.labels)
    with pytest.raises(ArithmeticError, match="no number any more in epoch 1"):
        training.fit(build(LM), LM, broken, tinted(1), epochs=3, seed=0)


@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        ([10, 10], None),
        ([15, 10], None),
        ([16, 10], [0.8125, 1.3]),
        ([90, 10], [5 / 9, 5.0]),
        ([6, 3, 1], [5 / 9, 10 / 9, 10 / 3]),
    ],
)
def test_uneven_classes_weigh_inversely_to_their_sizes_one_on_average(
    counts: Sequence[int], weights: Sequence[float] | None
) -> None:
    found = training.class_weights(np.repeat(np.arange(len(counts)), counts))
    if weights is None:
        assert found is None
    else:
        assert found == pytest.approx(dict(enumerate(weights)))
        assert np.dot(counts, weights) == pytest.approx(sum(counts))


def test_probabilities_sum_to_one_in_the_order_of_the_rows() -> None:
    model, part = build(LM), tinted(0, count=300)  # more than one batch
    whole = training.probabilities(model, part)
    assert whole.shape == (300, 3)
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-6)
    last = training.probabilities(model, Part(part.inputs, part.rows[-1:], part.labels[-1:]))
    assert np.allclose(whole[-1:], last, atol=1e-6)


def test_accuracy_is_the_share_of_rows_whose_most_probable_class_is_the_label() -> None:
    answers = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]], np.float32)
    assert training.accuracy(answers, np.array([0, 1, 0, 0])) == 0.75


def test_two_trainings_in_a_row_are_one_history() -> None:
    before = Fit([dict.fromkeys(training.METRICS, value) for value in (3.0, 1.0, 2.0)], 2)
    after = Fit([dict.fromkeys(training.METRICS, value) for value in (0.7, 0.5)], 2, "timeout")
    whole = before.followed_by(after)
    assert whole.history["epoch"].to_list() == [1, 2, 3, 4, 5]
    assert whole.best("val_loss") == 0.5
    assert whole.best_epoch == 5
    assert whole.stopped == "timeout"
    assert before.best("val_loss") == 1.0
