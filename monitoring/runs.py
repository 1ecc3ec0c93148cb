"""The MLflow runs of a schedule's checks, which are there before a check begins and end whatever
becomes of it.

The check takes its run from MLFLOW_RUN_ID, as it does under `mlflow run`.
"""

import os
import re
from contextlib import suppress
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import MSSQL, MYSQL, POSTGRES
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.fluent import _get_experiment_id
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from serving.settings import UserError
from serving.uri import parse

# MLflow asks a server that is away for minutes, which is longer than a stop may take. A check's own
# process asks as long as it likes.
HURRY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
AT_ONCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
AWAY = (MlflowException, SQLAlchemyError)
CONNECTING = 10  # seconds
SERVERS = (POSTGRES, MYSQL, MSSQL)
RUN = "MLFLOW_RUN_ID"
LENGTH = 500  # characters of a tag, or of an error
PASSWORD = re.compile(r"//[^/\s]*@")  # of a URL, and the user


class Runs:
    """Runs with the tag `schedule`, a schedule's id; model: the URI of what is checked.

    Raises UserError for a tracking store that is a database and does not answer.
    """

    def __init__(self, schedule: str, model: str) -> None:
        self._schedule, self._model = schedule, parse(model)[0]
        try:
            _ask(mlflow.get_tracking_uri())
            self._client = MlflowClient()
        except (*AWAY, ImportError) as error:
            raise UserError(
                "Expected a tracking store that answers where MLFLOW_TRACKING_URI says, but: "
                f"{plain(error).rstrip('.')}."
            ) from None  # its text may hold a password
        self._experiment: str | None = None
        self._own: str | None = None

    def open(self, run: str | None) -> None:
        """Names the run that `mlflow run` made for the schedule itself, if it did."""
        self._own = run
        if run:
            with suppress(*AWAY):
                tags = {"level": "schedule", "schedule": self._schedule, "model_name": self._model}
                tags[MLFLOW_RUN_NAME] = f"schedule {self._model}"
                for key, value in tags.items():
                    self._client.set_tag(run, key, value)

    def close(self, status: str) -> None:
        """Ends the schedule's own run, unless the tracking store does not answer at once."""
        os.environ |= AT_ONCE
        if self._own:
            with suppress(*AWAY):
                self._client.set_terminated(self._own, status)

    def create(self, output: str) -> str:
        """A run for a check, with the tags that it has if the check fails. Returns its id.

        output: the parameter as it was given, which the check keeps. Raises MlflowException.
        """
        tags = {"level": "monitor", "schedule": self._schedule, "model_name": self._model}
        name = f"monitor {self._model}"
        run = self._client.create_run(self._where(), tags=resolve_tags(tags), run_name=name)
        self._client.log_param(run.info.run_id, "output", output)
        return str(run.info.run_id)

    def fail(self, run: str, sentence: str, trace: str) -> None:
        """Ends a run as FAILED, with why. Raises MlflowException."""
        self._client.set_tag(run, "error", sentence[:LENGTH])
        self._client.set_terminated(run, "FAILED")
        if trace:
            self._client.log_text(run, trace, "traceback.txt")

    def end_left(self) -> None:
        """Ends as KILLED what a kill or a stop has left running. Raises MlflowException."""
        query = f"tags.schedule = '{self._schedule}' AND attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._where()], query):
            if run.info.run_id != self._own:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def report(self, run: str) -> str:
        """Where a check's report lies. Raises MlflowException."""
        uri = str(self._client.get_run(run).info.artifact_uri)
        return f"{PASSWORD.sub('//', uri)}/drift_report.html"

    def _where(self) -> str:
        """The experiment of this process, made if it is missing."""
        if self._experiment is None:
            self._experiment = str(_get_experiment_id())
        return self._experiment


def plain(error: Exception) -> str:
    """What a store said, in a line, without the password that its URI may hold."""
    text = str(getattr(error, "orig", None) or error)  # of a database, no statement
    return PASSWORD.sub("//", " ".join(text.split()))[:LENGTH]


def _ask(uri: str) -> None:
    """Connects once to a database's server, which MLflow does for two minutes before it says no."""
    kind = urlsplit(uri).scheme.split("+")[0]
    if kind not in SERVERS:
        return
    bound = {"timeout" if kind == MSSQL else "connect_timeout": CONNECTING}
    engine = create_engine(uri, poolclass=NullPool, connect_args=bound)
    with engine.connect():
        pass
