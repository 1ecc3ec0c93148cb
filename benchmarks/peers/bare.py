"""The trials of a search again, in a plain loop: no Optuna, no MLflow, no pruning.

It runs in this project's environment. Every trial is trained for as many epochs as it had, with
the learning rates of all that it was planned for. What is no tracking is as in the search: the
session is cleared after a trial, and collections of garbage do not scan what TensorFlow loaded.
"""

import gc
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from benchmarks.peers.job import tell
from pipelines import data, tasks
from pipelines.config import TrainingSettings
from pipelines.training import OnEpoch


class Done(Exception):  # noqa: N818 - no error
    """A trial has had its epochs."""


def main() -> None:
    """Trains the trials in the plan, a JSON file named on the command line."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    settings = TrainingSettings(**plan["settings"])
    task = tasks.make(plan["code"], data.prepare(settings.data, settings.seed), settings)
    gc.collect()
    gc.freeze()
    for number, trial in enumerate(plan["trials"]):
        tell(plan["events"], "begin", number)
        with suppress(Done):
            train(task, trial, settings.epochs, until(trial["epochs"], number, plan["events"]))
        tell(plan["events"], "end", number)
        keras.backend.clear_session()


def train(task: tasks.Task, trial: dict[str, Any], epochs: int, on_epoch: OnEpoch) -> None:
    """One trial: `params` and `seed`; epochs: what its learning rates are planned for."""
    task.train(trial["params"], epochs=epochs, seed=trial["seed"], on_epoch=on_epoch)


def until(epochs: int, number: int, events: str) -> OnEpoch:
    """A callback that ends a trial after `epochs`."""

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        tell(events, "epoch", number, val_accuracy=metrics["val_accuracy"])
        if epoch >= epochs:
            raise Done

    return on_epoch


if __name__ == "__main__":
    main()
