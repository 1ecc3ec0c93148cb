"""Serves a registered model with a page, metrics, and a new champion as soon as there is one.

    python -m serving.app --model models:/NAME@champion

MLflow's own scoring server answers `/invocations`, `/ping`, `/health` and `/version`; beside it are
`/predict`, which takes images as they are, `/explain`, `/feedback`, `/metrics`, `/ready`, `/live`,
and a page for people at `/`. LOOKOUT_TOKEN, where it is set, is what requests must bear.

This module starts worker processes, which share the port; `server.py` is what each of them does.
It imports little, so that they start soon.
"""

import json
import os
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass

import joblib

from serving import settings as entry
from serving.log import CLOSING, Log
from serving.settings import UserError, describe, require
from serving.uri import parse
from serving.workers import Workers

GRACE = 30  # seconds that requests may take to end when the server is stopped
MOST_WORKERS = 4  # by default: each takes some 240 MB, and answers on all cores
# Variables for the workers.
SETTINGS, PARENT, METRICS = "LOOKOUT_APP", "LOOKOUT_APP_PARENT", "PROMETHEUS_MULTIPROC_DIR"
# Of glibc's allocator, which else keeps what images of many sizes have left, in an arena a thread:
# after 3,500 hostile requests a worker had 870 MB, with these 300.
MEMORY = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "1000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000",
}


@dataclass(frozen=True)
class AppSettings:
    """Serves a registered model: page, predictions, metrics, and a swap when the alias moves."""

    model: str = describe("models:/NAME@ALIAS or models:/NAME/VERSION")
    port: int = describe("to listen at", 5000)
    log: str = describe("database URL of the inference log; empty: none", "sqlite:///inference.db")
    log_images: str = describe("folder or S3 URL to keep the images in; empty: none", "")
    log_days: float = describe("days that the log is kept; 0: for ever", 0)
    host: str = describe("address to listen at; 0.0.0.0: reachable from elsewhere", "127.0.0.1")
    refresh: float = describe("seconds between looks at where the alias points", 5)
    limit: int = describe("requests that all workers answer at once; more are refused", 64)
    workers: int = describe(f"processes; 0: one a core, at most {MOST_WORKERS}", 0)

    def __post_init__(self) -> None:
        """Raises UserError for a model's URI, a log or a number that cannot be meant."""
        parse(self.model)
        require(0 < self.port < 65536, f"Expected a port of 1 to 65535, got {self.port}.")
        require(self.refresh > 0, f"Expected more than 0 seconds as refresh, got {self.refresh}.")
        require(self.limit > 0, f"Expected a limit of 1 or more requests, got {self.limit}.")
        require(0 <= self.workers <= 256, f"Expected 0 to 256 workers, got {self.workers}.")
        self.open_log()

    def open_log(self) -> Log | None:
        """The inference log, whose database is not asked yet. Raises UserError."""
        try:
            return Log(self.log, self.log_images, self.log_days) if self.log else None
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def processes(self) -> int:
        """How many workers there are."""
        if not hasattr(socket, "SO_REUSEPORT"):  # Windows
            return 1
        return self.workers or min(int(joblib.cpu_count()), MOST_WORKERS)


def main(settings: AppSettings) -> int:
    """Serves until it is stopped; returns 0.

    Raises UserError for a port that is taken. A model that is not there yet is waited for.
    """
    listen(settings, share=False).close()
    own = {SETTINGS: json.dumps(asdict(settings)), PARENT: str(os.getpid())}
    os.environ |= MEMORY | dict(os.environ) | own
    with tempfile.TemporaryDirectory(prefix="lookout-") as folder:
        os.environ[METRICS] = folder
        print(f"Serving {settings.model} at http://{settings.host}:{settings.port}", flush=True)
        command = [sys.executable, "-m", "serving.server"]
        Workers(command, settings.processes, GRACE + CLOSING + 5).run()
    return 0


def listen(settings: AppSettings, *, share: bool) -> socket.socket:
    """A socket that is bound; share: with the other workers, among which the system deals out
    connections. Raises UserError where it cannot be.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if share and settings.processes > 1:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise UserError(
            f"Expected to listen at {settings.host}:{settings.port}, but: "
            f"{(error.strerror or str(error)).lower()}; choose another `port`."
        ) from error
    return bound


if __name__ == "__main__":
    entry.run(AppSettings, main)
