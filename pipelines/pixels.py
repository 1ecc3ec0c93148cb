"""Decoded pixels: every image once, in parallel, into a memory-mapped cache."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import cache
from pipelines.data import Dataset
from pipelines.progress import progress
from serving.folder import read
from serving.predictor import DECODER, ImageError, Pixels, decode
from serving.settings import UserError

CHUNK = 256
SIZES = tuple(range(16, 65, 16))


def load(dataset: Dataset, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels (images, height, width, 3), uint8, read-only, in the order of `dataset.images`.

    The cache is keyed by the images' content and `size` = (height, width), so a second run,
    another split of the same images, or a renamed folder starts from it.
    """
    name = cache.key(DECODER, size, *dataset.images["content"])
    path = cache.folder("pixels") / f"{size[0]}x{size[1]}-{name}.npy"
    blocks = _decode(dataset, size)
    return cache.array(path, blocks, (len(dataset.images), *size, 3), np.uint8)


def choose_size(dataset: Dataset) -> int:
    """Side in pixels for networks trained from scratch: the median short side, within `SIZES`.

    Above 64 pixels the time of a trial grows faster than the accuracy does on a plain CPU.
    """
    side = dataset.images[["width", "height"]].min(axis=1).median()
    return next((size for size in SIZES if size >= side), SIZES[-1])


def _decode(dataset: Dataset, size: tuple[int, int]) -> Iterator[Pixels]:
    paths = [Path(path) for path in dataset.images["path"]]
    label = f"decoding at {size[0]}x{size[1]}"
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(label, len(paths)) as done:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            yield np.stack(list(pool.map(lambda path: _pixels(path, size), chunk)))
            done(len(chunk))


def _pixels(path: Path, size: tuple[int, int]) -> Pixels:
    try:
        return decode(read(path), size)
    except ImageError as error:
        raise UserError(
            f"Expected {path} to be as it was when it was checked, but now: {error}; run again."
        ) from error
