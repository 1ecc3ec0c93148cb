"""Features of a frozen backbone: LiteRT, as the search computes them, beside Keras."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import median_seconds, table
from pipelines import data, features, pixels, training
from pipelines.config import TrainingSettings
from pipelines.export import to_litert
from serving.predictor import Network

IMAGES = 512


def main(source: str, weights: Path | None) -> None:
    """Prints images a second of each weights file in `weights`, or of random weights."""
    dataset = data.prepare(source, 0)
    for file in sorted(weights.glob("*.h5")) if weights else ["none"]:
        backbone = features.choose(TrainingSettings(data=source, weights=str(file)), dataset)
        sample = pixels.load(dataset, backbone.size)[:IMAGES]
        network = backbone.network
        places = np.arange(len(sample))
        part = training.Part(sample, places, places)
        litert = Network(to_litert(network))
        fast = len(sample) / median_seconds(partial(litert, sample))
        slow = len(sample) / median_seconds(partial(training.probabilities, network, part))
        table(
            f"{backbone.name} {backbone.alpha} at {backbone.size[0]}x{backbone.size[1]}",
            {
                "LiteRT": f"{fast:.0f} images/s",
                "Keras": f"{slow:.0f} images/s, {fast / slow:.1f} x",
            },
        )
