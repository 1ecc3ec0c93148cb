"""Answers for every image in a folder, streamed: what `score` and `monitor` share."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.features import SCALE
from serving.predictor import (
    MAX_BYTES,
    Classifier,
    ImageError,
    Photo,
    Pixels,
    Probabilities,
    cores,
    opened,
    photo,
)
from serving.settings import require

IGNORED = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
CHUNK = 64  # images

Measured = dict[str, float]


@dataclass(frozen=True)
class Answer:
    """One file's answer, or in `error` the reason why it has none.

    embedding: (width,), what the network sees in the image; measured: what was asked for.
    """

    path: Path
    content: bytes
    probabilities: Probabilities | None
    error: str
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    measured: Measured = field(default_factory=dict)


def require_folder(folder: Path) -> None:
    """Raises UserError where `folder` is missing or is no folder."""
    require(folder.exists(), f"Expected a folder of images, but {folder} does not exist.")
    require(folder.is_dir(), f"Expected a folder of images, but {folder} is a file.")


def written(path: Path) -> str:
    """The path as text that can be written; a name that is not UTF-8 is escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted, hidden ones left out; links to folders not followed.

    Raises UserError where `folder` is missing, is no folder, or holds no file.
    """
    require_folder(folder)
    found = sorted(_walk(folder))
    require(bool(found), f"Expected images in {folder}, but it holds no file.")
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own rather than the user's."""
    return name.startswith(".") or name in IGNORED


def read(path: Path) -> bytes:
    """The file's bytes. Raises ImageError beyond the bound, or where it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise ImageError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{status.st_size:,} bytes, more than the bound of {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error


def answer(
    classifier: Classifier,
    paths: Sequence[Path],
    measure: Callable[[Photo], Measured] | None = None,
) -> Iterator[Answer]:
    """An answer for each path, in order; at most a few chunks of images are in memory.

    measure: is asked about every photo that the classifier can decode, as large as SCALE, on all
    cores; what raises an ImageError there is not answered.
    """
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            looks = list(pool.map(lambda path: _look(classifier, path, measure), chunk))
            good = [look.pixels for look in looks if look.pixels is not None]
            empty = np.empty((0, *classifier.card.size, 3), np.uint8)
            known = _answers(classifier, np.stack(good) if good else empty)
            rows = zip(*known, strict=True)
            for path, look in zip(chunk, looks, strict=True):
                if look.pixels is None:
                    yield Answer(path, look.content, None, look.error)
                else:
                    probabilities, embedding = next(rows)
                    yield Answer(path, look.content, probabilities, "", embedding, look.measured)


@dataclass(frozen=True)
class _Look:
    content: bytes
    pixels: Pixels | None
    error: str
    measured: Measured = field(default_factory=dict)


def _look(classifier: Classifier, path: Path, measure: Callable[[Photo], Measured] | None) -> _Look:
    try:
        content = read(path)
        if measure is None:
            return _Look(content, classifier.decode(content), "")
        pixels, seen = _seen(classifier, content)
        return _Look(content, pixels, "", measure(seen))
    except ValueError as error:  # the ImageError of the model's own code is another class
        return _Look(b"", None, str(error))


def _seen(classifier: Classifier, content: bytes) -> tuple[Pixels, Photo]:
    """Pixels for the network, and the photo to measure; an older model's code gives no photo."""
    if hasattr(classifier, "look"):
        return classifier.look(content, SCALE)
    pixels = classifier.decode(content)
    with opened(content) as image:
        return pixels, photo(image, SCALE)


def _answers(classifier: Classifier, pixels: Pixels) -> tuple[Probabilities, NDArray[np.float32]]:
    """Probabilities and embeddings; the code of an older model knows none."""
    if hasattr(classifier, "answer"):
        return classifier.answer(pixels)
    return classifier.probabilities(pixels), np.empty((len(pixels), 0), np.float32)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(root, name) for name in names if not is_hidden(name))
