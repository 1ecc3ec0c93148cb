"""The trials of a search again, in a plain loop: no Optuna, no MLflow, no pruning.

It runs in this project's environment. Every trial is trained for as many epochs as it had, with
the learning rates of all that it was planned for. What is no tracking is as in the search: a trial
that was not pruned is measured on its training images too, the session is cleared after a trial,
and collections of garbage do not scan what TensorFlow loaded.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import keras

from benchmarks.peers.job import tell
from pipelines import data, tasks, trials
from pipelines.config import TrainingSettings


def main() -> None:
    """Trains the trials in the plan, a JSON file named on the command line."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    settings = TrainingSettings(**plan["settings"])
    task = tasks.make(plan["code"], data.prepare(settings.data, settings.seed), settings)
    gc.collect()
    gc.freeze()
    for number, trial in enumerate(plan["trials"]):
        tell(plan["events"], "begin", number)
        train(task, trial, settings.epochs, number, plan["events"])
        tell(plan["events"], "end", number)
        keras.backend.clear_session()


def train(task: tasks.Task, trial: dict[str, Any], planned: int, number: int, events: str) -> None:
    """One trial: `params`, `seed`, `epochs`, `pruned`; planned: epochs of its learning rates."""
    done: list[int] = []

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        tell(events, "epoch", number, val_accuracy=metrics["val_accuracy"])
        done.append(epoch)

    model, fit = task.train(
        trial["params"],
        epochs=planned,
        seed=trial["seed"],
        on_epoch=on_epoch,
        deadline=lambda: len(done) + 1 >= trial["epochs"],
    )
    if not trial["pruned"]:
        trials.measure(task, model, fit)


if __name__ == "__main__":
    main()
