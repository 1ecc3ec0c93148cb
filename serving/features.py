"""Scalar features of an image: what the inference log keeps, and monitoring compares.

The file travels with a registered model (`BESIDE` in `predictor.py`), so it imports nothing of
ours. To add a feature, add its name to `FEATURES` and a line to `measure`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def measure(image: Image.Image, width: int, height: int) -> dict[str, float]:
    """Scalar features of an upright RGB image; all but the last three at `SIDE` pixels.

    width, height: pixels of the whole image, of which `image` may be a fraction above SCALE.
    brightness, contrast: mean and standard deviation of the luma, 0..255.
    saturation: mean of the HSV saturation, 0..1.
    sharpness: variance of the Laplacian (Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548).
    noise: standard deviation of the noise, 0..255 (`noise`).
    colour_cast: mean red minus mean blue, -255 (cold) to 255 (warm).
    aspect: width / height.
    """
    pixels = np.asarray(_shrink(image), np.float32)
    grey = pixels @ LUMA
    red, blue = pixels[..., 0].mean(), pixels[..., 2].mean()
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": saturation(pixels),
        "sharpness": float(_laplacian(grey).var()),
        "noise": noise(grey),
        "colour_cast": float(red - blue),
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
    }


def saturation(pixels: NDArray[np.float32]) -> float:
    """Mean HSV saturation, 0..1, of pixels (height, width, 3), 0..255; black counts as 0."""
    # Plane by plane: twenty times as fast as a maximum along an axis of three.
    red, green, blue = np.moveaxis(pixels, -1, 0)
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
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
