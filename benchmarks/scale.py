"""How the cost of a search grows with images, trials and workers: `python -m benchmarks.scale`.

Measured points and the line through them, by least squares: what it costs to begin, and each more.
About eight minutes on two cores.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import bookkeeping, epochs, places
from benchmarks.timing import table
from pipelines import data, features, pixels, search, tasks
from pipelines.config import SearchSettings, TrainingSettings
from pipelines.data import Dataset
from pipelines.search import Study
from serving import settings as entry
from serving.settings import describe

SHARES = (8, 4, 2, 1)  # one image of so many
SIZE = (64, 64)
WINDOW = 20  # trials before each number of trials, whose mean is taken
WORKERS = (1, 2, 4, 8, 16)
TRIAL_SECONDS = 2.0  # that a worker sleeps for a trial
TRIALS = 8  # of each worker
WEIGHTS = "mobilenet_v2_0.35_224_notop.h5"


@dataclass(frozen=True)
class ScaleSettings:
    """What to measure on."""

    data: str = describe("folder of labelled images; empty: scenes of LOOKOUT_DATA, or digits", "")
    trials: int = describe("of the longest study", 400)
    storage: str = describe("Optuna's database for the workers; empty: SQLite", "")


def main(settings: ScaleSettings) -> int:
    """Prints the points and the curves; returns 0."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOOKOUT_CACHE"] = folder
        trials(Path(folder), settings.trials)
        workers(settings.storage or f"sqlite:///{folder}/workers.db")
        images(places.source(settings.data))  # last: who imports TensorFlow collects garbage slowly
    return 0


def images(source: str) -> None:
    """Seconds of each step by number of images, each from a cold cache."""
    audit = _seconds(partial(data.prepare, source, 0))
    whole = data.prepare(source, 0)
    parts = [_part(whole, share) for share in SHARES]
    weights = places.shared("weights", WEIGHTS) or "none"
    given = TrainingSettings(data=source, weights=weights, image_size=SIZE[0])
    backbone = features.choose(replace(given, image_size=0), whole)
    _ = backbone.network  # built once, whatever the number of images
    rows: dict[str, dict[int, float]] = {"decoding": {}, "features": {}, "epoch of cnn": {}}
    for part in parts:
        count = len(part.images)
        rows["decoding"][count] = _seconds(partial(pixels.load, part, SIZE))
        large = pixels.load(part, backbone.size)
        rows["features"][count] = _seconds(partial(backbone.extract, part, large))
        rows["epoch of cnn"][count] = epochs.seconds_of(tasks.make("cnn", part, given))
    rows = {"audit": {len(whole.images): audit}} | rows
    table(f"{whole.name}: seconds by number of images", {n: _line(p) for n, p in rows.items()})


def _part(dataset: Dataset, share: int) -> Dataset:
    """One image of `share`: they are in the order of their digests, as good as drawn at random."""
    return replace(dataset, images=dataset.images.iloc[::share].reset_index(drop=True))


def trials(folder: Path, most: int) -> None:
    """Seconds that a trial costs besides its training, by the number of those before it."""
    optuna, mlflow = bookkeeping.measure(folder, most)
    sizes = [most // share for share in SHARES]
    rows = {
        name: {size: float(np.mean(found[size - WINDOW : size])) for size in sizes}
        for name, found in (("Optuna", optuna), ("MLflow", mlflow))
    }
    title = "Seconds besides the training of a trial, by trials before it (SQLite)"
    table(title, {name: _line(points) for name, points in rows.items()})


def workers(storage: str) -> None:
    """Trials that end in an hour, by workers which sleep instead of training: what claims cost.

    The workers are threads of this process, so that its one interpreter is a bound too.
    """
    points = {}
    for count in WORKERS:
        about = {"data_digest": "d", "run_id": "r", "experiment": "1", "end": None}
        name = f"scale-{os.getpid()}-{count}/lm"
        study = Study.create(search.open_storage(storage), name, SearchSettings(), about)
        study.top_up(count * TRIALS, {})
        with ThreadPoolExecutor(count) as pool:
            start = time.perf_counter()
            list(pool.map(_sleep, [(storage, name)] * count))
            seconds = time.perf_counter() - start
        points[count] = TRIALS * TRIAL_SECONDS / seconds
    name = storage.split(":", maxsplit=1)[0]
    rows = {f"{count}": f"{share:.1%} of the time asleep" for count, share in points.items()}
    table(f"Workers at once, each with {TRIALS} trials of {TRIAL_SECONDS:g} s ({name})", rows)


def _sleep(where: tuple[str, str]) -> None:
    storage, name = where
    study = Study.load(search.open_storage(storage), name)
    for _ in range(TRIALS):
        trial = study.claim()
        if trial is None:
            raise RuntimeError("Expected a trial that waits.")
        trial.suggest_float("x", 0, 1)
        time.sleep(TRIAL_SECONDS)
        study.complete(trial, {"train_accuracy": 0.5, "val_accuracy": 0.5, "val_loss": 1.0})


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _line(points: Mapping[int, float]) -> str:
    """The points, and the line through them."""
    shown = ", ".join(f"{count}: {seconds:.3g}" for count, seconds in points.items())
    if len(points) < 2:
        return shown
    each, start = np.polyfit(list(points), list(points.values()), 1)
    return f"{shown}; {start:.2g} + {each:.3g} * n"


if __name__ == "__main__":
    entry.run(ScaleSettings, main)
