"""Scalar features of an image: what the inference log keeps, and monitoring compares.

The file travels with a registered model (`BESIDE` in `predictor.py`), so it imports nothing of
ours. To add a feature, add its name to `FEATURES` and a line to `measure`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.uint8]
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
SCALE = (2 * SIDE, 2 * SIDE)  # (height, width): a JPEG is decoded no smaller than this
THUMBNAIL = 32  # pixels, at least: colours are means, which need no more


def measure(image: Image.Image, width: int, height: int) -> dict[str, float]:
    """Scalar features of an upright RGB image.

    width, height: pixels of the whole image, of which `image` may be a fraction above SCALE.
    brightness, contrast: mean and standard deviation of the luma (ITU-R BT.601), 0..255, at `SIDE`
    pixels on the longer side, as are sharpness and noise.
    saturation: mean of the HSV saturation, 0..1, of a thumbnail.
    sharpness: variance of the Laplacian (Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548).
    noise: standard deviation of the noise, 0..255 (`noise`).
    colour_cast: mean red minus mean blue, -255 (cold) to 255 (warm), of a thumbnail.
    aspect: width / height.
    """
    grey = np.asarray(_shrink(image.convert("L")), np.float32)
    red, green, blue = np.moveaxis(np.asarray(_thumbnail(image)), -1, 0)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": saturation(red, green, blue),
        "sharpness": float(_laplacian(grey).var()),
        "noise": noise(grey),
        "colour_cast": float(red.mean() - blue.mean()),
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
    }


def saturation(red: Plane, green: Plane, blue: Plane) -> float:
    """Mean HSV saturation, 0..1, of planes (height, width), 0..255; black counts as 0."""
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    return float(np.divide(most - least, np.maximum(most, 1), dtype=np.float32).mean())


def noise(grey: Grey) -> float:
    """Standard deviation of the noise in a grey image (height, width), in units of its values.

    Immerkaer 1996, Fast noise variance estimation, doi 10.1006/cviu.1996.0060: the mean absolute
    answer of a mask that structure up to second order leaves at zero.
    """
    rows = _second_difference(_framed(grey))
    answer = _second_difference(rows.T)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(answer, out=answer).mean())


def _laplacian(grey: Grey) -> Grey:
    framed = _framed(grey)
    return _second_difference(framed[:, 1:-1]) + _second_difference(framed[1:-1].T).T


def _second_difference(values: Grey) -> Grey:
    """From row to row: two rows fewer."""
    found = values[:-2] + values[2:]
    found -= values[1:-1]
    found -= values[1:-1]
    return found


def _framed(grey: Grey) -> Grey:
    """With its edge once more around it; np.pad takes ten times as long."""
    height, width = grey.shape
    framed = np.empty((height + 2, width + 2), np.float32)
    framed[1:-1, 1:-1] = grey
    framed[0], framed[-1] = framed[1], framed[-2]
    framed[:, 0], framed[:, -1] = framed[:, 1], framed[:, -2]
    return framed


def _shrink(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _thumbnail(image: Image.Image) -> Image.Image:
    """The image at a whole fraction of its size, by means: cheap, also of a large one."""
    across, down = (max(1, side // THUMBNAIL) for side in image.size)
    return image.reduce((across, down))
