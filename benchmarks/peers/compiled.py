"""A pyfunc that calls the network as a `tf.function`, without `keras.Model.predict`.

MLflow logs this file as the model's code.
"""

from typing import Any

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray


class Compiled(PythonModel):
    """Pixels (n, height, width, 3) 0..255 -> probabilities (n, classes)."""

    def load_context(self, context: Any) -> None:
        """Loads the network that was logged as the artifact `network`."""
        model = keras.models.load_model(context.artifacts["network"])
        pixels = tf.TensorSpec(model.input_shape, tf.float32)
        self.call = tf.function(lambda x: model(x, training=False), input_signature=[pixels])

    def predict(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """One call, whatever the number of images."""
        del context, params
        answers: NDArray[np.float32] = self.call(tf.constant(model_input)).numpy()
        return answers


mlflow.models.set_model(Compiled())
