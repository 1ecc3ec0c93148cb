"""A peer's images, as Keras' tutorials read them, and the callbacks that every peer gets."""

import itertools
from functools import cache
from typing import Any

import keras

from benchmarks.peers.job import Job, tell


class Events(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells of every training, which is a trial, and of its epochs.

    KerasTuner copies callbacks for each training, so the count of them is the class's.
    """

    count = itertools.count()

    def __init__(self, events: str) -> None:
        super().__init__()
        self.events, self.trial = events, -1

    def on_train_begin(self, *_: Any) -> None:
        """Keras calls it."""
        self.trial = next(Events.count)
        tell(self.events, "begin", self.trial)

    def on_epoch_end(self, _: int, logs: dict[str, float]) -> None:
        """Keras calls it."""
        tell(self.events, "epoch", self.trial, val_accuracy=float(logs["val_accuracy"]))

    def on_train_end(self, *_: Any) -> None:
        """Keras calls it."""
        tell(self.events, "end", self.trial)


def callbacks(job: Job) -> list[keras.callbacks.Callback]:
    """The events, and early stopping by the rule of this project's own trials."""
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=job.patience)
    return [Events(job.events), stopping]


@cache
def images(folder: str, split: str, size: int, batch: int | None) -> Any:
    """Batches of (batch, size, size, 3) pixels 0..255 and labels of a split, as they come.

    Every epoch reads and decodes the files again. Without `batch` there are single images.
    """
    return keras.utils.image_dataset_from_directory(
        f"{folder}/{split}",
        image_size=(size, size),
        batch_size=batch,
        shuffle=split == "train",
        verbose=False,
    )


def kept(folder: str, split: str, size: int, batch: int) -> Any:
    """The same, decoded once and kept in memory.

    Autotuning is off: at its thread the end of every epoch waits on TensorFlow 2.21.
    """
    import tensorflow as tf

    data = _memory(folder, split, size)
    if split == "train":
        data = data.shuffle(len(data))
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.batch(batch).prefetch(2).with_options(options)


@cache
def _memory(folder: str, split: str, size: int) -> Any:
    return images(folder, split, size, None).cache()
