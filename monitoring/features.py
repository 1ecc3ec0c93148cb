"""What monitoring measures on an image, and the table of it: one row an answered image.

`frame` makes both the reference that a model carries and the current rows of a check, so the two
are always comparable. To add an image feature, add a line to `features`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from serving.folder import Answer
from serving.predictor import ImageError, Probabilities, open_image, to_rgb

Grey = NDArray[np.float32]

FEATURES = (
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "noise",
    "colour_cast",
    "width",
    "height",
    "aspect",
)
SIDE = 128  # pixels: measured at one scale, or a large photo would look sharper than its thumbnail
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


def features(content: bytes) -> dict[str, float]:
    """Scalar features of one image's bytes; all but the last three at `SIDE` pixels, longer side.

    brightness, contrast: mean and standard deviation of the luma, 0..255.
    saturation: mean of the HSV saturation, 0..1.
    sharpness: variance of the Laplacian (Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548).
    noise: standard deviation of the noise, 0..255 (`noise`).
    colour_cast: mean red minus mean blue, -255 (cold) to 255 (warm).
    width, height: pixels of the upright image; aspect: width / height.
    Raises ImageError for what is no image.
    """
    image = open_image(content)
    width, height = image.size
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    upright = to_rgb(image)
    if image.getexif().get(ORIENTATION) in SIDEWAYS:
        width, height = height, width
    pixels = np.asarray(_shrink(upright), np.float32)
    grey = pixels @ LUMA
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": saturation(pixels),
        "sharpness": float(_laplacian(grey).var()),
        "noise": noise(grey),
        "colour_cast": float(pixels[..., 0].mean() - pixels[..., 2].mean()),
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
    }


def frame(answers: Iterable[Answer], classes: Sequence[str]) -> pd.DataFrame:
    """One row an answered image; those that could not be read are left out.

    Columns: `path`, `label`, `confidence` (0..1), `entropy` (nats), `FEATURES`, and `p_CLASS`
    (0..1) for every class. The answers are consumed one by one: no image's bytes are kept.
    """
    rows = [row for answer in answers if (row := _row(answer, classes)) is not None]
    columns = ["path", "label", "confidence", "entropy", *FEATURES, *probability_columns(classes)]
    return pd.DataFrame(rows, columns=columns)


def probability_columns(classes: Sequence[str]) -> list[str]:
    """The columns of a frame that hold the probability of each class."""
    return [f"p_{name}" for name in classes]


def saturation(pixels: NDArray[np.float32]) -> float:
    """Mean HSV saturation, 0..1, of pixels (height, width, 3), 0..255; black counts as 0."""
    most, least = pixels.max(axis=-1), pixels.min(axis=-1)
    return float(((most - least) / np.maximum(most, 1)).mean())


def noise(grey: Grey) -> float:
    """Standard deviation of the noise in a grey image (height, width), in units of its values.

    Immerkaer 1996, Fast noise variance estimation, doi 10.1006/cviu.1996.0060: the mean absolute
    answer of a mask that structure up to second order leaves at zero.
    """
    grey = np.pad(grey, 1, mode="edge")
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    answer = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(answer).mean())


def _laplacian(grey: Grey) -> Grey:
    around = np.pad(grey, 1, mode="edge")
    across = around[1:-1, :-2] + around[1:-1, 2:]
    return across + around[:-2, 1:-1] + around[2:, 1:-1] - 4 * grey


def _shrink(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _row(answer: Answer, classes: Sequence[str]) -> dict[str, object] | None:
    if answer.probabilities is None:
        return None
    try:
        measured = features(answer.content)
    except ImageError:  # the model's own code may read more than this version does
        return None
    shares = dict(zip(probability_columns(classes), map(float, answer.probabilities), strict=True))
    return {
        "path": str(answer.path),
        "label": classes[int(answer.probabilities.argmax())],
        "confidence": float(answer.probabilities.max()),
        "entropy": _entropy(answer.probabilities),
        **measured,
        **shares,
    }


def _entropy(probabilities: Probabilities) -> float:
    positive = probabilities[probabilities > 0].astype(np.float64)
    return float(-(positive * np.log(positive)).sum())
