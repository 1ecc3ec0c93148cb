"""Progress over images: a bar on a terminal, and everywhere a line with the time at the end."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(label: str, images: int) -> Iterator[Callable[[int], object]]:
    """Yields what to call with the number of images that are done."""
    start = time.perf_counter()
    with tqdm(total=images, desc=label, unit="image", disable=None, leave=False) as bar:
        yield bar.update
    seconds = time.perf_counter() - start
    print(f"{label}: {images} images in {seconds:.1f} s", file=sys.stderr, flush=True)
