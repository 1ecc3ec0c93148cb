"""A real search over a few painted images, made once, by its own command, in a store of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image

from serving.log import Log

ROOT = Path(__file__).parents[2]
EXPERIMENT = "test"


@dataclass(frozen=True)
class Store:
    """An empty tracking store in a folder of its own, and commands of ours that run against it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def command(self, module: str, **flags: object) -> list[str]:
        """The command line of an entry point."""
        pairs = (f"--{name}={value}" for name, value in flags.items())
        return [sys.executable, "-m", module, *pairs]

    def variables(self) -> dict[str, str]:
        """The environment of a command."""
        own = {"MLFLOW_TRACKING_URI": self.uri, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
        return os.environ | own | self.environment

    def run(self, module: str, **flags: object) -> subprocess.CompletedProcess[str]:
        """Runs an entry point to its end."""
        return subprocess.run(
            self.command(module, **flags),
            cwd=ROOT,
            env=self.variables(),
            capture_output=True,
            text=True,
        )

    def runs(self, level: str) -> list[Run]:
        """The runs of one level, oldest first."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        return self.client.search_runs(
            [experiment.experiment_id], f"tags.level = '{level}'", order_by=["start_time ASC"]
        )

    def artifacts(self, run: Run, folder: str | None = None) -> set[str]:
        """Paths of a run's artifacts below `folder`."""
        found = set()
        for item in self.client.list_artifacts(run.info.run_id, folder):
            found |= self.artifacts(run, item.path) if item.is_dir else {item.path}
        return found


@dataclass(frozen=True)
class Searched(Store):
    """The store of a finished search."""

    data: Path = Path()
    output: str = ""


def new_store(folder: Path) -> Store:
    """A store whose artifacts are below `folder` too."""
    store = Store(folder)
    store.client.create_experiment(EXPERIMENT, f"file://{folder}/artifacts")
    return store


def stripes(where: Path, each: int, seed: int = 0) -> Path:
    """Three classes that two epochs tell apart: horizontal, vertical and no stripes."""
    generator = np.random.default_rng(seed)
    for name in ("flat", "horizontal", "vertical"):
        folder = where / name
        folder.mkdir(parents=True)
        for i in range(each):
            pixels = generator.normal(100, 10, (32, 32, 3))
            rows = (np.arange(32) + generator.integers(8)) % 8 < 4
            if name == "horizontal":
                pixels[rows] = 250
            if name == "vertical":
                pixels[:, rows] = 250
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return where


def colours(where: Path, each: int, seed: int = 0) -> Path:
    """Three classes that a linear model tells apart: blue, green and red noise."""
    generator = np.random.default_rng(seed)
    for channel, name in enumerate(("red", "green", "blue")):
        (where / name).mkdir(parents=True)
        for i in range(each):
            pixels = generator.normal(90, 20, (16, 16, 3))
            pixels[..., channel] += 80
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(where / name / f"{i}.png")
    return where


def correct(url: str, model: str, corrections: Iterable[tuple[bytes, str]]) -> None:
    """Stores what people say that images show, as the server does, in the order given."""
    log = Log(url)
    row = {"request_id": "a", "model_name": model, "model_version": "1", "answered": "red"}
    for image, label in corrections:
        log.correct(image, row | {"label": label})
    log.close()
    log._engine.dispose()


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """One search of three architectures, two trials each; one file of the images is broken."""
    folder = tmp_path_factory.mktemp("searched")
    data = stripes(folder / "stripes", each=60)
    (data / "flat" / "broken.jpg").write_text("no image")
    store = new_store(folder)
    done = store.run(
        "pipelines.main",
        data=data,
        architectures="lm,cnn,transfer",
        weights="none",
        image_size=32,
        trials=2,
        epochs=3,
        storage=f"sqlite:///{folder}/optuna.db",
    )
    assert done.returncode == 0, done.stderr
    return Searched(folder, data=data, output=done.stdout)


@pytest.fixture
def use_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], None]:
    """Points MLflow, in this process, at a store for one test."""

    def use(store: Store) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        mlflow.set_tracking_uri(None)

    return use


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    """A store without a run."""
    return new_store(tmp_path)
