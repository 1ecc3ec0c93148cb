"""What a trial costs besides its training, as a study grows: `python -m benchmarks.bookkeeping`.

Optuna's claim, suggestions, reports and end, and MLflow's run, params, metrics and end, through the
project's own code and SQLite, without any training. About two minutes.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow.tracking import MlflowClient

from benchmarks.timing import table
from models import convolutional
from pipelines import search
from pipelines.config import SearchSettings
from pipelines.search import Study
from pipelines.tracking import Run
from serving import settings as entry
from serving.settings import describe

WINDOW = 20  # trials around each size, whose median is printed
EPOCHS = 12


@dataclass(frozen=True)
class BookkeepingSettings:
    """How far to go."""

    trials: int = describe("of the study", 500)


def main(settings: BookkeepingSettings) -> int:
    """Prints seconds a trial, of Optuna and of MLflow, at several sizes of the study; returns 0."""
    with tempfile.TemporaryDirectory() as folder:
        optuna, mlflow = measure(Path(folder), settings.trials)
    sizes = [size for size in (WINDOW, 100, 200, 500, 1000, 2000) if size <= settings.trials]
    rows = {}
    for size in sizes:
        both = [statistics.median(found[size - WINDOW : size]) for found in (optuna, mlflow)]
        rows[f"up to trial {size}"] = f"Optuna {both[0]:.3f} s, MLflow {both[1]:.3f} s a trial"
    table(f"Bookkeeping of a trial of cnn with {EPOCHS} epochs, SQLite", rows)
    return 0


def measure(folder: Path, trials: int) -> tuple[list[float], list[float]]:
    """Seconds of each trial of a study in `folder`, of Optuna and of MLflow."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("bookkeeping", f"file://{folder}/artifacts")
    parent = Run(client.create_run(experiment).info.run_id, experiment, client)
    settings = SearchSettings(trials=trials, epochs=EPOCHS)
    about = {"data_digest": "d", "run_id": parent.id, "experiment": experiment}
    storage = search.open_storage(f"sqlite:///{folder}/optuna.db")
    study = Study.create(storage, "bookkeeping/cnn", settings, about)
    study.top_up(trials, convolutional.START_CNN)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(trials):
        start = time.perf_counter()
        params = _optuna(study, 0.5 + 0.4 * (number * 7919 % trials) / trials)
        between = time.perf_counter()
        _mlflow(parent, params)
        times[0].append(between - start)
        times[1].append(time.perf_counter() - between)
    return times


def _optuna(study: Study, value: float) -> dict[str, object]:
    trial = study.claim()
    if trial is None:
        raise RuntimeError("Expected a trial that waits.")
    params = convolutional.space_cnn(trial)
    trial.set_user_attr("run_id", "of the trial")
    trial.set_user_attr("params", params)
    for epoch in range(1, EPOCHS + 1):
        study.is_hopeless(trial, epoch, value)
    trial.set_user_attr("history", {"val_accuracy": [value] * EPOCHS})
    study.complete(trial, {"train_accuracy": value, "val_accuracy": value, "val_loss": 1 - value})
    study.is_better({"train_accuracy": value, "val_accuracy": value, "val_loss": 1 - value})
    return dict(params)


def _mlflow(parent: Run, params: dict[str, object]) -> None:
    run = parent.child("trial", {"level": "trial", "architecture": "cnn", "study": "bookkeeping"})
    run.first_params(params)
    for epoch in range(1, EPOCHS + 1):
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        run.metrics(dict.fromkeys(names, 0.5), step=epoch)
    run.metrics({"train_accuracy": 0.5, "val_accuracy": 0.5, "val_loss": 0.5}, step=EPOCHS)
    run.tags({"stopped": "all epochs"})
    run.tags({"state": "complete"})
    run.end()


if __name__ == "__main__":
    entry.run(BookkeepingSettings, main)
