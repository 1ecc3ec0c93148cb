"""Features come from LiteRT once; the backbone is told from its weights, its size from the data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest

from pipelines import data, features, pixels
from pipelines.config import TrainingSettings
from pipelines.data import Dataset
from pipelines.features import Backbone
from serving.settings import UserError

SIZE = (32, 32)


def images_of(side: int) -> Dataset:
    """Nothing but the widths and heights of images."""
    sizes = pd.DataFrame({"width": [side, side, 5000], "height": [2 * side, side, 5000]})
    return Dataset("sizes", Path(), ("a", "b"), sizes, pd.DataFrame())


def alive(where: Path, seed: int) -> Backbone:
    """Of weights that keep the signal's size through the layers (He et al. 2015), in a file."""
    generator = np.random.default_rng(seed)
    network = keras.applications.MobileNet((*SIZE, 3), 0.25, include_top=False, weights=None)
    weights = network.get_weights()
    for kernel in (w for w in weights if w.ndim == 4):
        height, width, inputs, outputs = kernel.shape
        fan_in = 2 if outputs == 1 else height * width * inputs  # depthwise, mostly on padding
        kernel[:] = generator.normal(0, np.sqrt(2 / fan_in), kernel.shape)
    network.set_weights(weights)
    path = where / f"{seed}.weights.h5"
    network.save_weights(path)
    return Backbone("mobilenet", 0.25, str(path), SIZE)


@pytest.fixture
def dataset(painted: Callable[..., Path]) -> Dataset:
    painted("animals/cat", 10, seed=1)
    return data.prepare(str(painted("animals/dog", 10, seed=2).parent), seed=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return alive(tmp_path_factory.mktemp("weights"), seed=0)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file whose one layer is that of MobileNet with alpha 0.25."""
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["conv_pw_13/conv_pw_13/kernel:0"] = np.zeros((1, 1, 128, 256))
    return path


def test_features_are_those_of_keras(dataset: Dataset, backbone: Backbone) -> None:
    decoded = pixels.load(dataset, SIZE)
    found = backbone.extract(dataset, decoded)
    expected = backbone.network(decoded.astype(np.float32)).numpy()
    assert found.shape == (20, 256)
    assert found.dtype == np.float32
    assert expected.std(axis=0).max() > 0.01
    assert np.abs(found - expected).max() < 1e-3


def test_features_are_computed_once_and_mapped_read_only(
    dataset: Dataset, backbone: Backbone
) -> None:
    decoded = pixels.load(dataset, SIZE)
    first = backbone.extract(dataset, decoded)
    second = backbone.extract(dataset, np.zeros_like(decoded))  # black images are not looked at
    assert np.array_equal(first, second)
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable


def test_features_that_are_cached_need_no_network(dataset: Dataset, backbone: Backbone) -> None:
    decoded = pixels.load(dataset, SIZE)
    backbone.extract(dataset, decoded)
    again = Backbone(backbone.name, backbone.alpha, backbone.weights, backbone.size)
    again.extract(dataset, decoded)
    assert "network" not in again.__dict__


def test_random_weights_are_the_same_in_every_process() -> None:
    first, second = (Backbone("mobilenet", 0.25, "none", SIZE) for _ in range(2))
    pairs = zip(first.network.get_weights(), second.network.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_features_of_other_weights_are_others(
    dataset: Dataset, backbone: Backbone, tmp_path: Path
) -> None:
    decoded = pixels.load(dataset, SIZE)
    other = alive(tmp_path, seed=1)
    assert not np.allclose(other.extract(dataset, decoded), backbone.extract(dataset, decoded))


@pytest.mark.parametrize(
    ("side", "size"), [(8, 96), (76, 96), (77, 128), (100, 128), (150, 192), (160, 224), (900, 224)]
)
def test_the_size_is_the_images_own_enlarged_by_a_quarter_and_rounded_up(
    side: int, size: int
) -> None:
    chosen = features.choose(TrainingSettings(weights="none"), images_of(side))
    assert chosen == Backbone("mobilenet_v2", 1.0, "none", (size, size))


def test_what_the_settings_name_is_taken() -> None:
    settings = TrainingSettings(weights="none", backbone="mobilenet", alpha=0.5, image_size=48)
    chosen = features.choose(settings, images_of(150))
    assert chosen == Backbone("mobilenet", 0.5, "none", (48, 48))
    assert chosen.params == {"backbone": "mobilenet", "alpha": 0.5, "weights": "none"}


@pytest.mark.parametrize("named", [{}, {"backbone": "mobilenet"}, {"alpha": 0.25}])
def test_a_weights_file_tells_the_backbone(weights: Path, named: dict[str, Any]) -> None:
    chosen = features.choose(TrainingSettings(weights=str(weights), **named), images_of(150))
    assert chosen == Backbone("mobilenet", 0.25, str(weights), (192, 192))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"backbone": "mobilenet_v2"}, r"Expected weights of mobilenet_v2 \(alpha any\), but .*"),
        ({"alpha": 0.5}, r"Expected weights of auto \(alpha 0.5\), but .* with alpha 0.25"),
        ({"image_size": 16}, "Expected an image_size of at least 32 for transfer, got 16"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused_in_one_sentence(
    named: dict[str, Any], words: str, weights: Path
) -> None:
    with pytest.raises(UserError, match=rf"^{words}.*\.$"):
        features.choose(TrainingSettings(weights=str(weights), **named), images_of(150))


def test_an_unknown_backbone_is_refused_with_the_choices() -> None:
    settings = TrainingSettings(weights="none", backbone="vgg")
    with pytest.raises(UserError, match=r"^Unknown backbone 'vgg'; choose auto or one of mobile"):
        features.choose(settings, images_of(150))


def test_a_file_that_holds_no_weights_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_text("no weights")
    with pytest.raises(UserError, match=r"^Expected an HDF5 file of Keras weights, got .*\.$"):
        features.choose(TrainingSettings(weights=str(path)), images_of(150))


def test_weights_that_hold_a_part_of_the_backbone_alone_are_refused(weights: Path) -> None:
    chosen = features.choose(TrainingSettings(weights=str(weights)), images_of(32))
    with pytest.raises(
        UserError, match=r"^Expected weights that fit MobileNet \(alpha 0.25\), but"
    ):
        _ = chosen.network
