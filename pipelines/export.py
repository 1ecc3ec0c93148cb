"""A trained network as what is served: LiteRT, checked against Keras on real images."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines import training
from serving.predictor import CARD, NETWORK, Card, Network

TOLERANCE = 1e-4
PARITY_IMAGES = 100
LATENCY_CALLS = 50
KERAS = "network.keras"  # for training on; nothing that serves reads it


class ParityError(Exception):
    """The exported network does not answer as the one that was trained."""


@dataclass(frozen=True)
class Exported:
    """A served network's folder, and what was measured on it."""

    folder: Path
    size_mb: float
    latency_ms: float
    parity: float


def to_litert(model: keras.Model) -> bytes:
    """LiteRT flatbuffer of a model, built-in operators alone, its batch size left open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NETWORK
        model.export(
            path,
            format="litert",
            verbose=False,
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        )
        return path.read_bytes()


def export(
    model: keras.Model, classes: tuple[str, ...], pixels: NDArray[np.uint8], folder: Path
) -> Exported:
    """Writes what is served into `folder`, and checks it on `pixels`.

    model: (batch, height, width, 3) pixels 0..255 -> (batch, classes) logits; the export answers
    probabilities. pixels: (n, height, width, 3), uint8, real images, of which PARITY_IMAGES count.
    Raises ParityError where a probability differs by more than TOLERANCE.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answering = keras.Model(model.inputs, keras.layers.Softmax(name="probabilities")(model.output))
    content = to_litert(answering)
    sample = pixels[:PARITY_IMAGES]
    everything = np.arange(len(sample))
    keras_answers = training.probabilities(model, training.Part(sample, everything, everything))
    parity = float(np.abs(keras_answers - Network(content)(sample)).max())
    if parity > TOLERANCE:
        raise ParityError(
            f"Expected the exported network to answer as Keras does within {TOLERANCE}, but a "
            f"probability differs by {parity:.2g}."
        )
    (folder / NETWORK).write_bytes(content)
    Card(classes, *model.input_shape[1:3]).write(folder / CARD)
    model.save(folder / KERAS)
    return Exported(folder, len(content) / 1e6, latency(content, sample[:1]), parity)


def latency(content: bytes, pixels: NDArray[np.uint8]) -> float:
    """Median milliseconds of one inference on one image (1, height, width, 3), on one thread."""
    network = Network(content, threads=1)
    network(pixels)
    seconds = []
    for _ in range(LATENCY_CALLS):
        start = time.perf_counter()
        network(pixels)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds) * 1000)
