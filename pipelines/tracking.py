"""Runs in MLflow: a parent, a child an architecture, a grandchild a trial.

Children are made with the parent's id, never through the process's active run, so that searches in
parallel cannot end up in one another.
"""

import json
import os
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from pipelines import figures

DIGITS = 5  # significant: a run list shows them whole, and no accuracy has more
INHERITED = (MLFLOW_USER, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_GIT_COMMIT)
FLUSH_SECONDS = 2.0  # epochs of milliseconds would else wait for the tracking store


@dataclass
class Run:
    """One MLflow run, written through the client."""

    id: str
    experiment: str
    client: MlflowClient = field(default_factory=MlflowClient)
    _pending: list[Metric] = field(default_factory=list)
    _flushed: float = 0.0

    def child(self, name: str, tags: Mapping[str, Any]) -> "Run":
        """A nested run."""
        own = {key: str(value) for key, value in tags.items()}
        source = {k: v for k, v in self._tags().items() if k in INHERITED}
        run = self.client.create_run(
            self.experiment, tags=source | own | {MLFLOW_PARENT_RUN_ID: self.id}, run_name=name
        )
        return Run(run.info.run_id, self.experiment, self.client)

    def find_child(self, tags: Mapping[str, str]) -> "Run | None":
        """The nested run that carries all of `tags`, open again; None where there is none."""
        asked = {MLFLOW_PARENT_RUN_ID: self.id} | dict(tags)
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in asked.items())
        found = self.client.search_runs([self.experiment], condition, max_results=1)
        if not found:
            return None
        self.client.update_run(found[0].info.run_id, "RUNNING")
        return Run(found[0].info.run_id, self.experiment, self.client)

    def params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters; those that the run holds already stay as they are."""
        there = self.client.get_run(self.id).data.params
        new = [Param(key, str(value)) for key, value in params.items() if key not in there]
        self.client.log_batch(self.id, params=new)

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags."""
        self.client.log_batch(self.id, tags=[RunTag(key, str(v)) for key, v in tags.items()])

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics, DIGITS of each; they are sent every FLUSH_SECONDS, and at the end."""
        now = time.time()
        stamp = int(now * 1000)
        for key, value in metrics.items():
            self._pending.append(Metric(key, float(f"{value:.{DIGITS}g}"), stamp, step))
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Sends what is pending."""
        if self._pending:
            self.client.log_batch(self.id, metrics=self._pending)
        self._pending, self._flushed = [], time.time()

    def figure(self, figure: Figure, name: str) -> None:
        """Logs a picture as the artifact `name` (`folder/name.png`)."""
        with self._artifact(name) as path:
            figures.save(figure, path)

    def table(self, table: pd.DataFrame, name: str, *, index: bool = True) -> None:
        """Logs a table as a CSV artifact."""
        with self._artifact(name) as path:
            table.to_csv(path, index=index)

    def text(self, text: str, name: str) -> None:
        """Logs a text artifact."""
        with self._artifact(name) as path:
            path.write_text(text, encoding="utf-8")

    def json(self, content: Any, name: str) -> None:
        """Logs a JSON artifact."""
        self.text(json.dumps(content, indent=2, ensure_ascii=False), name)

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.flush()
        self.client.set_terminated(self.id, status)

    @contextmanager
    def ended(self) -> Iterator["Run"]:
        """Ends the run with the block: FAILED with its traceback, KILLED where interrupted."""
        try:
            yield self
        except Exception:
            self.failed(traceback.format_exc())
            raise
        except BaseException:
            self.end("KILLED")
            raise
        self.end()

    def failed(self, trace: str) -> None:
        """Ends the run as FAILED, its traceback as an artifact, its last line as a tag."""
        self.tags({"error": trace.strip().splitlines()[-1][:500]})
        self.text(trace, "traceback.txt")
        self.end("FAILED")

    def _tags(self) -> dict[str, str]:
        return dict(self.client.get_run(self.id).data.tags)

    @contextmanager
    def _artifact(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            yield path
            parent = str(Path(name).parent)
            self.client.log_artifact(self.id, str(path), None if parent == "." else parent)


@contextmanager
def project_run(name: str, resume: str = "") -> Iterator[Run]:
    """The project's run: the one that `mlflow run` made, a new one, or the one to resume.

    A user's mistake inside ends it as FAILED, an interrupt as KILLED.
    """
    if resume and (shell := os.environ.get("MLFLOW_RUN_ID")):  # `mlflow run` made one for this call
        MlflowClient().set_tag(shell, "level", "resume")
        MlflowClient().set_tag(shell, "resumed", resume)
    active = mlflow.start_run(run_id=resume or None, log_system_metrics=False)
    run = Run(active.info.run_id, active.info.experiment_id)
    run.tags({MLFLOW_RUN_NAME: name} | _commit())
    status = "FINISHED"
    try:
        yield run
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        run.flush()
        mlflow.end_run(status)


def name_run(level: str, name: str, tags: Mapping[str, str]) -> None:
    """Names and tags the run that `mlflow run` made for an entry point which opens none itself.

    Started as a module there is none, and nothing is logged.
    """
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        own = {"level": level, MLFLOW_RUN_NAME: name, **tags}
        MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])


@cache
def _commit() -> dict[str, str]:
    """The commit of this code, where it stands in a git checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {MLFLOW_GIT_COMMIT: done.stdout.strip()}
