"""What a check costs: of a folder, beside decoding and inference alone, and of an inference log."""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient
from PIL import ImageOps
from sqlalchemy import insert

from benchmarks import process
from benchmarks.frames import NAME, store
from benchmarks.markdown import table
from benchmarks.places import ROOT
from monitoring import check
from monitoring.check import MonitorSettings
from monitoring.features import NOVELTY, embedding_columns, probability_columns
from serving import folder
from serving.log import ANSWERS, open_database
from serving.predictor import open_image, to_rgb
from serving.registered import RegisteredModel

IMAGES = 10_000
TIMES = 3  # that each is measured, in turn
ROWS = 1_000_000
BATCH = 20_000  # rows a transaction
HOURS = 20  # over which the rows lie, of the 24 that are checked
BUDGET = 1800.0  # seconds
MODEL = f"models:/{NAME}@champion"


def cost(kept: Path, shared: Path, model: RegisteredModel) -> None:
    """Prints seconds, bytes and the ratio; kept: folder with the model's store."""
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        _of_folder(Path(scratch), shared, model)
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        _of_log(Path(scratch), kept, model)


def _of_folder(scratch: Path, shared: Path, model: RegisteredModel) -> None:
    images = scratch / "images"
    _make(images, folder.files(shared / "scenes"))
    paths = folder.files(images)
    calls: dict[str, Callable[[], object]] = {
        "decoding and inference alone": lambda: _consume(folder.answer(model.classifier, paths)),
        "a whole check": lambda: _check(images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TIMES):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {seconds[name][-1]:.1f} s", flush=True)
    alone, whole = (median(found) for found in seconds.values())
    rows = {name: [f"{median(found):.1f}", _range(found), ""] for name, found in seconds.items()}
    rows["a whole check"][-1] = f"{whole / alone:.2f}"
    title = f"{len(paths):,} images of {NAME}, medians of {TIMES} runs in turn"
    table(title, ["seconds", "from, to", "ratio"], rows)


def _make(target: Path, sources: list[Path]) -> None:
    """IMAGES different photos: the sources as JPEG once more, then mirrored."""
    target.mkdir()
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(_copy, target, sources), range(IMAGES)))


def _copy(target: Path, sources: list[Path], number: int) -> None:
    image = to_rgb(open_image(folder.read(sources[number % len(sources)])))
    if (number // len(sources)) % 2:
        image = ImageOps.mirror(image)
    image.save(target / f"{number:06}.jpg", quality=95)


def _consume(answers: Iterator[Any]) -> None:
    for _ in answers:
        pass


def _check(images: Path) -> None:
    with redirect_stdout(io.StringIO()):
        check.main(MonitorSettings(model=MODEL, images=str(images)))


def _of_log(scratch: Path, kept: Path, model: RegisteredModel) -> None:
    url = f"sqlite:///{scratch.resolve()}/inference.db"
    print(f"  writing {ROWS:,} rows", flush=True)
    _fill(url, model)
    output = scratch / "drift.json"
    given = {"model": MODEL, "log": url, "since": "24h", "output": output.resolve()}
    command = [sys.executable, "-m", "monitoring.check", *(f"--{k}={v}" for k, v in given.items())]
    variables = {"MLFLOW_TRACKING_URI": store(kept), "PYTHONPATH": str(ROOT)}
    ended = process.run("log", command, folder=scratch, environment=variables, budget=BUDGET)
    if ended.error or not output.exists():
        print(f"  the check of the log failed: {ended.error or 'no answer in time'}", flush=True)
        return
    rows = {
        "time of the command": [f"{ended.seconds:.0f} s"],
        "peak memory, of all its processes": [f"{ended.peak / 2**20:,.0f} MiB"],
        "drift_report.html": [f"{_report_bytes(kept) / 2**20:.2f} MiB"],
        "drift.json": [f"{output.stat().st_size / 2**10:.0f} KiB"],
        "the log": [f"{(scratch / 'inference.db').stat().st_size / 2**20:,.0f} MiB"],
    }
    table(f"A check of an inference log, {ROWS:,} rows", [""], rows)


def _fill(url: str, model: RegisteredModel) -> None:
    """Rows as the log writes them: answers to images of the reference, over and over."""
    engine = open_database(url)
    ANSWERS.metadata.create_all(engine)
    known = _answers(model)
    now = datetime.now(UTC)
    for start in range(0, ROWS, BATCH):
        generator = np.random.default_rng(start)
        places = generator.integers(len(known), size=BATCH)
        times = [now - timedelta(hours=HOURS * share) for share in generator.random(BATCH)]
        own = ({"time": when, "request_id": f"{start + n:032x}"} for n, when in enumerate(times))
        rows = [known[place] | row for place, row in zip(places, own, strict=True)]
        with engine.begin() as connection:
            connection.execute(insert(ANSWERS), rows)
    engine.dispose()


def _answers(model: RegisteredModel) -> list[dict[str, Any]]:
    """A row of the log for each image of the reference, without its time and request."""
    reference, classes = model.reference(), model.classifier.card.classes
    names = [column.name for column in ANSWERS.columns]
    told = {"position": 0, "model_name": model.name, "model_version": model.version}
    shares = reference[probability_columns(classes)].set_axis(list(classes), axis=1)
    rows = reference[[name for name in names if name in reference.columns]].to_dict("records")
    seen = reference[[*embedding_columns(reference), NOVELTY]].to_numpy("<f2")
    parts = zip(rows, shares.to_dict("records"), seen, strict=True)
    return [row | told | {"probabilities": p, "embedding": e.tobytes()} for row, p, e in parts]


def _report_bytes(kept: Path) -> int:
    """Of the newest check's report."""
    client = MlflowClient(tracking_uri=store(kept))
    experiments = [found.experiment_id for found in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.level = 'monitor'", max_results=1)
    files = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    return files["drift_report.html"] or 0


def _range(seconds: list[float]) -> str:
    return f"{min(seconds):.1f}, {max(seconds):.1f}"
