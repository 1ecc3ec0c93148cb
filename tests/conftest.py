"""What the rooms' tests share: a cache of their own, and two tiny real models in a real store.

Both name the strongest of three colours: `colours` is as models were before there were embeddings,
`tints` as they are now.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from monitoring.accuracy import CORRECTNESS
from monitoring.features import FILES, frame, of_photo
from monitoring.pictures import thumbnail
from pipelines import correctness
from serving import folder
from serving.predictor import CARD, NETWORK, REFERENCE, Card, Classifier
from serving.registered import RegisteredModel

CLASSES = ("blue", "green", "red")
EXPERIMENT = "monitoring"
ROOT = Path(__file__).parents[1]
USER = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root

# In its own process: TensorFlow warns, and its import would slow down whatever runs after it.
BUILD = """
import sys
from pathlib import Path
import keras
import numpy as np
from pipelines.export import KERAS, export, to_litert
from serving import folder
from serving.predictor import decode

pixels = keras.Input((8, 8, 3))
mean = keras.layers.GlobalAveragePooling2D()(pixels)
dense = keras.layers.Dense(3, activation="softmax")
model = keras.Model(pixels, dense(mean))
dense.set_weights([np.eye(3)[::-1] * 0.03, np.zeros(3)])
Path(sys.argv[1]).write_bytes(to_litert(model))

parts = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(pixels))
seen, last = keras.layers.Dense(12), keras.layers.Dense(3)
model = keras.Model(pixels, last(seen(parts)))
seen.set_weights([np.eye(12), np.zeros(12)])
last.set_weights([np.tile(np.eye(3)[::-1] * 0.0075, (4, 1)), np.zeros(3)])
images = [decode(path.read_bytes(), (8, 8)) for path in folder.files(Path(sys.argv[2]))]
embedded = Path(sys.argv[1]).parents[1] / "embedded"
export(model, ("blue", "green", "red"), np.stack(images), embedded)
(embedded / KERAS).unlink()
"""


def paint(where: Path, count: int, seed: int, brightness: float = 1.0) -> Path:
    """A folder of `count` noisy images of 24 x 24 pixels, each of one colour's tint."""
    where.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        tint = generator.uniform(70, 120, 3)
        tint[index % 3] += 40
        pixels = generator.normal(tint, 12, (24, 24, 3)) * brightness
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(where / f"{CLASSES[2 - index % 3]}-{index}.png")
    return where


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what takes a minute or more, unless `-m long` asks for it, as `.ci/run` does."""
    if "long" not in str(config.getoption("markexpr")):
        skip = pytest.mark.skip(reason="takes long; ask for it with -m long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the user's cache, and what `mlflow run -e test` sets, out of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LOOKOUT_CACHE"] = str(folder)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and weights that LOOKOUT_DATA names; skips where there is none."""
    folder = Path(os.environ.get("LOOKOUT_DATA", ""))
    if not os.environ.get("LOOKOUT_DATA") or not folder.is_dir():
        pytest.skip("LOOKOUT_DATA names no folder of real images")
    return folder.resolve()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("built") / "plain"
    where.mkdir()
    images = paint(tmp_path_factory.mktemp("reference"), 200, seed=0)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(where / NETWORK), str(images)],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    Card(CLASSES, 8, 8).write(where / CARD)
    reference(where, images).to_parquet(where / REFERENCE)
    return where


@pytest.fixture(scope="session")
def embedded_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells what it sees, with pictures of its reference and when it is right."""
    where = model_folder.parent / "embedded"
    images = paint(tmp_path_factory.mktemp("embedded"), 200, seed=0)
    table = reference(where, images)
    shown = [thumbnail((images / path).read_bytes()) for path in table["path"][:9]]
    table["thumbnail"] = shown + [None] * (len(table) - len(shown))
    table.attrs = dict(zip(FILES, (800, 1), strict=True))
    table.to_parquet(where / REFERENCE)
    classifier = Classifier(where)
    others = folder.files(paint(tmp_path_factory.mktemp("validation"), 100, seed=9))
    pixels = np.stack([classifier.decode(path.read_bytes()) for path in others])
    truth = np.array([CLASSES.index(path.name.split("-")[0]) for path in others])
    known = correctness.learn(classifier, pixels, truth)
    assert known
    known.write(where / CORRECTNESS)
    return where


@pytest.fixture(scope="session")
def tints(embedded_folder: Path) -> RegisteredModel:
    """The model with an embedding, as a check loads it."""
    return RegisteredModel("tints", "1", "", Classifier(embedded_folder), embedded_folder)


def reference(where: Path, images: Path) -> pd.DataFrame:
    """What a model told of painted images, with their names as the truth."""
    rows = frame(folder.answer(Classifier(where), folder.files(images), of_photo), CLASSES)
    rows["truth"] = [Path(path).name.split("-")[0] for path in rows["path"]]
    return rows


@pytest.fixture(scope="session")
def store(
    model_folder: Path, embedded_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """URI of a store with `colours`: champion, and version 2 without a reference; and `tints`."""
    root = tmp_path_factory.mktemp("store")
    bare = root / "bare"
    bare.mkdir()
    for name in (NETWORK, CARD):
        (bare / name).write_bytes((model_folder / name).read_bytes())
    return register(root, {"colours": [model_folder, bare], "tints": [embedded_folder]})


def register(root: Path, models: dict[str, list[Path]]) -> str:
    """A store below `root` with a version of each model for each folder, the first champion.

    Returns its URI.
    """
    uri = f"sqlite:///{root}/mlflow.db"
    client = MlflowClient(uri)
    client.create_experiment(EXPERIMENT, f"file://{root}/artifacts")
    script = root / "register.py"
    script.write_text(REGISTER.format(models=json.dumps(models, default=str)))
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
    subprocess.run(
        [sys.executable, str(script)],
        check=True,
        capture_output=True,
        env={**environment, "PATH": "/usr/bin:/bin", "HOME": str(root)},
    )
    for name in models:
        client.set_registered_model_alias(name, "champion", "1")
    return uri


@pytest.fixture(scope="session")
def alternating(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a store with the model `turns`: its versions 1 and 2 name the classes otherwise.

    Version 3 has a network that does not load.
    """
    root = tmp_path_factory.mktemp("turns")
    folders = []
    for version in ("1", "2", "3"):
        folder = root / version
        folder.mkdir()
        content = (model_folder / NETWORK).read_bytes()
        (folder / NETWORK).write_bytes(content if version != "3" else b"no network")
        Card(tuple(f"{name} {version}" for name in CLASSES), 8, 8).write(folder / CARD)
        folders.append(folder)
    return register(root, {"turns": folders})


# The signature is that of `pipelines.registry`, whose import costs TensorFlow's: a test of `score`
# holds the two equal.
REGISTER = """
import mlflow
from mlflow.models import ModelSignature

signature = ModelSignature.from_dict(
    {{
        "inputs": '[{{"type": "binary", "name": "image", "required": true}}]',
        "outputs": '[{{"type": "string", "name": "label", "required": true}}, '
        '{{"type": "double", "name": "confidence", "required": true}}, '
        '{{"type": "map", "values": {{"type": "double"}}, "name": "probabilities", '
        '"required": true}}]',
    }}
)
for name, folders in {models}.items():
    for folder in folders:
        mlflow.pyfunc.log_model(
            name="model",
            python_model="serving/predictor.py",
            artifacts={{
                "model": folder,
                "features": "serving/features.py",
                "log": "serving/log.py",
            }},
            registered_model_name=name,
            signature=signature,
            pip_requirements=[],
        )
"""


@pytest.fixture
def tracking(store: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The store as the one in use, with no run of `mlflow run`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(None)
    return MlflowClient(store)


@pytest.fixture
def painted(tmp_path: Path) -> Callable[..., Path]:
    """Paints a folder of images below the test's own."""

    def make(name: str, count: int, seed: int, brightness: float = 1.0) -> Path:
        return paint(tmp_path / name, count, seed, brightness)

    return make


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary(name: str) -> str:
    """A program of PostgreSQL's, which Debian keeps off the PATH; skips where there is none."""
    found = shutil.which(name) or next(
        map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None
    )
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    return found


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own, without a database's name."""
    folder = Path(f"/tmp/lookout-{os.getpid()}-postgres")  # short: its socket lies there
    folder.mkdir()
    port = free_port()
    if USER:
        shutil.chown(folder, USER)
    data = str(folder / "data")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=USER, cwd=folder)

    try:
        run(binary("initdb"), "-D", data, "-U", "lookout", "-A", "trust", "-N")
        options = f"-p {port} -k {folder} -h 127.0.0.1"
        log = str(folder / "log")
        run(binary("pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://lookout@127.0.0.1:{port}"
        finally:
            run(binary("pg_ctl"), "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def database(postgresql: str, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    name = f"test{abs(hash(request.node.nodeid))}"
    host = postgresql.split("@")[1].split(":")
    flags = ["-h", host[0], "-p", host[1], "-U", "lookout", name]
    subprocess.run([binary("createdb"), *flags], check=True, capture_output=True)
    return f"{postgresql}/{name}"
