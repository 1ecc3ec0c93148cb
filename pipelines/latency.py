"""How long one answer of an exported network takes."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.backend import start_up
from pipelines.evaluation import Evaluation
from serving.predictor import CARD, NETWORK, Card, Network

CALLS = 50


def measured(evaluation: Evaluation) -> Evaluation:
    """The same with `latency_ms` among its metrics."""
    latency = {"latency_ms": measure(evaluation.exported.folder)}
    return replace(evaluation, metrics=evaluation.metrics | latency)


def measure(folder: Path) -> float:
    """Median milliseconds of one inference on one image, on one thread.

    folder: of an exported network. The processor should have nothing else to do.
    """
    card = Card.read(folder / CARD)
    with start_up():  # LiteRT tells of its delegate
        network = Network((folder / NETWORK).read_bytes(), threads=1)
        pixels = np.full((1, card.height, card.width, 3), 127, np.uint8)
        network(pixels)
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        network(pixels)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds) * 1000)
