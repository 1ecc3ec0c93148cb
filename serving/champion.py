"""The model that the app answers with: the one that an alias points at, swapped when it moves."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.pyfunc import scoring_server
from starlette.types import ASGIApp

from serving import registered
from serving.app import METRICS
from serving.settings import UserError

AGAIN = 60.0  # seconds until a version that did not load is tried again
FIRST = 10.0  # seconds that the first look is waited for

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One version, loaded: its `predictor.Predictor`, and MLflow's scoring app around it."""

    name: str
    version: str
    predictor: Any
    scoring: ASGIApp
    folder: "tempfile.TemporaryDirectory[str]" = field(repr=False)  # as long as the model


class Champion:
    """Watches the version that `uri` stands for.

    equip: is given each predictor before it answers. served: the version that answers, None: none
    yet; whoever answers takes it once, and answers with that one. waiting: why it is not the one
    asked for, a sentence. swaps, failures: models taken over, and that did not load.
    """

    def __init__(self, uri: str, refresh: float, equip: Callable[[Any], None]) -> None:
        self._uri, self._refresh, self._equip = uri, refresh, equip
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)
        self._failed, self._failed_at = "", 0.0
        self.served: Served | None = None
        self.waiting = f"Waiting for {uri}: it is being loaded."
        self.swaps = self.failures = 0

    def start(self) -> None:
        """Looks now, and then every `refresh` seconds in a thread of its own.

        Returns after the first look, or FIRST seconds: a registry that is away may take minutes.
        """
        self._thread.start()
        self._looked.wait(FIRST)

    def stop(self) -> None:
        """Looks no more."""
        self._stop.set()

    def look(self) -> None:
        """Takes over the version that the URI stands for now, or keeps what there is."""
        try:
            name, version = registered.resolve(self._uri)
        except UserError as error:
            if "not registered" not in self.waiting:  # anybody may read it: no more than that
                _logger.warning("%s", error)
            self.waiting = f"Waiting for {self._uri}: it is not registered yet."
            return
        if self.served and (self.served.name, self.served.version) == (name, version):
            self.waiting = ""
            return
        if version == self._failed and time.monotonic() - self._failed_at < AGAIN:
            return
        try:
            self.served = self._load(name, version)
        except Exception:
            _logger.exception("Version %s of %s cannot be loaded.", version, name)
            self.failures += 1
            self._failed, self._failed_at = version, time.monotonic()
            why = "the server's log says why"
            self.waiting = f"Waiting for {self._uri}: version {version} does not load; {why}."
            return
        self._failed, self.waiting = "", ""
        self.swaps += 1
        _logger.info("Version %s of %s answers.", version, name)

    def _run(self) -> None:
        self._try()
        self._looked.set()
        while not self._stop.wait(self._refresh):
            self._try()

    def _try(self) -> None:
        try:
            self.look()
        except Exception as error:  # noqa: BLE001 - a store that is away: what there is goes on
            self.waiting = f"Waiting for {self._uri}: the model registry does not answer."
            _logger.warning("%s cannot be looked up (%s).", self._uri, type(error).__name__)

    def _load(self, name: str, version: str) -> Served:
        # In the app's own folder, which goes with it, however this process ends.
        folder = tempfile.TemporaryDirectory(prefix="model-", dir=os.environ.get(METRICS))
        uri = f"models:/{name}/{version}"
        model = mlflow.pyfunc.load_model(download_artifacts(uri, dst_path=folder.name))
        predictor = model.unwrap_python_model()
        if not hasattr(predictor, "finish"):
            raise UserError("It was registered by an older Lookout; search or promote again.")
        predictor.name, predictor.version = name, version
        self._equip(predictor)
        return Served(name, version, predictor, scoring_server.init(model), folder)
