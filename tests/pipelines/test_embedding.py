"""What a served network tells of what it sees: of every architecture, on photographs."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from models import ARCHITECTURES, Params
from pipelines import embedding, export
from pipelines.embedding import Directions
from serving.predictor import Classifier

SIDE = 32
CLASSES = ("a", "b", "c", "d", "e", "f", "g")
QUICK: dict[str, Params] = {
    "nn": {"units": 64},
    "cnn": {"units": 16, "filters": 8},
    "dcnn": {"blocks": 3, "filters": 8},
    "transfer": {"backbone": "mobilenet", "alpha": 0.25},
}
FEATURES = {"lm": len(CLASSES), "nn": 64, "dnn": 128, "dnnd": 128, "cnn": 16}


def network(code: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    architecture = ARCHITECTURES[code]
    params = architecture.start | QUICK.get(code, {})
    return architecture.build(params, (SIDE, SIDE, 3), len(CLASSES))


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Patches (n, 32, 32, 3) of the two photographs that come with scikit-learn."""
    patches = [
        image[top : top + SIDE, left : left + SIDE]
        for image in load_sample_images().images
        for top in range(0, 384, SIDE)
        for left in range(0, 600, SIDE)
    ]
    return np.stack(patches)


@pytest.mark.parametrize("code", ARCHITECTURES)
class TestEveryArchitecture:
    def test_serves_an_embedding_as_keras_gives_it(self, code, photographs, tmp_path):
        model = network(code)
        body, last = embedding.parts(model)
        seen = embedding.features(body, photographs)
        assert seen.shape == (len(photographs), FEATURES.get(code, seen.shape[1]))
        logits = model(photographs[:9].astype(np.float32), training=False).numpy()
        assert np.asarray(last(seen[:9])) == pytest.approx(logits, abs=1e-4)

        folder = export.export(model, CLASSES, photographs, tmp_path, seen).folder
        shares, numbers = Classifier(folder).answer(photographs)
        assert np.asarray(keras.ops.softmax(logits)) == pytest.approx(shares[:9], abs=1e-4)
        directions = Directions.of(seen)
        assert 1 <= directions.axes.shape[1] <= min(embedding.DIRECTIONS, seen.shape[1] // 2)
        along = (seen - directions.mean) @ directions.axes
        assert numbers[:, :-1] == pytest.approx(along / directions.scale, abs=export.ROUGHLY)
        assert numbers[:, :-1].std(axis=0) == pytest.approx(1, abs=0.01)
        novelty = numbers[:, -1]
        assert ((novelty >= 0) & (novelty <= 1)).all()
        assert np.isfinite(numbers).all()


def test_the_features_of_a_linear_model_are_its_logits(photographs):
    model = network("lm")
    body, last = embedding.parts(model)
    assert body is model
    assert isinstance(last, keras.layers.Identity)


def test_the_head_of_a_backbone_counts_as_its_last_layer():
    model = network("transfer")
    body, last = embedding.parts(model)
    assert isinstance(last, keras.Model)
    assert body.output_shape == last.input_shape


def test_directions_are_the_principal_components():
    generator = np.random.default_rng(0)
    wide = generator.standard_normal((5000, 6)) * [5, 3, 1, 0.5, 0.4, 0.3]
    turned, _ = np.linalg.qr(generator.standard_normal((6, 6)))
    directions = Directions.of((wide @ turned.T + 7).astype(np.float32))
    assert directions.axes.shape == (6, 3)
    assert directions.scale == pytest.approx([5, 3, 1], rel=0.05)
    assert np.abs(directions.axes.T @ turned[:, :3]) == pytest.approx(np.eye(3), abs=0.05)
    assert directions.mean == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize(
    ("shape", "count"), [((200, 150), 64), ((200, 20), 10), ((9, 150), 4), ((1, 3), 1)]
)
def test_at_most_half_of_the_features_and_of_the_images_are_directions(shape, count):
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert Directions.of(features).axes.shape == (shape[1], count)


@pytest.mark.parametrize("alive", [0, 1, 8])
def test_features_that_do_not_vary_are_no_directions_but_novel_where_they_do(
    alive, photographs, tmp_path
):
    inputs = keras.Input((SIDE, SIDE, 3))
    means = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(inputs))
    dense = keras.layers.Dense(32, "relu")
    keras.utils.set_random_seed(0)
    model = keras.Model(inputs, keras.layers.Dense(3)(dense(keras.layers.Flatten()(means))))
    weights, biases = dense.get_weights()
    weights[:, alive:], biases[alive:] = 0, -1e-3  # dead, but for an image as none before
    weights[0, alive:], biases[:alive] = 100, 1
    dense.set_weights([weights * [1] * 32, biases])
    dark = photographs // 2
    dark[:, :8, :8, 0] = 0
    folder = export.export(model, ("a", "b", "c"), dark, tmp_path).folder
    classifier = Classifier(folder)
    _, usual = classifier.answer(dark)
    assert 1 <= usual.shape[1] - 1 <= max(1, alive)
    assert np.abs(usual).max() < 50
    unlike = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
    _, novel = classifier.answer(unlike)
    assert np.isfinite(novel.astype(np.float16)).all()
    assert novel[0, -1] > 0.9 > usual[:, -1].max()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Classifier, np.ndarray]:
    """A small network that tells handwritten digits apart, and those that it was not fitted on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, axis=-1)
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES["nn"].build(
        ARCHITECTURES["nn"].start | {"pool": 1, "units": 64}, (8, 8, 3), 10
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(6):
        for start in range(0, 1000, 50):
            rows = slice(start, start + 50)
            model.train_on_batch(pixels[rows].astype(np.float32), bunch.target[rows])
    where = tmp_path_factory.mktemp("digits")
    names = tuple(map(str, range(10)))
    seen = embedding.features(embedding.parts(model)[0], pixels[1000:1400])
    folder = export.export(model, names, pixels[1000:1100], where, seen).folder
    return Classifier(folder), pixels[1400:]


def test_images_unlike_all_others_are_more_novel(trained):
    classifier, digits = trained
    generator = np.random.default_rng(0)
    photographs = np.concatenate(
        [
            image[: 8 * 40, : 8 * 60].reshape(40, 8, 60, 8, 3)
            for image in load_sample_images().images
        ]
    )
    patches = np.moveaxis(photographs, 2, 1).reshape(-1, 8, 8, 3)
    foreign = {
        "noise": generator.integers(0, 256, (200, 8, 8, 3)).astype(np.uint8),
        "photographs": patches[generator.choice(len(patches), 200, replace=False)],
        "negatives": 255 - digits[:200],
    }
    usual = classifier.answer(digits)[1][:, -1]
    for name, images in foreign.items():
        novelty = classifier.answer(images)[1][:, -1]
        above = (novelty[:, None] > usual[None]).mean()  # area under the ROC curve
        assert above > 0.8, (name, above)
