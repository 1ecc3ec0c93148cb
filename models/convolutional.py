"""Networks of convolutions: `cnn` plain, `dcnn` deeper with batch normalisation."""

from typing import TYPE_CHECKING, Any

import keras

from models import augment, optimiser
from models.params import Params, Shape

if TYPE_CHECKING:
    import optuna

START_CNN: Params = (
    optimiser.START
    | augment.START
    | {"blocks": 3, "filters": 24, "kernel": 3, "units": 128, "dropout": 0.2, "l1": 1e-7}
    | {"l2": 1e-5, "learning_rate": 1e-3, "batch_size": 32}
)
START_DCNN: Params = (
    optimiser.START
    | augment.START
    | {"blocks": 4, "filters": 32, "kernel": 3, "convolutions": 1, "dropout": 0.3}
    | {"l1": 1e-7, "l2": 1e-6}
)
GROWTH = (1, 2, 4, 6)  # filters of each block, in multiples of the first


def space_cnn(trial: "optuna.trial.BaseTrial") -> Params:
    """Blocks of one convolution and pooling; filters of the first; kernel: side (pixels);
    units of the dense layer; dropout: fraction before the logits; l1, l2: penalties.
    """
    return {
        "blocks": trial.suggest_int("blocks", 2, 4),
        "filters": trial.suggest_categorical("filters", [16, 24, 32]),
        "kernel": trial.suggest_categorical("kernel", [3, 5]),
        "units": trial.suggest_int("units", 32, 256, log=True),
        **_regularisation(trial),
        **augment.space(trial),
        **optimiser.space(trial),
    }


def space_dcnn(trial: "optuna.trial.BaseTrial") -> Params:
    """As `cnn`, with convolutions: how many a block; and no dense layer."""
    return {
        "blocks": trial.suggest_int("blocks", 3, 4),
        "filters": trial.suggest_categorical("filters", [16, 24, 32, 40]),
        "kernel": trial.suggest_categorical("kernel", [3, 5]),
        "convolutions": trial.suggest_int("convolutions", 1, 2),
        **_regularisation(trial),
        **augment.space(trial),
        **optimiser.space(trial),
    }


def build_cnn(params: Params, input_shape: Shape, num_classes: int) -> keras.Model:
    """Convolution, ReLU and max pooling a block, then one dense layer.

    params: the keys that `space_cnn` returns, in the units given there.
    input_shape: (height, width, channels), pixels 0..255.
    Returns an uncompiled model: (batch, height, width, channels) -> (batch, num_classes) logits.
    Raises ValueError where the input is smaller than the total stride.
    """
    inputs, x = _start(params, input_shape)
    for i in range(int(params["blocks"])):
        x = _convolution(params, i, f"block_{i + 1}_conv", activation="relu")(x)
        x = keras.layers.MaxPooling2D(2, name=f"block_{i + 1}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(
        int(params["units"]), "relu", kernel_regularizer=_penalty(params), name="hidden"
    )(x)
    return _finish(params, inputs, x, num_classes)


def build_dcnn(params: Params, input_shape: Shape, num_classes: int) -> keras.Model:
    """Blocks of convolution, batch normalisation, ReLU and max pooling; global average pooling.

    One more convolution follows the blocks. Batch normalisation: Ioffe and Szegedy 2015,
    arXiv:1502.03167; global average pooling: Lin et al. 2014, arXiv:1312.4400.
    params, input_shape, result and errors as `build_cnn`, with the keys of `space_dcnn`.
    """
    inputs, x = _start(params, input_shape)
    blocks = int(params["blocks"])
    for i in range(blocks):
        for j in range(int(params["convolutions"])):
            x = _normalised(params, i, f"block_{i + 1}_{j + 1}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"block_{i + 1}_pool")(x)
    x = _normalised(params, blocks - 1, "last")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return _finish(params, inputs, x, num_classes)


def _regularisation(trial: "optuna.trial.BaseTrial") -> Params:
    return {
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        "l1": trial.suggest_float("l1", 1e-8, 1e-5, log=True),
        "l2": trial.suggest_float("l2", 1e-7, 1e-3, log=True),
    }


def _start(params: Params, input_shape: Shape) -> tuple[Any, Any]:
    stride = 2 ** int(params["blocks"])
    if min(input_shape[:2]) < stride:
        raise ValueError(
            f"Expected an input of at least {stride} pixels a side for {params['blocks']} blocks, "
            f"got {input_shape[0]}x{input_shape[1]}."
        )
    inputs = keras.Input(input_shape, name="pixels")
    return inputs, keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)


def _finish(params: Params, inputs: Any, x: Any, num_classes: int) -> keras.Model:
    x = keras.layers.Dropout(float(params["dropout"]), name="dropout")(x)
    logits = keras.layers.Dense(num_classes, kernel_regularizer=_penalty(params), name="logits")
    return keras.Model(inputs, logits(x))


def _normalised(params: Params, block: int, name: str) -> Any:
    layers = [
        _convolution(params, block, f"{name}_conv", use_bias=False),
        keras.layers.BatchNormalization(name=f"{name}_norm"),
        keras.layers.ReLU(name=f"{name}_relu"),
    ]

    def apply(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def _convolution(params: Params, block: int, name: str, **options: Any) -> keras.layers.Conv2D:
    """Filters grow with the block; the larger kernel is for the first, where it costs least."""
    return keras.layers.Conv2D(
        int(params["filters"]) * GROWTH[block],
        int(params["kernel"]) if block == 0 else 3,
        padding="same",
        kernel_regularizer=_penalty(params),
        name=name,
        **options,
    )


def _penalty(params: Params) -> keras.regularizers.L1L2:
    return keras.regularizers.L1L2(float(params["l1"]), float(params["l2"]))
