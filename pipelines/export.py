"""A trained network as what is served: LiteRT, checked against Keras on real images."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines import training
from pipelines.backend import start_up
from pipelines.evaluation import Exported
from serving.predictor import CARD, NETWORK, Card, Network

TOLERANCE = 1e-4
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
    with start_up():  # LiteRT tells of its delegate
        answers = Network(content)(sample)
    parity = float(np.abs(keras_answers - answers).max())
    if parity > TOLERANCE:
        raise ParityError(
            f"Expected the exported network to answer as Keras does within {TOLERANCE}, but a "
            f"probability differs by {parity:.2g}."
        )
    (folder / NETWORK).write_bytes(content)
    Card(classes, *model.input_shape[1:3]).write(folder / CARD)
    model.save(folder / KERAS)
    return Exported(folder, len(content) / 1e6, parity)
