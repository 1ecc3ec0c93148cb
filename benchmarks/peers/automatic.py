"""AutoKeras' image classifier: a space of its own on the same images, epochs and budget.

AutoKeras 3.0.0 takes arrays, fails on Keras 3.15 and runs on Keras 3.8.
"""

import autokeras
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Job
from benchmarks.peers.watch import callbacks, images

BATCH = 32  # the default of AutoKeras


def arrays(job: Job, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (n, size, size, 3), uint8, and labels (n,) of a split."""
    batches = list(images(job.folder, split, job.size, BATCH).as_numpy_iterator())
    pixels = np.concatenate([pixels.round().astype(np.uint8) for pixels, _ in batches])
    return pixels, np.concatenate([labels.astype(np.int64) for _, labels in batches])


def main() -> None:
    """Searches until the trials are done, or until the benchmark ends it."""
    job = Job.given()
    classifier = autokeras.ImageClassifier(max_trials=job.trials, seed=job.seed, directory="tuner")
    classifier.fit(
        *arrays(job, "train"),
        validation_data=arrays(job, "val"),
        epochs=job.epochs,
        callbacks=callbacks(job),
        verbose=0,
    )


if __name__ == "__main__":
    main()
