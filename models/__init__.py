"""The architectures that a search compares, by their codes.

Each is a pair of plain functions, `space(trial) -> params` and `build(params, input_shape,
num_classes) -> keras.Model`, and the params that its study tries first. To add one, write the pair
and add a line to `ARCHITECTURES`; the contract tests then cover it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models import convolutional, dense, transfer
from models.params import Params, Shape

if TYPE_CHECKING:
    import keras
    import optuna


@dataclass(frozen=True)
class Architecture:
    """One family of networks and its search space."""

    title: str
    space: Callable[["optuna.trial.BaseTrial"], Params]
    build: Callable[[Params, Shape, int], "keras.Model"]
    start: Params


ARCHITECTURES = {
    "lm": Architecture("linear", dense.space_lm, dense.build, dense.START_LM),
    "nn": Architecture("one hidden layer", dense.space_nn, dense.build, dense.START_NN),
    "dnn": Architecture("several hidden layers", dense.space_dnn, dense.build, dense.START_DNN),
    "dnnd": Architecture("several with dropout", dense.space_dnnd, dense.build, dense.START_DNND),
    "cnn": Architecture(
        "convolutional", convolutional.space_cnn, convolutional.build_cnn, convolutional.START_CNN
    ),
    "dcnn": Architecture(
        "deep convolutional",
        convolutional.space_dcnn,
        convolutional.build_dcnn,
        convolutional.START_DCNN,
    ),
    "transfer": Architecture(
        "frozen pretrained backbone", transfer.space, transfer.build, transfer.START
    ),
}

__all__ = ["ARCHITECTURES", "Architecture", "Params", "Shape"]
