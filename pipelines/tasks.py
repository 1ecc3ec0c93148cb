"""What one architecture is trained on: its space, its inputs, its network.

`transfer` trains heads on cached features and joins them to the backbone; the others train whole
networks on pixels. Everything else treats them alike, through `Task`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from models import ARCHITECTURES, Params, Shape, transfer
from pipelines import features, pixels, training
from pipelines.config import TrainingSettings
from pipelines.data import Dataset
from pipelines.features import Backbone
from pipelines.training import Deadline, Fit, OnEpoch, Part, do_nothing, never

if TYPE_CHECKING:
    import optuna

FINE_TUNE_RATE = 0.05  # of the head's learning rate: pretrained weights move little
FINE_TUNE_EPOCHS = 0.5  # of the head's


@dataclass(frozen=True)
class Task:
    """One architecture on one data set.

    space, build: as in `models`, `build` with the input shape and the classes filled in.
    inputs: what `build`'s network takes, a row an image; pixels: uint8, what the served one takes.
    """

    code: str
    dataset: Dataset
    space: Callable[["optuna.trial.BaseTrial"], Params]
    build: Callable[[Params], keras.Model]
    start: Params
    inputs: NDArray[np.generic]
    pixels: NDArray[np.uint8]
    fixed: Params = field(default_factory=dict)
    backbone: Backbone | None = None  # of `transfer` alone

    def train(
        self,
        params: Params,
        *,
        epochs: int,
        seed: int,
        on_epoch: OnEpoch = do_nothing,
        deadline: Deadline = never,
    ) -> tuple[keras.Model, Fit]:
        """A trained network, at its best epoch, and its history; arguments as `training.fit`."""
        keras.utils.set_random_seed(seed)
        model = self.build(params)
        parts = self._part(model, "train"), self._part(model, "val")
        result = training.fit(
            model, params, *parts, epochs=epochs, seed=seed, on_epoch=on_epoch, deadline=deadline
        )
        if not params.get("fine_tune_blocks") or result.stopped == "timeout":
            return model, result
        return self._fine_tune(
            model,
            params,
            result,
            epochs=max(1, round(FINE_TUNE_EPOCHS * epochs)),
            seed=seed,
            on_epoch=lambda epoch, metrics: on_epoch(len(result.rows) + epoch, metrics),
            deadline=deadline,
        )

    def probabilities(self, model: keras.Model, split: str) -> NDArray[np.float32]:
        """Class probabilities (n, classes) of a split's images, in the order of its rows."""
        return training.probabilities(model, self._part(model, split))

    def accuracy(self, model: keras.Model, split: str) -> float:
        """Share of a split's images that get their label."""
        return training.accuracy(self.probabilities(model, split), self.dataset.labels(split))

    def whole(self, model: keras.Model) -> keras.Model:
        """The network on pixels that `model` is, or is the head of."""
        if self.backbone is None or len(model.input_shape) == len(self.pixels.shape):
            return model
        return transfer.join(self.backbone.network, model)

    def _part(self, model: keras.Model, split: str) -> Part:
        whole = len(model.input_shape) == len(self.pixels.shape)
        inputs = self.pixels if whole else self.inputs
        return Part(inputs, self.dataset.rows(split), self.dataset.labels(split))

    def _fine_tune(
        self, head: keras.Model, params: Params, before: Fit, **options: Any
    ) -> tuple[keras.Model, Fit]:
        """Trains the backbone's top blocks with the head on it; keeps whichever validates better.

        Batch normalisation stays frozen, in inference mode (Keras guide to transfer learning).
        """
        weights = head.get_weights()
        if self.backbone is None:
            raise ValueError(f"Expected a head on a backbone to fine-tune, got {self.code}.")
        frozen = self.backbone.network
        backbone = keras.models.clone_model(frozen)
        backbone.set_weights(frozen.get_weights())
        transfer.unfreeze(backbone, int(params["fine_tune_blocks"]))
        whole = transfer.join(backbone, head)
        slow = {
            name: float(value) * FINE_TUNE_RATE if name.endswith("learning_rate") else value
            for name, value in params.items()
        }
        parts = self._part(whole, "train"), self._part(whole, "val")
        after = training.fit(whole, slow, *parts, **options)
        if after.best("val_loss") < before.best("val_loss"):
            return whole, before.followed_by(after)
        head.set_weights(weights)
        return head, before


def make(
    code: str, dataset: Dataset, settings: TrainingSettings, backbone: Backbone | None = None
) -> Task:
    """The task of one architecture; decodes pixels and computes features unless they are cached.

    Raises UserError where the backbone's weights do not fit, and `WeightsUnreachableError`.
    """
    if code == "transfer":
        return _transfer(dataset, settings, backbone or features.choose(settings, dataset))
    architecture = ARCHITECTURES[code]
    side = settings.image_size or pixels.choose_size(dataset)
    shape: Shape = (side, side, 3)
    decoded = pixels.load(dataset, (side, side))
    return Task(
        code,
        dataset,
        architecture.space,
        lambda params: architecture.build(params, shape, len(dataset.classes)),
        architecture.start,
        decoded,
        decoded,
    )


def _transfer(dataset: Dataset, settings: TrainingSettings, backbone: Backbone) -> Task:
    decoded = pixels.load(dataset, backbone.size)
    extracted = backbone.extract(dataset, decoded)
    width = extracted.shape[-1]
    return Task(
        "transfer",
        dataset,
        partial(transfer.space, fine_tune=settings.fine_tune),
        lambda params: transfer.head(params, width, len(dataset.classes)),
        transfer.START,
        extracted,
        decoded,
        backbone.params,
        backbone,
    )
