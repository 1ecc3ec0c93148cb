"""What a network sees in an image, in few numbers: the second output of what is served.

The features that its last layer decides on, along the directions in which they vary most, and as
the last number the novelty: how much of them lies in no such direction. Images unlike all that the
network knows are told by that (Cook et al. 2020, Outlier detection through null space analysis of
neural networks, arXiv:2007.01263; Wang et al. 2022, ViM, arXiv:2203.10807).
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

DIRECTIONS = 64  # at most; half of the features at most, or nothing would lie outside
# Of the first direction's standard deviation: along others features do not vary but by rounding,
# and an image that does would be any number of deviations away. It is novel instead.
LEAST = 1e-2
BATCH = 128

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Directions:
    """Principal components of features. mean: (features,); axes: (features, n), orthonormal;
    scale: (n,), standard deviations along them.
    """

    mean: Features
    axes: Features
    scale: Features

    @classmethod
    def of(cls, features: Features) -> "Directions":
        """The first components of (images, features)."""
        count = max(1, min(DIRECTIONS, features.shape[1] // 2, len(features) // 2))
        mean = features.mean(axis=0)
        _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
        count = max(1, int((lengths[:count] > LEAST * lengths[0]).sum()))
        scale = lengths[:count] / np.sqrt(max(1, len(features) - 1))
        return cls(mean, axes[:count].T, (scale if scale[0] else np.ones(1)).astype(np.float32))


def parts(model: keras.Model) -> tuple[keras.Model, keras.layers.Layer]:
    """What makes the features of pixels, and the last layer that makes logits of them.

    The head of a backbone counts as its last layer. Where nothing before the last layer was
    learnt, the logits themselves are the features: pixels tell how an image looks, not what it is.
    """
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        inputs = keras.Input(model.input_shape[1:])
        return keras.Model(inputs, model.layers[-2](inputs, training=False)), last
    body = keras.Model(model.inputs, last.input)
    if not body.weights:
        return model, keras.layers.Identity()
    return body, last


def features(body: keras.Model, pixels: NDArray[np.uint8]) -> Features:
    """pixels: (n, height, width, 3), 0..255. Returns (n, features), in inference mode."""
    step = tf.function(lambda inputs: body(tf.cast(inputs, tf.float32), training=False))
    batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
    return np.concatenate([step(batch).numpy() for batch in batches])


def attach(
    body: keras.Model, last: keras.layers.Layer, directions: Directions, names: tuple[str, str]
) -> keras.Model:
    """The network that is served: pixels -> (probabilities (n, classes), embedding (n, width)).

    The embedding holds a number for each direction, of unit variance on what the directions were
    taken from, and the novelty, 0..1. names: of the outputs.
    """
    inputs = keras.Input(body.input_shape[1:], name="pixels")
    seen = body(inputs, training=False)
    probabilities = keras.layers.Softmax(name=names[0])(last(seen, training=False))
    unit = directions.scale[0]  # a network's features may be of any size
    centred = (seen - directions.mean) / unit
    along = keras.ops.matmul(centred, directions.axes)
    whole, inside = _length(centred), _length(along)
    novelty = keras.ops.sqrt(keras.ops.maximum(whole - inside, 0) / keras.ops.maximum(whole, 1e-12))
    embedding = keras.layers.Concatenate(name=names[1])(
        [along / (directions.scale / unit), novelty]
    )
    return keras.Model(inputs, [probabilities, embedding])


def _length(values: keras.KerasTensor) -> keras.KerasTensor:
    return keras.ops.sum(keras.ops.square(values), axis=-1, keepdims=True)
