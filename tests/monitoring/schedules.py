"""The schedule as a process, and what it left in MLflow: for the tests of this folder."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.conftest import EXPERIMENT

ROOT = Path(__file__).parents[2]
CHAMPION = "models:/colours@champion"


@dataclass
class Schedule:
    """A schedule of the store's model, in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def check(self) -> psutil.Process | None:
        """The process of the check that runs."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if "monitoring.check" in _command(child)), None)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Sends a signal to the schedule alone; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(120)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def start(store: str, folder: Path, cron: str, images: Path, **variables: str) -> Schedule:
    """Starts a schedule whose state is in `folder`, and waits until it says when it checks."""
    output = folder / f"said-{time.monotonic()}.txt"
    flags: dict[str, Any] = {"cron": cron, "model": CHAMPION, "images": images}
    flags["jobs"] = f"sqlite:///{folder}/schedule.db"
    own = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "monitoring.schedule",
                *(f"--{k}={v}" for k, v in flags.items()),
            ],
            cwd=ROOT,
            env=os.environ | own | variables,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    started = Schedule(process, output)
    until(lambda: "Next check" in started.said or process.poll() is not None, 120)
    assert process.poll() is None, started.said
    return started


def until(condition: Callable[[], object], seconds: float) -> None:
    """Waits for what must come; the bound is for a machine that does nothing else well."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def checks(store: str) -> list[Run]:
    """The runs of schedules, oldest first."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    query = "tags.level = 'monitor' AND tags.schedule != ''"
    return client.search_runs([experiment], query, order_by=["start_time ASC"])


def statuses(store: str) -> list[str]:
    return [run.info.status for run in checks(store)]


def require_no_overlap(runs: list[Run]) -> None:
    """Each check has ended before the next begins."""
    for before, after in itertools.pairwise(runs):
        assert before.info.end_time <= after.info.start_time
