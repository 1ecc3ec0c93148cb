"""One training of one network: data sets that do not wait, early stopping, best weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from models import Params, augment, optimiser

EVALUATION_BATCH = 256
STEPS_PER_EXECUTION = 16  # a step of a small network is shorter than the way back to Python
UNEVEN = 1.5  # ratio of the largest to the smallest class from which classes are weighted
OnEpoch = Callable[[int, dict[str, float]], None]
Deadline = Callable[[], bool]
METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Part:
    """Inputs of one split: rows `rows` of `inputs`, with their labels.

    inputs: (n, ...), any dtype, often memory-mapped; rows, labels: int64.
    """

    inputs: NDArray[np.generic]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass
class Fit:
    """What a training gave: METRICS by epoch (from 1), and the epoch whose weights were kept."""

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""

    @property
    def history(self) -> pd.DataFrame:
        """Columns `epoch` and METRICS."""
        table = pd.DataFrame(self.rows, columns=METRICS)
        table.insert(0, "epoch", range(1, len(table) + 1))
        return table

    def best(self, metric: str) -> float:
        """A metric at the epoch whose weights were kept."""
        return self.rows[self.best_epoch - 1][metric]

    def followed_by(self, later: "Fit") -> "Fit":
        """One history of two trainings in a row, the best epoch of the later one."""
        rows = self.rows + later.rows
        return Fit(rows, len(self.rows) + later.best_epoch, later.stopped)


def do_nothing(epoch: int, metrics: dict[str, float]) -> None:
    """For a training that nobody watches."""


def never() -> bool:
    """For a training without a deadline."""
    return False


def batches(part: Part, size: int, seed: int | None = None) -> tf.data.Dataset:
    """Batches (inputs float32, labels) of `part`, reshuffled every epoch where `seed` is given.

    Rows are gathered from the map a batch at a time. tf.data's autotuning is off: on TensorFlow
    2.21 the end of every epoch waits for the tuner's thread, whose sleep doubles to over a minute.
    """
    inputs, rows = part.inputs, part.rows
    shape = (None, *inputs.shape[1:])

    def gather(places: NDArray[np.int64]) -> NDArray[np.float32]:
        return inputs[rows[places]].astype(np.float32)

    def load(places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.ensure_shape(tf.numpy_function(gather, [places], tf.float32), shape)
        return values, tf.gather(labels, places)

    labels = tf.constant(part.labels)
    order = tf.data.Dataset.range(len(rows))
    if seed is not None:
        order = order.shuffle(len(rows), seed=seed, reshuffle_each_iteration=True)
    dataset = order.batch(size).map(load).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def fit(
    model: keras.Model,
    params: Params,
    train: Part,
    val: Part,
    *,
    epochs: int,
    seed: int,
    on_epoch: OnEpoch = do_nothing,
    deadline: Deadline = never,
) -> Fit:
    """Trains `model` in place and leaves it at the epoch of the lowest validation loss.

    params: of the optimiser and the augmentation; epochs: the most; on_epoch: called with the
    epoch (from 1) and METRICS, may raise to end the training; deadline: asked after every epoch.
    """
    steps = math.ceil(len(train.rows) / int(params["batch_size"]))
    trained = _with_augmentation(model, params, seed)
    trained.compile(
        optimizer=optimiser.build(params, steps * epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=min(steps, STEPS_PER_EXECUTION),
    )
    watch = _Watch(model, on_epoch, deadline, patience=max(3, epochs // 4))
    trained.fit(
        batches(train, int(params["batch_size"]), seed),
        validation_data=batches(val, EVALUATION_BATCH),
        epochs=epochs,
        class_weight=class_weights(train.labels),
        callbacks=[watch],
        shuffle=False,  # the data set does it
        verbose=0,
    )
    watch.restore()
    return watch.result


def class_weights(labels: NDArray[np.int64]) -> dict[int, float] | None:
    """Weights inverse to the classes' sizes, 1 on average; None where they are about even."""
    counts = np.bincount(labels)
    if counts.max() <= UNEVEN * counts.min():
        return None
    weights = len(labels) / (len(counts) * counts)
    return {i: float(weight) for i, weight in enumerate(weights)}


def probabilities(model: keras.Model, part: Part) -> NDArray[np.float32]:
    """Class probabilities (n, classes) of a model that answers logits, in inference mode."""
    step = tf.function(lambda inputs: tf.nn.softmax(model(inputs, training=False)))
    outputs = [step(inputs).numpy() for inputs, _ in batches(part, EVALUATION_BATCH)]
    return np.concatenate(outputs)


def accuracy(answers: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of rows whose most probable class is the label."""
    return float((answers.argmax(axis=1) == labels).mean())


def _with_augmentation(model: keras.Model, params: Params, seed: int) -> keras.Model:
    layer = augment.build(params, seed)
    if layer is None:
        return model
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, model(layer(inputs)))


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports every epoch, keeps the best weights, and stops where nothing gets better."""

    def __init__(
        self,
        network: keras.Model,
        on_epoch: OnEpoch,
        deadline: Deadline,
        patience: int,
    ) -> None:
        super().__init__()
        self.network, self.on_epoch, self.deadline = network, on_epoch, deadline
        self.patience = patience
        self.result = Fit()
        self.weights: Sequence[NDArray[np.float32]] = network.get_weights()
        self.lowest = math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Keras calls it; epoch counts from 0."""
        metrics = {
            "train_loss": logs["loss"],
            "train_accuracy": logs["accuracy"],
            "val_loss": logs["val_loss"],
            "val_accuracy": logs["val_accuracy"],
        }
        if not all(map(math.isfinite, metrics.values())):
            raise ArithmeticError(
                f"The loss is no number any more in epoch {epoch + 1}: {metrics}."
            )
        self.result.rows.append(metrics)
        if metrics["val_loss"] < self.lowest:
            self.lowest, self.result.best_epoch = metrics["val_loss"], epoch + 1
            self.weights = self.network.get_weights()
        elif epoch + 1 - self.result.best_epoch >= self.patience:
            self.result.stopped = "early"
        if self.deadline():
            self.result.stopped = "timeout"
        self.model.stop_training = bool(self.result.stopped)
        self.on_epoch(epoch + 1, metrics)

    def restore(self) -> None:
        """Puts the best weights back."""
        self.network.set_weights(self.weights)
