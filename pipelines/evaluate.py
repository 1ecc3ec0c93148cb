"""The best trial of an architecture, measured once on the test images, in numbers and pictures."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from models import ARCHITECTURES
from pipelines import embedding, figures
from pipelines.evaluation import Evaluation
from pipelines.export import PARITY_IMAGES, export
from pipelines.search import Best
from pipelines.tasks import Task

SEEN = 1000  # images to take the embedding's directions from
GROUPS = {
    "InputLayer": "input",
    "Rescaling": "input",
    "Conv2D": "convolution",
    "BatchNormalization": "normalisation",
    "MaxPooling2D": "pooling",
    "AveragePooling2D": "pooling",
    "GlobalAveragePooling2D": "pooling",
    "Dense": "dense",
    "Dropout": "regularisation",
    "ReLU": "activation",
}


def evaluate(task: Task, best: Best, folder: Path) -> tuple[Evaluation, dict[str, Figure]]:
    """Measures a trial on the test images and exports its network into `folder`.

    Returns the evaluation and its pictures by name. Raises ParityError.
    """
    model = keras.models.load_model(best.network, compile=False)
    answers = task.probabilities(model, "test")
    whole = task.whole(model)
    test = task.dataset.rows("test")
    sample = task.pixels[test[:PARITY_IMAGES]]
    exported = export(whole, task.dataset.classes, sample, folder, _seen(task, model, whole))
    truth = task.dataset.labels("test")
    scores, matrix = score(answers.argmax(axis=1), truth, task.dataset.classes)
    accuracy = float((answers.argmax(axis=1) == truth).mean())
    metrics = {
        "test_accuracy": accuracy,
        "val_accuracy": best.val_accuracy,
        "train_accuracy": best.train_accuracy,
        "overfit_gap": best.train_accuracy - accuracy,
        "size_mb": exported.size_mb,
        "test_f1": float(scores["f1"].mean()),
        "test_precision": float(scores["precision"].mean()),
        "test_recall": float(scores["recall"].mean()),
        "val_loss": best.val_loss,
        "export_parity": exported.parity,
    }
    title = ARCHITECTURES[task.code].title
    evaluation = Evaluation(task.code, title, best, metrics, scores, matrix, exported)
    return evaluation, dict(_pictures(task, evaluation, whole, answers))


def _seen(task: Task, model: keras.Model, whole: keras.Model) -> NDArray[np.float32]:
    """Features of validation images: training has fitted those of its own."""
    rows = task.dataset.rows("val")[:SEEN]
    if model is not whole:  # a head, whose inputs they are
        return np.asarray(task.inputs[rows], np.float32)
    return embedding.features(embedding.parts(whole)[0], task.pixels[rows])


def score(
    answers: NDArray[np.int64], truth: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Precision, recall, F1 and support by class, and the confusion matrix (true x predicted).

    A class that was never answered has precision 0.
    """
    labels = np.arange(len(classes))
    parts = precision_recall_fscore_support(truth, answers, labels=labels, zero_division=0)
    columns = dict(zip(("precision", "recall", "f1", "support"), parts, strict=True))
    scores = pd.DataFrame(columns, index=pd.Index(classes, name="class"))
    return scores, confusion_matrix(truth, answers, labels=labels)


def layers(model: keras.Model) -> list[figures.Layer]:
    """The layers of a network from input to output, a backbone as one."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model) and layer.name == "head":
            found += layers(layer)[1:]
        else:
            found.append(_layer(layer))
    return found


def _layer(layer: keras.Layer) -> figures.Layer:
    kind = type(layer).__name__
    backbone = isinstance(layer, keras.Model)
    return figures.Layer(
        name=layer.name,
        kind=kind,
        output_shape=tuple(layer.output.shape),
        parameters=layer.count_params(),
        group="backbone" if backbone else GROUPS.get(kind, "other"),
    )


def _pictures(
    task: Task, evaluation: Evaluation, whole: keras.Model, answers: NDArray[np.float32]
) -> Iterator[tuple[str, Figure]]:
    classes = task.dataset.classes
    title = f"{task.code}: {evaluation.title}"
    truth = task.dataset.labels("test")
    test = task.dataset.rows("test")
    yield "curves.png", figures.learning_curves(evaluation.best.history, title)
    yield "layers.png", figures.layer_flow(layers(whole), title)
    yield "confusion.png", figures.confusion(evaluation.matrix, classes)
    yield "scores.png", figures.class_scores(evaluation.scores)
    wrong = np.flatnonzero(answers.argmax(axis=1) != truth)
    surest = wrong[np.argsort(-answers.max(axis=1)[wrong], kind="stable")][: figures.MISTAKES]
    yield (
        "mistakes.png",
        figures.mistakes(
            task.pixels[test[surest]],
            [classes[i] for i in truth[surest]],
            [classes[i] for i in answers[surest].argmax(axis=1)],
            answers[surest].max(axis=1),
            len(wrong),
        ),
    )
    few = np.random.default_rng(0).permutation(len(truth))[: figures.PREDICTIONS]
    labels = [classes[i] for i in truth[few]]
    pixels = task.pixels[test[few]]
    yield "predictions.png", figures.predictions(pixels, labels, answers[few], classes)
