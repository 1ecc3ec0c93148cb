"""Seconds that an epoch of each architecture takes, with the params that a study tries first.

And what of them is no step, of training or validation: `python -m benchmarks.epochs` is that alone.
"""

# ruff: noqa: ARG002, D102 - Keras calls them, by these names
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import keras

from benchmarks import places
from benchmarks.timing import table
from pipelines import data, tasks
from pipelines.config import ARCHITECTURES, TrainingSettings

EPOCHS = 3


def main(source: str) -> None:
    """Prints, of each architecture on pixels, the best of its epochs and the images a second."""
    dataset = data.prepare(source, 0)
    images = len(dataset.rows("train"))
    codes = [code for code in ARCHITECTURES if code != "transfer"]
    rows = {}
    for code in codes:
        seconds = seconds_of(tasks.make(code, dataset, TrainingSettings(data=source)))
        rows[code] = f"{seconds:.2f} s, {images / seconds:.0f} images/s"
    table(f"{dataset.name}: an epoch of {images} images, validation included", rows)


def seconds_of(task: tasks.Task) -> float:
    """Seconds of the best epoch but the first, validation included."""
    ends: list[float] = []
    task.train(
        task.start,
        epochs=EPOCHS,
        seed=0,
        on_epoch=lambda *_: ends.append(time.perf_counter()),
    )
    return min(after - before for before, after in pairwise(ends))


class Steps(keras.callbacks.Callback):  # type: ignore[misc]
    """Sums up the seconds of the steps of each epoch, and of the epochs themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self._sum = self._step = self._epoch = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras calls it, and the others."""
        self._sum, self._epoch = 0.0, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.steps.append(self._sum)
        self.epochs.append(time.perf_counter() - self._epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._sum += time.perf_counter() - self._step

    on_test_batch_begin, on_test_batch_end = on_train_batch_begin, on_train_batch_end


@contextmanager
def _counting() -> Iterator[Steps]:
    """Adds the callback to every training inside."""
    steps, fit = Steps(), keras.Model.fit

    def counted(model: keras.Model, *inputs: Any, **options: Any) -> Any:
        options["callbacks"] = [steps, *options["callbacks"]]
        return fit(model, *inputs, **options)

    with patch.object(keras.Model, "fit", counted):
        yield steps


def waits(source: str, codes: tuple[str, ...] = ("nn", "cnn")) -> None:
    """Prints, of each architecture, the share of an epoch's wall time that is in no step."""
    dataset = data.prepare(source, 0)
    rows = {}
    for code in codes:
        task = tasks.make(code, dataset, TrainingSettings(data=source))
        with _counting() as seen:
            task.train(task.start, epochs=EPOCHS + 1, seed=0)
        share = 1 - sum(seen.steps[1:]) / sum(seen.epochs[1:])
        rows[code] = f"{seen.epochs[-1]:.2f} s, {share:.1%} in no step"
    table(f"{dataset.name}: an epoch's wall time beside its steps", rows)


if __name__ == "__main__":
    waits(places.source())
