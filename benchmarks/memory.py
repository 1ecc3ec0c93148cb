"""Resident memory of each process of a search, trial by trial: `python -m benchmarks.memory`.

A search of 100 trials, whose processes are looked at every second; four minutes on two cores.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.places import ROOT
from benchmarks.process import workers_of
from benchmarks.timing import table
from serving import settings as entry
from serving.settings import describe

WINDOW = 10  # trials around the one that is asked for
EARLY, LATE = 20, 100


@dataclass(frozen=True)
class MemorySettings:
    """What to search."""

    data: str = describe("folder of labelled images, or digits", "digits")
    architecture: str = describe("a code", "nn")
    trials: int = describe("of the study", LATE)
    epochs: int = describe("a trial", 3)


Samples = dict[str, list[tuple[int, float]]]  # of a role: trials that had ended, MB


def main(settings: MemorySettings) -> int:
    """Prints the median and the largest of each role's memory, early and late; returns 0."""
    with tempfile.TemporaryDirectory() as folder:
        samples = _watch(settings, Path(folder))
    rows = {}
    for role, found in samples.items():
        early = [mb for done, mb in found if abs(done - EARLY) <= WINDOW / 2]
        late = [mb for done, mb in found if done > settings.trials - WINDOW]
        if early and late:
            change = statistics.median(late) / statistics.median(early) - 1
            rows[role] = (
                f"{statistics.median(early):.0f} MB at trial {EARLY}, "
                f"{statistics.median(late):.0f} MB at trial {settings.trials} ({change:+.1%}), "
                f"at most {max(mb for _, mb in found):.0f} MB"
            )
    table(
        f"Resident memory of a process, {settings.trials} trials of {settings.architecture}", rows
    )
    return 0


def _watch(settings: MemorySettings, folder: Path) -> Samples:
    storage = f"sqlite:///{folder}/optuna.db"
    flags = {
        "data": settings.data,
        "architectures": settings.architecture,
        "trials": settings.trials,
        "epochs": settings.epochs,
        "storage": storage,
    }
    command = [sys.executable, "-m", "pipelines.main", *(f"--{k}={v}" for k, v in flags.items())]
    samples: Samples = defaultdict(list)
    with (folder / "log").open("w") as log:
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        environment = psutil.Process().environ() | tracking
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        while process.poll() is None:
            time.sleep(1)
            done = (folder / "log").read_text().count(" trial ")
            for role, megabytes in _processes(process.pid):
                samples[role].append((done, megabytes))
    return samples


def _processes(pid: int) -> list[tuple[str, float]]:
    """Role and MB of the search's process and those that it has started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        found.append(("search", psutil.Process(pid).memory_info().rss / 1e6))
    for worker in workers_of(pid):
        with suppress(psutil.NoSuchProcess):
            found.append(("worker", worker.memory_info().rss / 1e6))
    return found


if __name__ == "__main__":
    entry.run(MemorySettings, main)
