"""What is exported answers as the network that was trained, for any number of images."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_sample_images

from models import ARCHITECTURES, Params
from models.augment import Augment
from pipelines import export, latency, training
from pipelines.export import Exported, ParityError
from serving.predictor import CARD, NETWORK, Classifier

SIDE = 32
CLASSES = ("a church", "ein Garten", "一朵花")
PARAMS: dict[str, Params] = {
    "lm": {},
    "cnn": {"units": 16, "filters": 8, "brightness": 0.1},
    "dcnn": {"blocks": 3, "filters": 8},
}


class TraceCounter(keras.layers.Layer):
    """A layer with Python state, which each trace of it freezes as it finds it."""

    traces = 0

    def call(self, inputs: Any) -> Any:
        self.traces += 1
        return inputs * float(self.traces)


def network(code: str) -> keras.Model:
    """An architecture with weights as a training might leave them, biases and averages too."""
    generator = np.random.default_rng(0)
    architecture = ARCHITECTURES[code]
    params = architecture.start | PARAMS[code]
    keras.utils.set_random_seed(0)
    model = architecture.build(params, (SIDE, SIDE, 3), len(CLASSES))
    model.set_weights([w + generator.uniform(-0.05, 0.05, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Patches (n, 32, 32, 3) of the two photographs that come with scikit-learn."""
    patches = [
        image[top : top + SIDE, left : left + SIDE]
        for image in load_sample_images().images
        for top in range(0, 400, 2 * SIDE)
        for left in range(0, 600, 2 * SIDE)
    ]
    return np.stack(patches)


@pytest.fixture(scope="module", params=PARAMS)
def model(request: pytest.FixtureRequest) -> keras.Model:
    return network(request.param)


@pytest.fixture(scope="module")
def exported(
    model: keras.Model, photographs: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    return export.export(model, CLASSES, photographs, tmp_path_factory.mktemp("exported"))


def test_the_folder_holds_what_is_served_and_what_is_trained_on(exported: Exported) -> None:
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {"network.tflite", "network.json", "network.keras"}
    card = json.loads((exported.folder / CARD).read_text(encoding="utf-8"))
    assert card == {"classes": list(CLASSES), "height": SIDE, "width": SIDE}
    assert exported.size_mb == (exported.folder / NETWORK).stat().st_size / 1e6
    assert latency.measure(exported.folder) > 0


def test_the_exported_network_answers_as_keras_does_on_photographs(
    exported: Exported, model: keras.Model, photographs: np.ndarray
) -> None:
    served = Classifier(exported.folder).probabilities(photographs)
    rows = np.arange(len(photographs))
    trained = training.probabilities(model, training.Part(photographs, rows, rows))
    assert np.abs(served - trained).max() <= export.TOLERANCE
    assert exported.parity <= export.TOLERANCE
    assert served.std(axis=0).max() > 0.01  # it does tell photographs apart
    assert np.allclose(served.sum(axis=1), 1, atol=1e-5)


def test_the_batch_size_is_left_open(exported: Exported, photographs: np.ndarray) -> None:
    interpreter = Interpreter(model_path=str(exported.folder / NETWORK))
    shape = interpreter.get_input_details()[0]["shape_signature"]
    assert shape.tolist() == [-1, SIDE, SIDE, 3]
    classifier = Classifier(exported.folder)
    whole = classifier.probabilities(photographs[:33])
    for count in (0, 1, 2, 33):
        part = classifier.probabilities(photographs[:count])
        assert part.shape == (count, len(CLASSES))
        assert np.allclose(part, whole[:count], atol=1e-5)


def test_the_network_for_training_on_is_the_one_that_was_exported(
    exported: Exported, model: keras.Model, photographs: np.ndarray
) -> None:
    loaded = keras.models.load_model(exported.folder / export.KERAS, compile=False)
    images = photographs[:4].astype(np.float32)
    assert np.array_equal(loaded(images), model(images))


def test_a_network_that_was_trained_with_augmentation_is_exported_without(
    photographs: np.ndarray, tmp_path: Path
) -> None:
    model, params = network("cnn"), ARCHITECTURES["cnn"].start | PARAMS["cnn"]
    rows = np.arange(len(photographs))
    part = training.Part(photographs, rows, rows % len(CLASSES))
    training.fit(model, params, part, part, epochs=1, seed=0)
    folder = export.export(model, CLASSES, photographs, tmp_path).folder
    loaded = keras.models.load_model(folder / export.KERAS, compile=False)
    assert not [layer for layer in loaded.layers if isinstance(layer, Augment)]
    one, other = (Classifier(folder).probabilities(photographs) for _ in range(2))
    assert np.array_equal(one, other)


def test_a_network_that_answers_otherwise_once_exported_is_refused_and_not_written(
    photographs: np.ndarray, tmp_path: Path
) -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, TraceCounter()(keras.layers.Dense(3)(means)))
    with pytest.raises(ParityError, match=r"within 0\.0001, but a probability differs by \d"):
        export.export(model, CLASSES, photographs, tmp_path / "refused")
    assert list((tmp_path / "refused").iterdir()) == []


def test_a_network_that_sees_otherwise_once_exported_is_refused_though_it_answers_alike(
    photographs: np.ndarray, tmp_path: Path
) -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    seen = TraceCounter()(keras.layers.Dense(4)(means))
    model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="zeros")(seen))
    with pytest.raises(ParityError, match=r"within 0\.01, but the embedding differs by \d"):
        export.export(model, CLASSES, photographs, tmp_path)
    assert list(tmp_path.iterdir()) == []
