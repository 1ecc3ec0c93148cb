"""The servers of `benchmarks.serving`: how each is started, and what it is asked.

To add one, add a line to SERVERS; one that needs packages of its own has them in PEERS.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import environments
from benchmarks.environments import Environment
from benchmarks.peers.forms import Form
from benchmarks.peers.served import Served
from benchmarks.places import ROOT

PEERS = {"litserve": "litserve==0.2.19", "bentoml": "bentoml==1.4.39"}
OWN_CODE = {"PYTHONPATH": str(ROOT)}  # for what is started from this project's folder


@dataclass(frozen=True)
class Stage:
    """What all servers share; folder: for what they write, with MLflow's database."""

    folder: Path
    served: Served
    forms: Mapping[str, Form]


@dataclass(frozen=True)
class Server:
    """A contestant.

    command: what starts it, of the stage, its folder and its port; forms: its rows in the tables,
    and the form of request of each; path: where they are sent; logs: whether it logs its answers.
    """

    command: Callable[[Stage, Path, int], list[str]]
    forms: Mapping[str, str]
    path: str = "/invocations"
    environment: Mapping[str, str] = field(default_factory=dict)
    logs: bool = False


def environment(store: Path, folder: Path) -> dict[str, str]:
    """Variables of a process that works in `folder`; store: the folder of MLflow's database."""
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "LOOKOUT_LOG": log_url(folder),
        "BENTOML_HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own


def log_url(folder: Path) -> str:
    """Of the inference log of a server that works in `folder`."""
    return f"sqlite:///{folder}/inference.db"


def _mlflow(stage: Stage, folder: Path, port: int, *flags: str, model: str) -> list[str]:
    del folder
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    uri = getattr(stage.served, model)
    return [*command, "--model-uri", uri, "--host", "127.0.0.1", "--port", str(port), *flags]


def _two_workers(stage: Stage, folder: Path, port: int) -> list[str]:
    return _mlflow(stage, folder, port, "--workers", "2", model="ours")


def _app(stage: Stage, folder: Path, port: int) -> list[str]:
    flags = ["--model", stage.served.ours, "--port", str(port), "--log", log_url(folder)]
    return [sys.executable, "-m", "serving.app", *flags]


def _litserve(stage: Stage, folder: Path, port: int) -> list[str]:
    del folder
    return [_python("litserve", stage.served), "-m", "benchmarks.peers.lit", str(port)]


def _bentoml(stage: Stage, folder: Path, port: int) -> list[str]:
    del folder
    command = [_python("bentoml", stage.served), "-m", "bentoml", "serve"]
    return [*command, "benchmarks.peers.bento:Answers", "--host", "127.0.0.1", "--port", str(port)]


def _python(name: str, served: Served) -> str:
    """Interpreter of a peer's environment, which has what the model needs too."""
    packages = (PEERS[name], *served.needs)
    environments.ENVIRONMENTS[name] = Environment(packages, locked=False)
    return environments.python(name)


STOCK = "stock"
SERVERS = {
    "stock": Server(partial(_mlflow, model="stock"), {STOCK: "pixels"}),
    "function": Server(partial(_mlflow, model="compiled"), {"tf.function": "pixels"}),
    "ours": Server(
        partial(_mlflow, model="ours"),
        {"ours, 1 worker": "text", "ours, 1 worker, 16 images": "texts"},
        logs=True,
    ),
    "ours-2": Server(
        _two_workers,
        {"ours, 2 workers": "text", "ours, 2 workers, 16 images": "texts"},
        logs=True,
    ),
    "app": Server(_app, {"app": "image"}, "/predict", OWN_CODE, logs=True),
    "litserve": Server(_litserve, {"LitServe": "image"}, "/predict", OWN_CODE),
    "bentoml": Server(_bentoml, {"BentoML": "image"}, "/predict", OWN_CODE),
}
