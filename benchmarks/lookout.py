"""The project as a contestant: its command, and what its runs in MLflow say of every trial."""

import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from benchmarks import process
from benchmarks.places import ROOT
from benchmarks.results import Event
from pipelines import train
from pipelines.config import TrainingSettings, TrainSettings


@dataclass
class Search:
    """One search in a folder of its own, with a cold cache.

    ended: how its process ended.
    """

    label: str
    folder: Path
    ended: process.Ended

    @property
    def store(self) -> str:
        """Its MLflow store."""
        return _store(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """Of its process, and of those that use its cache."""
        return _environment(self.folder)

    def trials(self) -> list[Run]:
        """The runs of its trials, in the order of their start."""
        if not (self.folder / "mlflow.db").exists():
            return []
        client = MlflowClient(tracking_uri=self.store)
        where = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(where, "tags.level = 'trial'")
        return sorted(found, key=lambda run: int(run.info.start_time))

    def accuracies(self, run: Run) -> list[tuple[float, float]]:
        """Clock time (seconds) and validation accuracy of every epoch of a trial.

        The last step also holds the accuracy of the trial, logged after that of its epoch.
        """
        history = MlflowClient(tracking_uri=self.store).get_metric_history(
            run.info.run_id, "val_accuracy"
        )
        epochs: dict[int, tuple[float, float]] = {}
        for metric in sorted(history, key=lambda metric: (metric.step, metric.timestamp)):
            epochs.setdefault(metric.step, (metric.timestamp / 1000, metric.value))
        return list(epochs.values())

    def events(self) -> list[Event]:
        """As the peers tell them, in seconds from the start of the process."""
        events: list[Event] = []
        for number, run in enumerate(self.trials()):
            events.append(self._event("begin", number, run.info.start_time / 1000))
            for when, accuracy in self.accuracies(run):
                events.append(self._event("epoch", number, when) | {"val_accuracy": accuracy})
            if run.info.status == "FINISHED":
                events.append(self._event("end", number, run.info.end_time / 1000))
        return events

    def plan(self, most: int) -> dict[str, Any]:
        """Of the first trials that ended: code, settings, and each one's params, seed, epochs."""
        mlflow.set_tracking_uri(self.store)
        ended = [run for run in self.trials() if run.info.status == "FINISHED"][:most]
        plans = [train.again(TrainSettings(run_id=run.info.run_id)) for run in ended]
        settings = {field.name for field in fields(TrainingSettings)}
        first = asdict(plans[0].settings) if plans else {}
        return {
            "code": first.get("architecture", ""),
            "settings": {name: value for name, value in first.items() if name in settings},
            "trials": [
                {
                    "params": plan.params,
                    "seed": plan.seed,
                    "epochs": len(self.accuracies(run)),
                    "pruned": run.data.tags.get("state") == "pruned",
                }
                for plan, run in zip(plans, ended, strict=True)
            ],
        }

    def _event(self, kind: str, trial: int, when: float) -> Event:
        return {"seconds": when - self.ended.started, "kind": kind, "trial": trial}


def search(label: str, folder: Path, budget: float, arguments: dict[str, Any]) -> Search:
    """Runs `pipelines.main` with `arguments`, `budget` seconds at most."""
    given = {"timeout": budget / 60, "storage": f"sqlite:///{folder / 'optuna.db'}"} | arguments
    flags = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "pipelines.main", *flags]
    environment = _environment(folder)
    ended = process.run(label, command, folder=folder, environment=environment, budget=budget)
    return Search(label, folder, ended)


def _store(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def _environment(folder: Path) -> dict[str, str]:
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "LOOKOUT_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": _store(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
