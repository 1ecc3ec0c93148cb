"""A model of the scenes and its rows of every image and shift, for `benchmarks.drift`.

Made once and kept in a folder: the model in an MLflow store of its own, the rows as Parquet. No
training saw the images: they are the test images (labelled) and those of `seg_pred` (not), each
distinct one once.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import process
from benchmarks.places import ROOT
from benchmarks.shifts import FOREIGN_SHIFTS, NONE, SHIFTS, Shift, shifted
from monitoring.features import embedding_columns, frame, of_photo, probability_columns
from pipelines import audit, data
from pipelines.backend import start_up
from serving import folder, registered
from serving.durable import replacing
from serving.predictor import open_image, to_rgb
from serving.registered import RegisteredModel
from serving.settings import UserError

NAME = "scenes"
WEIGHTS = "mobilenet_v2_1.0_224_notop_dequantized.h5"
TRIALS = 3
BUDGET = 1200.0  # seconds

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """All rows, one shift below the other.

    table: as `monitoring.features.frame`, with `truth`; classes: of the model; starts: of a shift,
    where its first row is; images: rows of a shift of the scenes, always in the same order;
    labelled: how many of these, the first, have their right label in `truth`. The `truth` of others
    is drawn from their probabilities: a check asks for one, alarms do not depend on it.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    starts: Mapping[str, int]
    images: int
    labelled: int

    @property
    def truth(self) -> NDArray[np.str_]:
        """Classes of the labelled images."""
        truth: NDArray[np.str_] = self.table["truth"].to_numpy(str)[: self.labelled]
        return truth

    @property
    def foreign(self) -> int:
        """Number of the cats and dogs."""
        first, second = (self.starts[name] for name in FOREIGN_SHIFTS)
        return abs(second - first)

    @property
    def embedding(self) -> list[str]:
        """The columns of the embedding."""
        return embedding_columns(self.table)

    @property
    def plain(self) -> list[str]:
        """The columns besides: label, confidence, entropy, features, probabilities, novelty."""
        others = {"path", "truth", *self.embedding}
        return [name for name in self.table.columns if name not in others]


def store(kept: Path) -> str:
    """URI of the MLflow store in a folder."""
    return f"sqlite:///{kept.resolve()}/mlflow.db"


def model(kept: Path, shared: Path) -> RegisteredModel:
    """The scenes' model in the folder `kept`, trained first where there is none yet.

    Raises UserError where the training fails.
    """
    mlflow.set_tracking_uri(store(kept))
    if (kept / "mlflow.db").exists():  # made by the training: artifacts lie where that began
        with suppress(UserError):
            return _loaded()
    print("  training a model of the scenes", flush=True)
    given = {
        "data": shared / "scenes",
        "name": NAME,
        "architectures": "transfer",
        "trials": TRIALS,
        "weights": shared / "weights" / WEIGHTS,
        "storage": f"sqlite:///{kept.resolve()}/optuna.db",
    }
    command = [sys.executable, "-m", "pipelines.main", *(f"--{k}={v}" for k, v in given.items())]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {"MLFLOW_TRACKING_URI": store(kept), "PYTHONPATH": path}
    ended = process.run("training", command, folder=kept, environment=variables, budget=BUDGET)
    if ended.error:
        raise UserError(f"Expected a model of the scenes, but its training failed: {ended.error}.")
    return _loaded()


def _loaded() -> RegisteredModel:
    with start_up():  # LiteRT tells of its delegate
        return registered.load(f"models:/{NAME}@champion")


def rows(kept: Path, shared: Path, model: RegisteredModel) -> Rows:
    """The rows of every shift, those that are not in the folder `kept` yet made first."""
    tested = model.reference()
    fresh = _new_images(shared / "scenes")
    scenes = [Path(path) for path in tested["path"]] + fresh
    others = folder.files(shared / "cats_and_dogs")
    sources = {name: (shift, scenes) for name, shift in SHIFTS.items()}
    sources |= {name: (shift, others) for name, shift in FOREIGN_SHIFTS.items()}
    parts = {n: _frame(kept, model, n, *of_name) for n, of_name in sources.items()}
    lengths = [len(part) for part in parts.values()]
    classes = model.classifier.card.classes
    table = pd.concat(parts.values(), ignore_index=True)
    truth = _drawn(table[probability_columns(classes)].to_numpy(np.float64), classes)
    for name, start in zip(parts, np.cumsum([0, *lengths]), strict=False):
        if name in SHIFTS:
            truth[start : start + len(tested)] = tested["truth"].to_numpy(object)
    return Rows(
        table=table.assign(truth=truth),
        classes=tuple(classes),
        starts=dict(zip(parts, map(int, np.cumsum([0, *lengths])), strict=False)),
        images=len(parts[NONE]),
        labelled=len(tested),
    )


def _new_images(scenes: Path) -> list[Path]:
    """The unlabelled images that are equal to none of the data set, and each of them once."""
    known = set(data.prepare(str(scenes), 0).images["content"])
    where = scenes / "seg_pred"
    looks = audit.inspect(folder.files(where), where)
    looks = looks[(looks["reason"] == "") & ~looks["content"].isin(known)]
    return [Path(path) for path in looks.drop_duplicates("content")["path"]]


def _frame(
    kept: Path, model: RegisteredModel, name: str, shift: Shift, paths: Sequence[Path]
) -> pd.DataFrame:
    path = kept / "rows" / f"{name}.parquet"
    if path.exists():
        return pd.read_parquet(path)
    print(f"  rows of {len(paths):,} images, {name}", flush=True)
    path.parent.mkdir(exist_ok=True)
    pictures = kept / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    with ThreadPoolExecutor() as pool:
        written = list(pool.map(lambda at: _write(pictures, shift, *at), enumerate(paths)))
    table = frame(folder.answer(model.classifier, written, of_photo), model.classifier.card.classes)
    if len(table) != len(paths):
        raise UserError(f"Expected to read all of {len(paths)} images of {name}, got {len(table)}.")
    with replacing(path) as file:
        table.assign(path=[str(path) for path in paths]).to_parquet(file)
    shutil.rmtree(pictures)
    return table


def _write(pictures: Path, shift: Shift, number: int, path: Path) -> Path:
    target = pictures / f"{number:06}.png"
    target.write_bytes(shifted(shift, to_rgb(open_image(folder.read(path))), number))
    return target


def _drawn(probabilities: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.object_]:
    """A class of each row, by its probabilities."""
    places = np.random.default_rng(0).random((len(probabilities), 1))
    reached = probabilities.cumsum(axis=1) < places * probabilities.sum(axis=1, keepdims=True)
    chosen = reached.sum(axis=1).clip(max=len(classes) - 1)
    names: NDArray[np.object_] = np.asarray(classes, object)[chosen]
    return names
