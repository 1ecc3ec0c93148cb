"""The network that `benchmarks.serving` has served, in each form; in this project's environment.

MobileNetV2 (alpha 1.0) with random weights, on images of the data set. It is registered as a search
registers its champion, and logged as MLflow's Keras flavour and as a `tf.function`.
"""

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from benchmarks.peers.served import Served
from models import transfer
from pipelines import data, registry
from pipelines.evaluation import Exported
from pipelines.export import KERAS, export
from pipelines.tracking import Run
from serving.predictor import Pixels, decode

SIDE = 160  # pixels
NAME = "benchmark"
COMPILED = Path(__file__).with_name("compiled.py")
NEEDS = [f"{package}=={version(package)}" for package in ("mlflow", "keras", "tensorflow")]


def build(pixels: Pixels, classes: int) -> keras.Model:
    """Pixels (batch, SIDE, SIDE, 3), 0..255 -> logits (batch, classes), of random weights.

    Its normalisations are set to what they see on `pixels`: or it would answer the same to all.
    """
    keras.utils.set_random_seed(0)
    features = transfer.backbone("mobilenet_v2", 1.0, "none", (SIDE, SIDE, 3))
    *_, scale, network = features.layers
    network.trainable = True
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(scale(pixels), training=True)
    head = transfer.head(transfer.START, features.output_shape[-1], classes)
    return transfer.join(features, head)


def main() -> None:
    """Makes it, of so many test images of a source; writes all into the working folder."""
    source, count = sys.argv[1], int(sys.argv[2])
    folder = Path.cwd()
    whole = data.prepare(source, 0)
    dataset = replace(whole, images=whole.images.iloc[whole.rows("test")[:count]])
    paths = dataset.images["path"].tolist()
    pixels = np.stack([decode(Path(path).read_bytes(), (SIDE, SIDE)) for path in paths])
    model = build(pixels, len(dataset.classes))
    exported = export(model, dataset.classes, pixels, folder / "exported")
    client = MlflowClient()
    experiment = client.create_experiment("serving", f"file://{folder}/artifacts")
    run = Run(client.create_run(experiment).info.run_id, experiment, client)
    ours = register(run, exported, registry.reference(exported, dataset))
    stock, compiled = log(run, keras.Model(model.inputs, keras.layers.Softmax()(model.output)))
    needs = Path(mlflow.pyfunc.get_model_dependencies(ours)).read_text().split()
    Served(ours, stock, compiled, str(exported.folder), needs, paths).write(folder)


def register(run: Run, exported: Exported, table: pd.DataFrame) -> str:
    """URI of the exported network, registered as the champion."""
    number = registry.register(NAME, run.id, registry.log(run, NAME, exported, table), {}, "")
    return f"models:/{NAME}@{registry.settle(NAME, number, {})}"


def log(run: Run, model: keras.Model) -> tuple[str, str]:
    """URIs of a network as MLflow's Keras flavour, and as a `tf.function` in a pyfunc."""
    pixels, answers = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape[1:]))])
        for shape in (model.input_shape, model.output_shape)
    )
    about = {"signature": ModelSignature(pixels, answers), "pip_requirements": NEEDS}
    model.save(KERAS)
    with mlflow.start_run(run_id=run.id):
        stock = mlflow.keras.log_model(model, name="stock", **about)
        compiled = mlflow.pyfunc.log_model(
            name="compiled", python_model=str(COMPILED), artifacts={"network": KERAS}, **about
        )
    return stock.model_uri, compiled.model_uri


if __name__ == "__main__":
    main()
