"""Weights files are told apart, backbones stay frozen but for the blocks that are asked for."""

from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from models import transfer

SHAPE = (32, 32, 3)
WIDTHS = {"mobilenet": 0.5, "mobilenet_v2": 0.35, "efficientnet_v2_b0": 1.0}
BLOCKS = {"mobilenet": 14, "mobilenet_v2": 19, "efficientnet_v2_b0": 23}  # the stem is one
BatchNormalization = keras.layers.BatchNormalization


def network(features: keras.Model) -> keras.Model:
    """The Keras application inside a backbone."""
    return next(layer for layer in features.layers if isinstance(layer, keras.Model))


def write(features: keras.Model, path: Path) -> Path:
    """The backbone's weights in the layout of the files that Keras publishes."""
    application = network(features)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name for layer in application.layers]
        for layer in application.layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [weight.path for weight in layer.weights]
            for weight in layer.weights:
                group[weight.path] = weight.numpy()
    return path


def text(path: Path) -> None:
    path.write_text("no weights")


def list_of_numbers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2, 3]


def another_network(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["conv_pw_13/kernel"] = np.zeros((1, 1, 8, 77))


@pytest.fixture(scope="module", params=WIDTHS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def features(name: str) -> keras.Model:
    return transfer.backbone(name, WIDTHS[name], "none", SHAPE)


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return transfer.backbone("mobilenet", 0.25, "none", SHAPE)


@pytest.fixture
def weights(mobilenet: keras.Model, tmp_path: Path) -> Path:
    return write(mobilenet, tmp_path / "mobilenet.h5")


def test_a_weights_file_tells_its_network_and_width(
    features: keras.Model, name: str, tmp_path: Path
) -> None:
    assert transfer.identify(write(features, tmp_path / "weights.h5")) == (name, WIDTHS[name])


def test_a_backbone_answers_with_the_weights_of_its_file(
    weights: Path, mobilenet: keras.Model
) -> None:
    loaded = transfer.backbone("mobilenet", 0.25, str(weights), SHAPE)
    for one, other in zip(mobilenet.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "^Expected an HDF5 file of Keras weights, got "),
        (list_of_numbers, "^Expected weights without the top of one of mobilenet, "),
        (another_network, "^Expected weights without the top of one of mobilenet, "),
    ],
)
def test_a_file_of_something_else_is_refused(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.h5"
    make(path)
    with pytest.raises(ValueError, match=words):
        transfer.identify(path)


@pytest.mark.parametrize("make", [text, list_of_numbers, another_network])
def test_a_backbone_refuses_weights_that_do_not_fit(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "weights.h5"
    make(path)
    with pytest.raises(ValueError, match=r"^Expected weights that fit MobileNet \(alpha 0.25\)"):
        transfer.backbone("mobilenet", 0.25, str(path), SHAPE)


def test_a_backbone_refuses_the_weights_of_another_width(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"^Expected weights that fit MobileNet \(alpha 0.5\)"):
        transfer.backbone("mobilenet", 0.5, str(weights), SHAPE)


def test_an_unknown_backbone_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'vgg'; choose one of mobilenet, mobilenet_v2, "):
        transfer.backbone("vgg", 1.0, "none", SHAPE)


def test_a_backbone_is_frozen_and_in_inference_mode(mobilenet: keras.Model) -> None:
    before = mobilenet.get_weights()
    pixels = np.random.default_rng(0).uniform(0, 255, (4, *SHAPE)).astype(np.float32)
    assert np.array_equal(mobilenet(pixels, training=True), mobilenet(pixels, training=False))
    assert not mobilenet.trainable_variables
    for one, other in zip(before, mobilenet.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_the_head_alone_is_trained(mobilenet: keras.Model) -> None:
    head = transfer.head(transfer.START | {"units": 8}, mobilenet.output_shape[-1], 7)
    whole = transfer.join(mobilenet, head)
    assert whole.output_shape == (None, 7)
    assert len(whole.trainable_variables) == len(head.trainable_variables) == 6


@pytest.mark.parametrize(("count", "blocks"), [(0, set()), (1, {"13"}), (3, {"11", "12", "13"})])
def test_unfreezing_trains_the_top_blocks_and_no_batch_normalisation(
    count: int, blocks: set[str]
) -> None:
    features = transfer.backbone("mobilenet", 0.25, "none", SHAPE)
    transfer.unfreeze(features, count)
    trainable = [layer for layer in network(features).layers if layer.trainable_variables]
    assert not [layer for layer in trainable if isinstance(layer, BatchNormalization)]
    assert {layer.name.split("_")[-1] for layer in trainable} == blocks


def test_blocks_hold_every_layer_with_weights_once(features: keras.Model, name: str) -> None:
    grouped = transfer.blocks(features)
    names = [layer.name for block in grouped for layer in block]
    assert names == [layer.name for layer in network(features).layers if layer.weights]
    convolutions = [block for block in grouped if not block[0].name.startswith("normalization")]
    assert len(convolutions) == BLOCKS[name]


def test_the_top_block_of_every_backbone_has_weights_to_train(features: keras.Model) -> None:
    top = transfer.blocks(features)[-1]
    assert [layer for layer in top if not isinstance(layer, BatchNormalization)]
