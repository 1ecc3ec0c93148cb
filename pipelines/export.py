"""A trained network as what is served: LiteRT, checked against Keras on real images."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines import embedding
from pipelines.backend import start_up
from pipelines.evaluation import Exported
from serving.predictor import CARD, NETWORK, Card, Network

TOLERANCE = 1e-4  # of a probability
ROUGHLY = 1e-2  # of a number in the embedding, whose standard deviation is 1
PARITY_IMAGES = 100
KERAS = "network.keras"  # for training on; nothing that serves reads it


class ParityError(Exception):
    """The exported network does not answer as the one that was trained."""


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
    model: keras.Model,
    classes: tuple[str, ...],
    pixels: NDArray[np.uint8],
    folder: Path,
    features: NDArray[np.float32] | None = None,
) -> Exported:
    """Writes what is served into `folder`, and checks it on `pixels`.

    model: (batch, height, width, 3) pixels 0..255 -> (batch, classes) logits; the export answers
    probabilities and the embedding. pixels: (n, height, width, 3), uint8, real images, of which
    PARITY_IMAGES count. features: (m, features) as `embedding.features` gives them, to take the
    embedding's directions from; None: those of `pixels`.
    Raises ParityError where a probability differs by more than TOLERANCE, or a number of the
    embedding by more than ROUGHLY.
    """
    folder.mkdir(parents=True, exist_ok=True)
    body, last = embedding.parts(model)
    if features is None:
        features = embedding.features(body, pixels)
    directions = embedding.Directions.of(features)
    answering = embedding.attach(body, last, directions, ("probabilities", "embedding"))
    content = to_litert(answering)
    parity = _check(answering, content, pixels[:PARITY_IMAGES])
    (folder / NETWORK).write_bytes(content)
    Card(classes, *model.input_shape[1:3]).write(folder / CARD)
    model.save(folder / KERAS)
    return Exported(folder, len(content) / 1e6, parity)


def _check(model: keras.Model, content: bytes, sample: NDArray[np.uint8]) -> float:
    """The largest difference of a probability between a network and its export."""
    expected = model(sample.astype(np.float32), training=False)
    with start_up():  # LiteRT tells of its delegate
        network = Network(content)
        received = np.split(network(sample), network.bounds, axis=1)
    apart = [
        float(np.abs(np.asarray(keras_answers) - answers).max())
        for keras_answers, answers in zip(expected, received, strict=True)
    ]
    for difference, bound, what in zip(
        apart, (TOLERANCE, ROUGHLY), ("a probability", "the embedding"), strict=True
    ):
        if difference > bound:
            raise ParityError(
                f"Expected the exported network to answer as Keras does within {bound}, but "
                f"{what} differs by {difference:.2g}."
            )
    return apart[0]
