"""What is done to images in `benchmarks.drift`: one pure function a shift, one line in SHIFTS.

A shifted image is kept as PNG, so that nothing but the shift is in its pixels. Where chance has a
part in it, it is that of the image's number: one image always becomes the same.
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter, ImageOps

SEED = 0
SIDE = 150  # pixels, of the scenes

Shift = Callable[[Image.Image, Generator], Image.Image]


def noise(image: Image.Image, generator: Generator, deviation: float) -> Image.Image:
    """Gaussian noise of a standard deviation (0..255), clipped."""
    pixels = np.asarray(image, np.float32)
    noisy = pixels + generator.normal(0, deviation, pixels.shape)
    return Image.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8))


def blur(image: Image.Image, _: Generator, radius: float) -> Image.Image:
    """Gaussian blur; radius: its standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def darken(image: Image.Image, _: Generator, factor: float) -> Image.Image:
    """Every value times `factor`, 0..1."""
    return image.point(lambda value: round(value * factor))


def compress(image: Image.Image, _: Generator, quality: int) -> Image.Image:
    """As a JPEG of a quality (0..95) comes back."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def rotate(image: Image.Image, _: Generator, degrees: float) -> Image.Image:
    """Turned about its centre; the corners show its edges mirrored, not black triangles."""
    margin = max(image.size) // 8
    sides = ((margin, margin), (margin, margin), (0, 0))
    padded = Image.fromarray(np.pad(np.asarray(image), sides, mode="reflect"))
    turned = padded.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + image.width, margin + image.height))


def turn_over(image: Image.Image, _: Generator) -> Image.Image:
    """Upside down."""
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def cover(image: Image.Image, generator: Generator, share: float) -> Image.Image:
    """A share of its area (0..1) under a grey rectangle of its shape, at a place by chance."""
    pixels = np.array(image)
    height, width = (round(side * share**0.5) for side in pixels.shape[:2])
    top, left = (
        generator.integers(whole - part + 1)
        for whole, part in zip(pixels.shape, (height, width), strict=False)
    )
    pixels[top : top + height, left : left + width] = 128
    return Image.fromarray(pixels)


def sprinkle(image: Image.Image, generator: Generator, share: float) -> Image.Image:
    """A share of its pixels (0..1) black or white."""
    pixels = np.array(image)
    hit = generator.random(pixels.shape[:2]) < share
    pixels[hit] = 255 * generator.integers(2, size=(int(hit.sum()), 1), dtype=np.uint8)
    return Image.fromarray(pixels)


def fit(image: Image.Image, _: Generator) -> Image.Image:
    """Its middle as a square of the scenes' side, so that width and height say nothing."""
    return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)


def keep(image: Image.Image, _: Generator) -> Image.Image:
    """As it is."""
    return image


NONE = "none"
SHIFTS: dict[str, Shift] = {
    NONE: keep,
    "noise 10": partial(noise, deviation=10),
    "noise 25": partial(noise, deviation=25),
    "noise 50": partial(noise, deviation=50),
    "blur 1": partial(blur, radius=1),
    "blur 2": partial(blur, radius=2),
    "blur 4": partial(blur, radius=4),
    "dark x0.7": partial(darken, factor=0.7),
    "dark x0.5": partial(darken, factor=0.5),
    "dark x0.3": partial(darken, factor=0.3),
    "JPEG 10": partial(compress, quality=10),
    "rotation 5": partial(rotate, degrees=5),
    "upside down": turn_over,
    "a third covered": partial(cover, share=1 / 3),
    "salt and pepper 5%": partial(sprinkle, share=0.05),
}
# Of the cats and dogs, which are mixed in.
FOREIGN, FOREIGN_AS_THEY_ARE = "cats and dogs", "cats and dogs, own size"
FOREIGN_SHIFTS: dict[str, Shift] = {FOREIGN: fit, FOREIGN_AS_THEY_ARE: keep}


def shifted(shift: Shift, image: Image.Image, number: int) -> bytes:
    """The PNG of an RGB image after a shift; number: its own, which decides its chance."""
    file = io.BytesIO()
    changed = shift(image, np.random.default_rng((SEED, number)))
    changed.save(file, "PNG", compress_level=1)
    return file.getvalue()
