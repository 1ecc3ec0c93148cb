"""Runs in MLflow: a parent, a child an architecture, a grandchild a trial.

Children are made with the parent's id, never through the process's active run, so that searches in
parallel cannot end up in one another. A tracking server that goes away for a while costs nothing:
what cannot wait is tried again for PATIENCE, metrics are kept until it is back.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from requests.exceptions import RequestException
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential,
)

from pipelines import figures

DIGITS = 5  # significant: a run list shows them whole, and no accuracy has more
INHERITED = (MLFLOW_USER, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_GIT_COMMIT)
FLUSH_SECONDS = 2.0  # epochs of milliseconds would else wait for the tracking store
BATCH = 1000  # metrics; what MLflow takes at once
PATIENCE = 900  # seconds that a tracking server may be away
HURRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
GATEWAY = ("429", "502", "503", "504")  # what is answered for a server that is away or busy
KEY = "lookout.key"  # tag that names a run before the store has given it an id

T = TypeVar("T")
_patience = ContextVar("patience", default=PATIENCE)


@contextmanager
def impatient() -> Iterator[None]:
    """For what somebody waits for who has pressed Ctrl-C: a server that is away ends the block."""
    token = _patience.set(0)
    before = {name: os.environ.get(name) for name in HURRY}
    os.environ.update(HURRY)
    try:
        yield
    except (MlflowException, RequestException) as error:
        if not is_away(error):
            raise
    finally:
        _patience.reset(token)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def is_away(error: BaseException) -> bool:
    """Whether the tracking server did not answer, as against having refused."""
    if not isinstance(error, MlflowException):
        return isinstance(error, RequestException)
    cause = error.__cause__ or error.__context__
    answered = any(f"error code {code}" in str(error) for code in GATEWAY)
    return answered or isinstance(cause, RequestException)


def _say_waiting(state: RetryCallState) -> None:
    if state.attempt_number == 1:
        minutes = PATIENCE // 60
        text = f"The tracking server does not answer; trying again for {minutes} minutes"
        print(text, file=sys.stderr, flush=True)


def patiently(call: Callable[[], T]) -> T:
    """Calls until the tracking server answers, for PATIENCE at most; then its error is raised."""
    retrying = Retrying(
        retry=retry_if_exception(is_away),
        wait=wait_exponential(max=10),
        stop=stop_after_delay(_patience.get()),
        before_sleep=_say_waiting,
        reraise=True,
    )
    return retrying(call)


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
        own |= self.source | {MLFLOW_PARENT_RUN_ID: self.id, KEY: uuid.uuid4().hex}
        run = Run(self._create(name, own), self.experiment, self.client)
        run.source = self.source
        return run

    def find_child(self, tags: Mapping[str, str]) -> "Run | None":
        """The nested run that carries all of `tags`, open again; None where there is none."""
        found = patiently(lambda: self._search({MLFLOW_PARENT_RUN_ID: self.id} | dict(tags)))
        if not found:
            return None
        patiently(lambda: self.client.update_run(found[0], "RUNNING"))
        return Run(found[0], self.experiment, self.client)

    def running(self, study: str) -> list[str]:
        """Ids of a study's trial runs that are open."""
        asked = {"study": study, "level": "trial"}
        return patiently(lambda: self._search(asked, "attributes.status = 'RUNNING'"))

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended."""
        return str(patiently(lambda: self.client.get_run(self.id)).info.status) == "RUNNING"

    def params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters; those that the run holds already stay as they are."""
        there = patiently(lambda: self.client.get_run(self.id)).data.params
        self.first_params({key: value for key, value in params.items() if key not in there})

    def first_params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters of a run that holds none of them yet."""
        new = [Param(key, str(value)) for key, value in params.items()]
        patiently(lambda: self.client.log_batch(self.id, params=new))

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags, and sends the metrics that are pending."""
        own = [RunTag(key, str(value)) for key, value in tags.items()]
        self.flush(wait=True)
        patiently(lambda: self.client.log_batch(self.id, tags=own))

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics, DIGITS of each; they are sent every FLUSH_SECONDS, and at the end.

        While the server is away they are kept, and nobody waits.
        """
        now = time.time()
        stamp = int(now * 1000)
        for key, value in metrics.items():
            self._pending.append(Metric(key, float(f"{value:.{DIGITS}g}"), stamp, step))
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self, *, wait: bool = False) -> None:
        """Sends what is pending; with `wait`, until the server has taken it.

        Sending the same metric twice is sending it once: MLflow keys it by all that it holds.
        """
        try:
            while self._pending:
                if wait:
                    patiently(self._send)
                else:
                    self._send()
                del self._pending[:BATCH]
        except MlflowException as error:
            if wait or not is_away(error):
                raise
        self._flushed = time.time()

    def _send(self) -> None:
        self.client.log_batch(self.id, metrics=self._pending[:BATCH])

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

    def file(self, path: Path, name: str) -> None:
        """Logs a file as the artifact `name`, which must be its own name."""
        if path.name != name:
            raise ValueError(f"Expected a file named {name}, got {path}.")
        patiently(lambda: self.client.log_artifact(self.id, str(path)))

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.flush(wait=True)
        patiently(lambda: self.client.set_terminated(self.id, status))

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

    @cached_property
    def source(self) -> dict[str, str]:
        """Who and what made the run, for its children to carry too."""
        tags = patiently(lambda: self.client.get_run(self.id)).data.tags
        return {key: value for key, value in tags.items() if key in INHERITED}

    def _create(self, name: str, tags: dict[str, str]) -> str:
        """Makes one run, also where the server goes away after making it, before it says so."""

        def create() -> str:
            made = self.client.create_run(self.experiment, tags=tags, run_name=name)
            return str(made.info.run_id)

        try:
            return create()
        except MlflowException as error:
            if not is_away(error):
                raise
        return patiently(lambda: next(iter(self._search({KEY: tags[KEY]})), None) or create())

    def _search(self, tags: Mapping[str, str], *conditions: str) -> list[str]:
        asked = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        found = self.client.search_runs([self.experiment], " and ".join([*asked, *conditions]))
        return [run.info.run_id for run in found]

    @contextmanager
    def _artifact(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            yield path
            parent = str(Path(name).parent)
            where = None if parent == "." else parent
            patiently(lambda: self.client.log_artifact(self.id, str(path), where))


def close(of: Run, run_id: str, status: str, tags: Mapping[str, str]) -> None:
    """Ends the run of a trial that another process began; of: any run of the same experiment."""
    own = Run(run_id, of.experiment)
    own.tags(tags)
    own.end(status)


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

    def end(status: str) -> None:
        with suppress(MlflowException):  # it forgets the run first: a second call would do nothing
            mlflow.end_run(status)
        run.end(status)

    try:
        yield run
    except KeyboardInterrupt:
        with impatient():
            end("KILLED")
        raise
    except BaseException:
        end("FAILED")
        raise
    end("FINISHED")


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
