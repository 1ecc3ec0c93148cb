"""Seconds that an epoch of each architecture takes, with the params that a study tries first."""

import time
from itertools import pairwise

from benchmarks.timing import table
from pipelines import data, tasks
from pipelines.config import ARCHITECTURES, TrainingSettings

EPOCHS = 3


def main(source: str) -> None:
    """Prints, of each architecture on pixels, the best of its epochs and the images a second."""
    dataset = data.prepare(source, 0)
    images = len(dataset.rows("train"))
    codes = [code for code in ARCHITECTURES if code != "transfer"]
    rows = {}
    for code in codes:
        seconds = _epoch(tasks.make(code, dataset, TrainingSettings(data=source)))
        rows[code] = f"{seconds:.2f} s, {images / seconds:.0f} images/s"
    table(f"{dataset.name}: an epoch of {images} images, validation included", rows)


def _epoch(task: tasks.Task) -> float:
    ends: list[float] = []
    task.train(
        task.start,
        epochs=EPOCHS,
        seed=0,
        on_epoch=lambda *_: ends.append(time.perf_counter()),
    )
    return min(after - before for before, after in pairwise(ends))
