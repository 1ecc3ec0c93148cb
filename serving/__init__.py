"""Answers: images in, labels and probabilities out, without TensorFlow.

MLflow reports its use to its makers unless told otherwise before its first import; every entry
point imports this package first, and keeps to itself what it does.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
