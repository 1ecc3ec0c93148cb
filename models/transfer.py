"""`transfer`: a frozen pretrained backbone of `keras.applications` with a searched head.

Its search trains heads on features that were computed once; `build` makes the whole network. To
add a backbone, add a line to `BACKBONES`.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import keras

from models import optimiser
from models.params import Params, Shape

if TYPE_CHECKING:
    import optuna

START: Params = optimiser.START | {
    "learning_rate": 1e-3,
    "units": 0,
    "dropout": 0.6,
    "l2": 1e-2,
    "fine_tune_blocks": 0,
}
MIN_SIDE = 32
FETCH_TIMEOUT = 30  # seconds without an answer


class WeightsUnreachableError(Exception):
    """Pretrained weights that had to be fetched, and could not be."""


@dataclass(frozen=True)
class Backbone:
    """One of `keras.applications`, and what tells its weights files apart."""

    application: str
    rescale: bool  # wants pixels in -1..1 rather than 0..255
    alphas: tuple[float, ...]  # width multipliers; () where it has none
    probe: str  # a layer whose number of filters tells alpha
    filters: tuple[int, ...]  # of that layer, for each alpha


BACKBONES = {
    "mobilenet": Backbone(
        "MobileNet", True, (0.25, 0.5, 0.75, 1.0), "conv_pw_13", (256, 512, 768, 1024)
    ),
    "mobilenet_v2": Backbone(
        "MobileNetV2",
        True,
        (0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        "block_16_project",
        (112, 160, 240, 320, 416, 448),
    ),
    "efficientnet_v2_b0": Backbone("EfficientNetV2B0", False, (), "top_conv", (1280,)),
}


def space(trial: "optuna.trial.BaseTrial", fine_tune: int = 0) -> Params:
    """Units: width of a hidden layer, 0 for none; dropout: fraction of features; l2: penalty;
    fine_tune_blocks: top blocks of the backbone trained after the head, at most `fine_tune`.
    """
    return {
        "units": trial.suggest_categorical("units", [0, 64, 128, 256]),
        "dropout": trial.suggest_float("dropout", 0.3, 0.8, step=0.1),
        "l2": trial.suggest_float("l2", 1e-4, 3e-2, log=True),
        "fine_tune_blocks": trial.suggest_int("fine_tune_blocks", 0, fine_tune),
        **optimiser.space(trial),
    }


def build(params: Params, input_shape: Shape, num_classes: int) -> keras.Model:
    """Backbone, frozen and in inference mode, with its head.

    params: the keys that `space` returns, and of `backbone`, `alpha` (width multiplier) and
    `weights` (`imagenet`, a file, or `none`) those that differ from mobilenet_v2, 1.0 and none.
    input_shape: (height, width, 3), pixels 0..255, at least 32 a side.
    Returns an uncompiled model: (batch, height, width, 3) -> (batch, num_classes) logits.
    Raises ValueError where the input is too small or the weights file does not fit, and
    WeightsUnreachableError where they cannot be fetched.
    """
    features = backbone(
        str(params.get("backbone", "mobilenet_v2")),
        float(params.get("alpha", 1.0)),
        str(params.get("weights", "none")),
        input_shape,
    )
    return join(features, head(params, features.output_shape[-1], num_classes))


def join(features: keras.Model, classifier: keras.Model) -> keras.Model:
    """One network of a backbone and the head that was trained on its features."""
    inputs = keras.Input(features.input_shape[1:], name="pixels")
    return keras.Model(inputs, classifier(features(inputs, training=False)))


def head(params: Params, features: int, num_classes: int) -> keras.Model:
    """Head on features (batch, features) -> (batch, num_classes) logits; params as `space`."""
    penalty = keras.regularizers.L2(float(params["l2"]))
    inputs = keras.Input((features,), name="features")
    x = keras.layers.BatchNormalization(name="head_norm")(inputs)
    if units := int(params["units"]):
        x = keras.layers.Dense(units, "relu", kernel_regularizer=penalty, name="head_hidden")(x)
    x = keras.layers.Dropout(float(params["dropout"]), name="head_dropout")(x)
    logits = keras.layers.Dense(num_classes, kernel_regularizer=penalty, name="logits")(x)
    return keras.Model(inputs, logits, name="head")


def backbone(name: str, alpha: float, weights: str, input_shape: Shape) -> keras.Model:
    """Frozen features: (batch, height, width, 3) pixels 0..255 -> (batch, features), pooled.

    Arguments and errors as `build`.
    """
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}.")
    if min(input_shape[:2]) < MIN_SIDE:
        raise ValueError(f"Expected an input of at least {MIN_SIDE} pixels a side for a backbone.")
    entry = BACKBONES[name]
    network = _application(entry, alpha, None if weights == "none" else weights, input_shape)
    network.trainable = False
    inputs = keras.Input(input_shape, name="pixels")
    x = inputs
    if entry.rescale:
        x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    return keras.Model(inputs, network(x, training=False), name="backbone")


def identify(weights: Path) -> tuple[str, float]:
    """Name in `BACKBONES` and alpha (1.0 where it has none) of a weights file without the top.

    Raises ValueError where the file is no HDF5 file or fits none of them.
    """
    try:
        with h5py.File(weights, "r") as file:
            groups = {name: item for name, item in file.items() if isinstance(item, h5py.Group)}
            shapes = {layer: _filters(group) for layer, group in groups.items()}
    except OSError as error:
        raise ValueError(f"Expected an HDF5 file of Keras weights, got {weights}.") from error
    for name, entry in BACKBONES.items():
        if shapes.get(entry.probe) in entry.filters:
            place = entry.filters.index(shapes[entry.probe])
            return name, entry.alphas[place] if entry.alphas else 1.0
    raise ValueError(
        f"Expected weights without the top of one of {', '.join(BACKBONES)}, but {weights} "
        "fits none of them."
    )


def blocks(features: keras.Model) -> list[list[keras.layers.Layer]]:
    """The backbone's layers with weights, grouped by block, the top block last.

    Batch normalisation belongs to the block of the layer before it, whatever its name.
    """
    network = next(layer for layer in features.layers if isinstance(layer, keras.Model))
    grouped: dict[str, list[keras.layers.Layer]] = {}
    block = ""
    for layer in network.layers:
        if layer.weights:
            if not isinstance(layer, keras.layers.BatchNormalization):
                block = _block_name(layer.name)
            grouped.setdefault(block, []).append(layer)
    return list(grouped.values())


def unfreeze(features: keras.Model, count: int) -> None:
    """Makes the top `count` blocks alone trainable, batch normalisation left frozen."""
    grouped = blocks(features)
    features.trainable = True
    for place, block in enumerate(grouped, start=1):
        for layer in block:
            normalises = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = place > len(grouped) - count and not normalises


def _block_name(layer: str) -> str:
    """`block_3_expand` -> block_3, `conv_dw_5_bn` -> conv_5, `block2a_se` -> block2a."""
    if found := re.match(
        r"(block_?\d+[a-z]?|expanded_conv|[Cc]onv)(?:_(?:dw|pw))?(_\d+)?(?=_|$)", layer
    ):
        return found.group(1) + (found.group(2) or "")
    return layer


def _filters(group: h5py.Group) -> int:
    """Filters of the kernel in a layer's group, 0 where it has none."""
    sizes: list[int] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.split("/")[-1].startswith("kernel"):
            sizes.append(int(item.shape[-1]))

    group.visititems(look)
    return sizes[0] if sizes else 0


def _application(
    entry: Backbone, alpha: float, weights: str | None, input_shape: Shape
) -> keras.Model:
    options: dict[str, Any] = {"alpha": alpha} if entry.alphas else {}
    if not entry.rescale:
        options["include_preprocessing"] = True
    make = getattr(keras.applications, entry.application)
    try:
        with _impatient():
            return make(
                include_top=False,
                weights=weights,
                input_shape=input_shape,
                pooling="avg",
                **options,
            )
    except (ValueError, OSError) as error:
        raise ValueError(
            f"Expected weights that fit {entry.application} (alpha {alpha}), but {weights} "
            f"does not: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        if "URL fetch failure" not in str(error):
            raise
        raise WeightsUnreachableError(
            f"The ImageNet weights of {entry.application} cannot be fetched; give a file instead "
            "(`-P weights=FILE`), or `none`."
        ) from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections opened inside give up after `FETCH_TIMEOUT`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
