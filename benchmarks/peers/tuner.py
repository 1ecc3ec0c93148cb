"""KerasTuner on this project's own space and networks: Hyperband, or RandomSearch.

It runs in an environment of its own, where of this project only `models` can be imported.
"""

import math
from typing import Any

import keras
import keras_tuner

from benchmarks.peers.job import Job
from benchmarks.peers.watch import callbacks, images, kept
from models import ARCHITECTURES, Params, augment, optimiser

ITERATIONS = 100  # of Hyperband: as high as the budget allows, says its documentation


class Trial:
    """KerasTuner's hyperparameters under the names of Optuna's."""

    def __init__(self, hp: keras_tuner.HyperParameters) -> None:
        self.hp = hp

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number from `low` to `high`, both included."""
        if low == high:
            return int(self.hp.Fixed(name, low))
        spacing: dict[str, Any] = {"sampling": "log"} if log else {"step": step}
        return int(self.hp.Int(name, low, high, **spacing))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        return float(self.hp.Float(name, low, high, step=step, sampling="log" if log else "linear"))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of `choices`."""
        return self.hp.Choice(name, choices)


class Network(keras_tuner.HyperModel):  # type: ignore[misc]
    """An architecture's space and network, compiled and fitted as Keras' tutorials do."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def params(self, hp: keras_tuner.HyperParameters) -> Params:
        """One draw from the architecture's space, and what is fixed."""
        # Trial answers what a space asks of Optuna's trial, and is none.
        return {**ARCHITECTURES[self.job.code].space(Trial(hp)), **self.job.fixed}  # type: ignore[arg-type]

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network with its augmentation, compiled."""
        job, params = self.job, self.params(hp)
        shape = (job.size, job.size, 3)
        model = ARCHITECTURES[job.code].build(params, shape, job.classes)
        if (layer := augment.build(params, job.seed)) is not None:
            inputs = keras.Input(shape)
            model = keras.Model(inputs, model(layer(inputs)))
        steps = math.ceil(job.images / int(params["batch_size"])) * job.epochs
        model.compile(
            optimizer=optimiser.build(params, steps),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, **options: Any) -> Any:
        """Trains with the batch size of `hp`."""
        job, batch = self.job, int(hp.get("batch_size"))
        read = kept if job.cached else images
        val = read(job.folder, "val", job.size, batch)
        return model.fit(read(job.folder, "train", job.size, batch), validation_data=val, **options)


def tuner(job: Job) -> keras_tuner.Tuner:
    """The tuner that the job asks for; it writes to the working folder."""
    shared = {"objective": "val_accuracy", "seed": job.seed, "directory": "tuner"}
    if job.method == "hyperband":
        return keras_tuner.Hyperband(
            Network(job), max_epochs=job.epochs, hyperband_iterations=ITERATIONS, **shared
        )
    return keras_tuner.RandomSearch(Network(job), max_trials=job.trials, **shared)


def main() -> None:
    """Searches until the trials are done, or until the benchmark ends it."""
    job = Job.given()
    keras.utils.set_random_seed(job.seed)
    tuner(job).search(epochs=job.epochs, callbacks=callbacks(job), verbose=0)


if __name__ == "__main__":
    main()
