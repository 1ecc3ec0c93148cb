"""Why an answer: how much less sure the model is where a part of the image is hidden.

Occlusion (Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, doi
10.1007/978-3-319-10590-1_53): it needs no gradients, which LiteRT has not.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from serving.predictor import Pixels

PATCH, STEPS = 4, 10  # a patch is a fourth of a side; at most so many positions along it
COLOUR = (255, 214, 10)
STRONGEST = 200  # alpha, 0..255
LEAST = 0.01  # a smaller loss of confidence is none
LONGEST = 256  # pixels of the overlay's longer side

Patch = tuple[slice, slice]


def patches(height: int, width: int) -> list[Patch]:
    """Overlapping rectangles that together cover an image."""
    return [(rows, columns) for rows in _spans(height) for columns in _spans(width)]


def hidden(pixels: Pixels, places: Sequence[Patch]) -> Iterator[Pixels]:
    """The image once for each patch, which is filled with the image's mean colour."""
    mean = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for place in places:
        copy = pixels.copy()
        copy[place] = mean
        yield copy


def importance(
    confidence: float, without: Sequence[float], places: Sequence[Patch], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Mean loss of confidence (0..1) over the patches that cover a pixel: (height, width).

    confidence: of the label, in the whole image; without: where each patch is hidden.
    """
    loss, covered = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for place, left in zip(places, without, strict=True):
        loss[place] += max(0.0, confidence - left)
        covered[place] += 1
    return np.asarray(loss / np.maximum(covered, 1), np.float32)


def overlay(loss: NDArray[np.float32]) -> bytes:
    """A PNG to lay over the image: one colour, the more opaque the larger the loss."""
    strength = loss / max(float(loss.max()), LEAST) * STRONGEST
    scale = LONGEST / max(loss.shape)
    size = (max(1, round(loss.shape[1] * scale)), max(1, round(loss.shape[0] * scale)))
    alpha = Image.fromarray(strength.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    # The edges of the patches mean nothing: they are where we began to hide.
    alpha = alpha.filter(ImageFilter.GaussianBlur(LONGEST / PATCH / STEPS * 2))
    image = Image.new("RGBA", size, (*COLOUR, 0))
    image.putalpha(alpha)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _spans(side: int) -> list[slice]:
    patch = max(1, side // PATCH)
    starts = np.unique(np.linspace(0, side - patch, min(STEPS, side - patch + 1)).round())
    return [slice(int(start), int(start) + patch) for start in starts]
