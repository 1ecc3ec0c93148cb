"""Kills a search at random moments and resumes it: `python -m benchmarks.crashes`.

Of each three kills one takes a worker, one the search's process, one all of its processes. Where
that ends the search, it is resumed. About 15 seconds a kill.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from benchmarks.places import ROOT
from benchmarks.process import workers_of
from benchmarks.timing import table
from pipelines import search
from pipelines.search import Study
from serving import settings as entry
from serving.settings import describe

LATEST = 12.0  # seconds after its begin, or the last kill, that a search may be killed
AFTERWARDS = 3.0  # seconds to see whether it outlives its worker
KINDS = ("a worker", "the search", "all")


@dataclass(frozen=True)
class CrashSettings:
    """How often to kill what."""

    kills: int = describe("how many", 20)
    data: str = describe("folder of labelled images, or digits", "digits")
    architectures: str = describe("comma list of codes", "nn,cnn")
    trials: int = describe("a study", 60)
    seed: int = describe("of the moments", 0)


@dataclass
class Victim:
    """A search in a folder of its own, which is started again and again."""

    folder: Path
    settings: CrashSettings
    run_id: str = ""
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def storage(self) -> str:
        """Optuna's database."""
        return f"sqlite:///{self.folder}/optuna.db"

    @property
    def client(self) -> MlflowClient:
        """Of its tracking store."""
        return MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def studies(self) -> list[Study]:
        """Its studies, as far as it has come."""
        if not self.run_id:
            return []
        storage = search.open_storage(self.storage)
        return [Study.load(storage, name) for name in search.names(storage, self.run_id)]

    def start(self) -> subprocess.Popen[str]:
        """Starts it, or goes on with it; returns when it has said its run's id."""
        own = {"resume": self.run_id} if self.run_id else self._flags()
        flags = [f"--{name}={value}" for name, value in own.items()]
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "pipelines.main", *flags],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for line in process.stdout or ():
            if found := re.match(r"Run (\w+):", line):
                self.run_id = found.group(1)
                break
        return process

    def _flags(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "data": settings.data,
            "architectures": settings.architectures,
            "trials": settings.trials,
            "epochs": 3,
            "storage": self.storage,
        }


def finished(victim: Victim) -> dict[tuple[str, int], float | None]:
    """The trials that have ended, with their values."""
    return {(study.name, t.number): t.value for study in victim.studies() for t in study.ended()}


def problems(client: MlflowClient, studies: list[Study]) -> list[str]:
    """Where Optuna and MLflow differ: in a trial's end, in its metrics; and what still runs."""
    found, known = [], set()
    experiment = studies[0].about["experiment"]
    names = {study.name for study in studies}
    runs = {
        run.info.run_id: run
        for run in client.search_runs([experiment], "tags.level = 'trial'", max_results=5000)
        if run.data.tags["study"] in names
    }
    for study in studies:
        for trial in study.trials():
            run_id = trial.user_attrs.get("run_id")
            if trial.state == TrialState.RUNNING:
                found.append(f"{study.name}: trial {trial.number} is left running")
            elif run_id in known:
                found.append(f"{study.name}: trial {trial.number} shares its run with another")
            elif run_id:
                known.add(run_id)
                found += _differences(client, study, trial, runs[run_id].info.status)
    orphans = [run for run_id, run in runs.items() if run_id not in known]
    found += [
        f"run {run.info.run_id} of no trial" for run in orphans if run.info.status != "KILLED"
    ]
    return found


def _differences(client: MlflowClient, study: Study, trial: FrozenTrial, status: str) -> list[str]:
    label = f"{study.name}: trial {trial.number}"
    expected = search.run_status(trial)
    found = [] if status == expected else [f"{label} is {expected}, its run {status}"]
    if trial.state == TrialState.COMPLETE:
        logged = client.get_metric_history(trial.user_attrs["run_id"], "val_accuracy")
        epochs = range(1, len(trial.user_attrs["history"]["epoch"]) + 1)
        missing = set(epochs) - {metric.step for metric in logged}
        found += [f"{label}: no metric of epoch {epoch}" for epoch in sorted(missing)]
    return found


def main(settings: CrashSettings) -> int:
    """Prints what became of the trials; returns 0."""
    moments = random.Random(settings.seed)  # noqa: S311 - no secret
    lost = survived = 0
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(folder), settings)
        before: dict[tuple[str, int], float | None] = {}
        process = victim.start()
        for number in range(settings.kills):
            if process.poll() is not None:
                process = victim.start()
            time.sleep(moments.uniform(0, LATEST))
            kind = _kill(process, KINDS[number % len(KINDS)], moments)
            victim.kinds[kind] += 1
            survived += process.poll() is None
            after = finished(victim)
            gone = [key for key, value in before.items() if after.get(key, "gone") != value]
            lost, before = lost + len(gone), after
            print(f"kill {number + 1}: {kind}, {len(after)} trials finished", flush=True)
        if process.poll() is not None:
            process = victim.start()
        process.communicate()
        counts = {study.code: len(study.ended()) for study in victim.studies()}
        left = problems(victim.client, victim.studies())
        rows = {
            "kills": ", ".join(f"{count} of {kind}" for kind, count in victim.kinds.items()),
            "that the search outlived": str(survived),
            "trials at the end": ", ".join(f"{code} {count}" for code, count in counts.items()),
            "finished trials lost": str(lost),
            "trials too many": str(sum(max(0, n - settings.trials) for n in counts.values())),
            "trials tried again": str(sum("after" in t.user_attrs for t in _trials(victim))),
            "differences, or left running": "; ".join(left) or "none",
            "exit status at the end": str(process.returncode),
        }
        table("A search that was killed again and again", rows)
    return 0


def _trials(victim: Victim) -> list[FrozenTrial]:
    return [trial for study in victim.studies() for trial in study.trials()]


def _kill(process: subprocess.Popen[str], kind: str, moments: random.Random) -> str:
    """Kills a worker, the search's own process, or all; returns what it killed."""
    if process.poll() is not None:
        return "nothing, it had ended"
    workers = workers_of(process.pid)
    if kind == "a worker" and not workers:
        kind = "the search"  # before it has one
    if kind == "a worker":
        moments.choice(workers).kill()
        time.sleep(AFTERWARDS)
        return kind
    if kind == "the search":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return kind


if __name__ == "__main__":
    entry.run(CrashSettings, main)
