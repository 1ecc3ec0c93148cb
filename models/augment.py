"""Augmentation, as a layer of the training graph that the exported model never holds.

Flip, shift, zoom and rotation are one affine map an image, so pixels are interpolated once.
"""

import math
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from models.params import Params

if TYPE_CHECKING:
    import optuna

NONE: Params = {"flip": False, "shift": 0.0, "zoom": 0.0, "rotation": 0.0, "brightness": 0.0}
START: Params = NONE | {"flip": True, "shift": 0.125}


def space(trial: "optuna.trial.BaseTrial") -> Params:
    """Flip: horizontally or not; shift, zoom: fractions of the side; rotation: of a turn;
    brightness: of the range of a pixel. Each image draws its own within plus and minus these.
    """
    return {
        "flip": trial.suggest_categorical("flip", [True, False]),
        "shift": trial.suggest_float("shift", 0.0, 0.15, step=0.025),
        "zoom": trial.suggest_float("zoom", 0.0, 0.2, step=0.05),
        "rotation": trial.suggest_float("rotation", 0.0, 0.05, step=0.0125),
        "brightness": trial.suggest_float("brightness", 0.0, 0.2, step=0.05),
    }


def build(params: Params, seed: int) -> "Augment | None":
    """The layer for `params`, or None where they ask for no augmentation."""
    asked = NONE | {name: params[name] for name in NONE if name in params}
    if not any(asked.values()):
        return None
    flip = bool(asked.pop("flip"))
    return Augment(flip=flip, seed=seed, **{name: float(part) for name, part in asked.items()})


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Random flip, shift, zoom, rotation and brightness of images (batch, height, width, 3).

    Pixels are 0..255 and stay there; the border is filled by reflection. Without `training` the
    images pass unchanged.
    """

    def __init__(
        self,
        *,
        flip: bool,
        shift: float,
        zoom: float,
        rotation: float,
        brightness: float,
        seed: int,
    ) -> None:
        super().__init__(name="augment")
        self.flip, self.shift, self.zoom = flip, shift, zoom
        self.rotation, self.brightness = rotation, brightness
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Augmented images while training, else the images."""
        if not training:
            return images
        images = ops.cast(images, "float32")
        if self.flip or self.shift or self.zoom or self.rotation:
            images = ops.image.affine_transform(
                images, self._maps(images), interpolation="bilinear", fill_mode="reflect"
            )
        if self.brightness:
            change = 255 * self._draw(images, self.brightness)
            images = ops.clip(images + ops.reshape(change, (-1, 1, 1, 1)), 0, 255)
        return images

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def _maps(self, images: Any) -> Any:
        """(batch, 8): the coefficients that take an output pixel to its source."""
        height, width = images.shape[1], images.shape[2]
        angle = 2 * math.pi * self._draw(images, self.rotation)
        scale = 1 + self._draw(images, self.zoom)
        mirror = ops.sign(self._draw(images, 1.0)) if self.flip else ops.ones_like(angle)
        dx = self._draw(images, self.shift) * width + (width - 1) / 2
        dy = self._draw(images, self.shift) * height + (height - 1) / 2
        a, b = mirror * ops.cos(angle) * scale, -ops.sin(angle) * scale
        c, d = mirror * ops.sin(angle) * scale, ops.cos(angle) * scale
        cx, cy = (width - 1) / 2, (height - 1) / 2
        zero = ops.zeros_like(angle)
        rows = [a, b, dx - a * cx - b * cy, c, d, dy - c * cx - d * cy, zero, zero]
        return ops.stack(rows, axis=1)

    def _draw(self, images: Any, bound: float) -> Any:
        return keras.random.uniform((ops.shape(images)[0],), -bound, bound, seed=self.seeds)
