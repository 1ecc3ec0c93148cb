"""The images that a report shows: small, upright, and without what their files say of the owner."""

import io
from dataclasses import dataclass

from PIL import Image

from serving.predictor import open_image, to_rgb

THUMBNAIL = 144  # pixels


@dataclass(frozen=True)
class Picture:
    """One image to show: what the model said, and a JPEG of it."""

    path: str
    label: str
    confidence: float
    jpeg: bytes


@dataclass(frozen=True)
class Pair:
    """A current image that is unlike the reference, and the reference image nearest to it.

    novelty_percentile: share of the reference images that are less novel, 0..1.
    """

    current: Picture
    reference: Picture | None
    novelty_percentile: float


def thumbnail(content: bytes) -> bytes:
    """A JPEG of at most `THUMBNAIL` pixels a side, upright. Raises ImageError."""
    image = open_image(content)
    image.draft("RGB", (THUMBNAIL, THUMBNAIL))
    small = to_rgb(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    plain = Image.new("RGB", small.size)
    plain.paste(small)  # without the EXIF block, which would travel along: position, serial number
    file = io.BytesIO()
    plain.save(file, "JPEG", quality=80)
    return file.getvalue()
