"""Answers for every image in a folder, streamed: what `score` and `monitor` share."""

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.predictor import (
    MAX_BYTES,
    Classifier,
    ImageError,
    Pixels,
    Probabilities,
    cores,
)
from serving.settings import require

IGNORED = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
CHUNK = 64  # images


@dataclass(frozen=True)
class Answer:
    """One file's answer, or in `error` the reason why it has none."""

    path: Path
    content: bytes
    probabilities: Probabilities | None
    error: str


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


def answer(classifier: Classifier, paths: Sequence[Path]) -> Iterator[Answer]:
    """An answer for each path, in order; at most a few chunks of images are in memory."""
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            decoded = list(pool.map(lambda path: _decode(classifier, path), chunk))
            good = [pixels for _, pixels, _ in decoded if pixels is not None]
            shape = (0, *classifier.card.size, 3)
            rows = iter(
                classifier.probabilities(np.stack(good) if good else np.empty(shape, np.uint8))
            )
            for path, (content, pixels, error) in zip(chunk, decoded, strict=True):
                yield Answer(path, content, None if pixels is None else next(rows), error)


def _decode(classifier: Classifier, path: Path) -> tuple[bytes, Pixels | None, str]:
    try:
        content = read(path)
        return content, classifier.decode(content), ""
    except ValueError as error:  # the ImageError of the model's own code is another class
        return b"", None, str(error)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(root, name) for name in names if not is_hidden(name))
