"""Learning curves of trials that were trained to their end, recorded for `benchmarks.pruners`."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna

from benchmarks import places
from pipelines import data
from pipelines.config import TrainingSettings
from pipelines.data import Dataset

if TYPE_CHECKING:
    from benchmarks.pruners import PrunerSettings
    from models import Params
    from pipelines.tasks import Task

EPOCHS = 12  # the most of a trial
TINY = 1e-9  # a third of three images is one


@dataclass(frozen=True)
class Curve:
    """One trial that was trained to its end.

    trial: its number, 0 the first of every study; epochs: the most that it was given; images: of
    the training split; seconds: of the training; value: validation accuracy of the weights that
    were kept; val_accuracy, train_accuracy: by epoch, shorter where it was stopped early.
    """

    code: str
    trial: int
    epochs: int
    images: int
    params: "Params"
    seconds: float
    stopped: str
    value: float
    val_accuracy: list[float]
    train_accuracy: list[float]


def load(path: Path) -> list[Curve]:
    """The curves in a file, none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Curve(**json.loads(line)) for line in lines]


def record(settings: "PrunerSettings") -> None:
    """Trains the trials that the file does not hold yet, and appends each."""
    path = Path(settings.curves)
    done = {(curve.code, curve.trial) for curve in load(path)}
    end = time.monotonic() + 60 * settings.minutes
    for task, number in _missing(settings, done):
        if time.monotonic() > end:
            break
        try:
            curve = _train(task, number, settings)
        except ArithmeticError as error:
            print(f"  {task.code} {number}: {error}", flush=True)
            continue
        with path.open("a") as file:
            file.write(json.dumps(asdict(curve)) + "\n")
        epochs = len(curve.val_accuracy)
        print(
            f"  {task.code} {number}: {curve.value:.4f}, {epochs} epochs, {curve.seconds:.0f} s",
            flush=True,
        )


def _missing(
    settings: "PrunerSettings", done: set[tuple[str, int]]
) -> Iterator[tuple["Task", int]]:
    from pipelines import tasks  # with Keras, for which `replay` need not wait

    dataset = _part(data.prepare(places.source(), settings.seed), settings.share)
    given = TrainingSettings(data=places.source(), image_size=settings.image_size)
    for code in settings.codes:
        task = tasks.make(code, dataset, given)
        for number in range(settings.trials):
            if (code, number) not in done:
                yield task, number


def _part(dataset: Dataset, share: float) -> Dataset:
    """The same data set with a share of the training images of each class, the rest in no split.

    Images are in the order of their digests, so every n-th is as good as drawn at random.
    """
    images = dataset.images
    place = images.groupby(["split", "class"]).cumcount()
    chosen = np.floor((place + 1) * share + TINY) > np.floor(place * share + TINY)
    split = images["split"].where((images["split"] != "train") | chosen, "left out")
    return replace(dataset, images=images.assign(split=split))


def _train(task: "Task", number: int, settings: "PrunerSettings") -> Curve:
    import keras

    params = _params(task, settings.seed + number) if number else task.start
    start = time.perf_counter()
    _, fit = task.train(params, epochs=EPOCHS, seed=settings.seed + number)
    seconds = time.perf_counter() - start
    keras.backend.clear_session()
    return Curve(
        code=task.code,
        trial=number,
        epochs=EPOCHS,
        images=len(task.dataset.rows("train")),
        params=params,
        seconds=seconds,
        stopped=fit.stopped,
        value=fit.best("val_accuracy"),
        val_accuracy=[row["val_accuracy"] for row in fit.rows],
        train_accuracy=[row["train_accuracy"] for row in fit.rows],
    )


def _params(task: "Task", seed: int) -> "Params":
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return task.space(study.ask())
