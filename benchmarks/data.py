"""The way of a folder into the cache, the first time and again."""

import shutil
from collections.abc import Callable

from benchmarks.timing import median_seconds, table
from pipelines import cache, data, pixels

SIZE = (64, 64)


def main(source: str) -> None:
    """Prints seconds of the audit and of the decoding, without and with their caches."""
    audit = median_seconds(lambda: _cold("audit", lambda: data.prepare(source, 0)))
    again = median_seconds(lambda: data.prepare(source, 0))
    dataset = data.prepare(source, 0)
    decoding = median_seconds(lambda: _cold("pixels", lambda: pixels.load(dataset, SIZE)))
    mapped = median_seconds(lambda: pixels.load(dataset, SIZE))
    images = len(dataset.images)
    table(
        f"{dataset.name}: {images} images, decoded at {SIZE[0]}x{SIZE[1]}",
        {
            "audit, first": f"{audit:.2f} s, {images / audit:.0f} images/s",
            "audit, again": f"{again:.2f} s, {audit / again:.1f} times as fast",
            "decoding, first": f"{decoding:.2f} s, {images / decoding:.0f} images/s",
            "decoding, again": f"{mapped:.4f} s",
        },
    )


def _cold(folder: str, call: Callable[[], object]) -> None:
    shutil.rmtree(cache.folder(folder))
    call()
