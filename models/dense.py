"""Networks on flattened pixels.

`lm` linear, `nn` one hidden layer, `dnn` several, `dnnd` several with dropout.
"""

from typing import TYPE_CHECKING

import keras

from models import augment, optimiser
from models.params import Params, Shape

if TYPE_CHECKING:
    import optuna

_OPTIMISER = optimiser.START | {"learning_rate": 1e-3}
START_LM: Params = _OPTIMISER | {"pool": 2, "l1": 1e-6, "l2": 1e-4}
START_NN: Params = START_LM | {"units": 256}
START_DNN: Params = START_LM | {"layers": 2, "units": 256, "taper": 0.5}
START_DNND: Params = START_DNN | augment.START | {"dropout": 0.2}


def space_lm(trial: "optuna.trial.BaseTrial") -> Params:
    """Pool: side of the average pooling before the first weights (pixels); l1, l2: penalties."""
    return {
        "pool": trial.suggest_categorical("pool", [1, 2, 4]),
        "l1": trial.suggest_float("l1", 1e-7, 1e-4, log=True),
        "l2": trial.suggest_float("l2", 1e-6, 1e-2, log=True),
        **optimiser.space(trial),
    }


def space_nn(trial: "optuna.trial.BaseTrial") -> Params:
    """As `lm`, with units: width of the hidden layer."""
    return space_lm(trial) | {"units": trial.suggest_int("units", 32, 512, log=True)}


def space_dnn(trial: "optuna.trial.BaseTrial") -> Params:
    """As `nn`, with layers: hidden layers; taper: width of each as a fraction of the one before."""
    return space_nn(trial) | {
        "layers": trial.suggest_int("layers", 2, 4),
        "taper": trial.suggest_float("taper", 0.5, 1.0, step=0.25),
    }


def space_dnnd(trial: "optuna.trial.BaseTrial") -> Params:
    """As `dnn`, with dropout: fraction of units; and augmentation."""
    return (
        space_dnn(trial)
        | {"dropout": trial.suggest_float("dropout", 0.05, 0.5, step=0.05)}
        | augment.space(trial)
    )


def build(params: Params, input_shape: Shape, num_classes: int) -> keras.Model:
    """Dense network on pooled, flattened pixels; linear where `units` is absent.

    params: the keys that one of the spaces above returns.
    input_shape: (height, width, channels), pixels 0..255.
    Returns an uncompiled model: (batch, height, width, channels) -> (batch, num_classes) logits.
    Raises ValueError where the input is smaller than the pooling.
    """
    pool = int(params["pool"])
    if min(input_shape[:2]) < pool:
        raise ValueError(f"Expected an input of at least {pool} pixels a side, got {input_shape}.")
    inputs = keras.Input(input_shape, name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    x = keras.layers.AveragePooling2D(pool, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for i, units in enumerate(_widths(params)):
        x = _dense(params, units, f"hidden_{i + 1}", "relu")(x)
        if "dropout" in params:
            x = keras.layers.Dropout(float(params["dropout"]), name=f"dropout_{i + 1}")(x)
    return keras.Model(inputs, _dense(params, num_classes, "logits")(x))


def _widths(params: Params) -> list[int]:
    if "units" not in params:
        return []
    taper = float(params.get("taper", 1.0))
    return [round(int(params["units"]) * taper**i) for i in range(int(params.get("layers", 1)))]


def _dense(
    params: Params, units: int, name: str, activation: str | None = None
) -> keras.layers.Dense:
    penalty = keras.regularizers.L1L2(float(params["l1"]), float(params["l2"]))
    return keras.layers.Dense(units, activation, kernel_regularizer=penalty, name=name)
