"""Features of a frozen backbone: computed once by LiteRT, cached."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from models import transfer
from pipelines import cache
from pipelines.backend import start_up
from pipelines.config import TrainingSettings
from pipelines.data import Dataset
from pipelines.export import to_litert
from pipelines.progress import progress
from serving.predictor import DECODER, Network
from serving.settings import UserError, require

CHUNK = 256
ENLARGE = 1.25
SIZES = (96, 128, 160, 192, 224)  # those that the ImageNet weights were trained at


@dataclass(frozen=True)
class Backbone:
    """Which pretrained network, at which size."""

    name: str
    alpha: float
    weights: str
    size: tuple[int, int]

    @property
    def identity(self) -> str:
        """What decides the weights: the file's content, or the release of Keras that fetches."""
        if self.weights in ("imagenet", "none"):
            return f"{self.weights} of Keras {keras.__version__}"
        return hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()

    @cached_property
    def network(self) -> keras.Model:
        """(batch, height, width, 3) pixels -> (batch, features).

        Raises UserError where the weights do not fit, `WeightsUnreachableError` where they cannot
        be fetched.
        """
        if self.weights == "none":
            keras.utils.set_random_seed(0)  # the same in every process that shares the features
        try:
            return transfer.backbone(self.name, self.alpha, self.weights, (*self.size, 3))
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """What `models.transfer.build` needs beside a trial's own params."""
        return {"backbone": self.name, "alpha": self.alpha, "weights": self.weights}

    def extract(self, dataset: Dataset, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (images, features), float32, read-only, in the order of `dataset.images`.

        pixels: (images, height, width, 3), uint8, at `size`.
        """
        decided_by = DECODER, self.name, self.alpha, self.size, self.identity
        name = cache.key(*decided_by, *dataset.images["content"])
        path = cache.folder("features") / f"{self.name}-{self.size[0]}-{name}.npy"
        if path.exists():
            mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
            return mapped  # without the network, which takes longer to build than a head to train
        shape = (len(pixels), self.network.output_shape[-1])
        return cache.array(path, _compute(self.network, pixels), shape, np.float32)


def choose(settings: TrainingSettings, dataset: Dataset) -> Backbone:
    """The backbone that the settings ask for, told from the weights file where they leave it open.

    Raises UserError where the file is of none, or of another than asked for.
    """
    settings.require_weights()
    name, alpha = settings.backbone, settings.alpha
    if settings.weights not in ("imagenet", "none"):
        try:
            found, width = transfer.identify(Path(settings.weights))
        except ValueError as error:
            raise UserError(str(error)) from error
        require(
            name in ("auto", found) and alpha in (0, width),
            f"Expected weights of {name} (alpha {alpha or 'any'}), but {settings.weights} holds "
            f"{found} with alpha {width}.",
        )
        name, alpha = found, width
    name = "mobilenet_v2" if name == "auto" else name
    choices = ", ".join(transfer.BACKBONES)
    require(
        name in transfer.BACKBONES, f"Unknown backbone {name!r}; choose auto or one of {choices}."
    )
    side = settings.image_size or _choose_size(dataset)
    require(
        side >= transfer.MIN_SIDE,
        f"Expected an image_size of at least {transfer.MIN_SIDE} for transfer, got {side}.",
    )
    return Backbone(name, alpha or 1.0, settings.weights, (side, side))


def _choose_size(dataset: Dataset) -> int:
    """The median short side, enlarged and rounded up to one of `SIZES`.

    Enlarging pays: heads on scenes of 150 pixels reached a validation accuracy of 0.888 at 160,
    0.904 at 192 and 0.902 at 224 (MobileNetV2 0.35).
    """
    side = ENLARGE * dataset.images[["width", "height"]].min(axis=1).median()
    return next((size for size in SIZES if size >= side), SIZES[-1])


def _compute(network: keras.Model, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    with progress("computing features", len(pixels)) as done:
        content = to_litert(network)
        with start_up():  # LiteRT tells of its delegate
            extractor = Network(content)
            extractor(pixels[:1])
        for start in range(0, len(pixels), CHUNK):
            yield extractor(pixels[start : start + CHUNK])
            done(min(CHUNK, len(pixels) - start))
