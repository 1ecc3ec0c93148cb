"""Optimiser, learning-rate schedule and batch size: the part of a space that every family shares.

Warm-up over a tenth of the steps, then cosine to zero (Loshchilov and Hutter 2017,
arXiv:1608.03983); AdamW decouples weight decay from the gradient (arXiv:1711.05101).
"""

from typing import TYPE_CHECKING

import keras

from models.params import Params

if TYPE_CHECKING:
    import optuna

START: Params = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "batch_size": 64,
}


NAMES = (*START, "sgd_learning_rate")


def space(trial: "optuna.trial.BaseTrial") -> Params:
    """Optimiser, its learning rate (per step) and decay, schedule, batch size (images)."""
    params: Params = {
        "optimizer": trial.suggest_categorical("optimizer", ["adamw", "adam", "sgd"]),
        "schedule": trial.suggest_categorical("schedule", ["cosine", "constant"]),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
    }
    if params["optimizer"] == "sgd":
        params["sgd_learning_rate"] = trial.suggest_float("sgd_learning_rate", 3e-3, 0.1, log=True)
    else:
        params["learning_rate"] = trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True)
    if params["optimizer"] == "adamw":
        params["weight_decay"] = trial.suggest_float("weight_decay", 1e-3, 0.1, log=True)
    return params


def build(params: Params, steps: int) -> keras.optimizers.Optimizer:
    """The optimiser of `params`, its schedule planned for `steps` updates in all.

    Raises ValueError for an optimiser or a schedule that `space` does not know.
    """
    if params["optimizer"] == "sgd":
        rate = _schedule(params, float(params["sgd_learning_rate"]), steps)
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    rate = _schedule(params, float(params["learning_rate"]), steps)
    if params["optimizer"] == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=float(params["weight_decay"]))
    if params["optimizer"] == "adam":
        return keras.optimizers.Adam(rate)
    raise ValueError(f"Unknown optimizer {params['optimizer']!r}; choose adamw, adam or sgd.")


def _schedule(
    params: Params, peak: float, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if params["schedule"] == "constant":
        return peak
    if params["schedule"] == "cosine":
        warm_up = max(1, steps // 10)
        return keras.optimizers.schedules.CosineDecay(
            peak / (warm_up + 1),  # not 0: the first step would be lost
            max(1, steps - warm_up),
            warmup_target=peak,
            warmup_steps=warm_up,
        )
    raise ValueError(f"Unknown schedule {params['schedule']!r}; choose cosine or constant.")
