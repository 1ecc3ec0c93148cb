"""The cache: what can be computed again, kept outside the data folder, never half-written."""

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from serving.durable import SUFFIX, replacing

STALE = 24 * 3600  # seconds


def folder(*parts: str) -> Path:
    """`LOOKOUT_CACHE`, by default `lookout` in the user's cache folder, and `parts` below it."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("LOOKOUT_CACHE") or user / "lookout", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: object) -> str:
    """A short digest (16 hexadecimal digits) of whatever decides an entry's content."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def array(
    path: Path, rows: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike
) -> NDArray[Any]:
    """Writes `rows` (blocks along the first axis) to `path` unless it is there; maps it read-only.

    Rows are written in order rather than into a map: a full disk is then an OSError, not a signal.
    """
    if not path.exists():
        _sweep(path.parent)
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        with replacing(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in rows:
                file.write(np.ascontiguousarray(block, dtype).tobytes())
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


def _sweep(where: Path) -> None:
    """Removes what killed processes left half-written, once nobody can be writing it any more."""
    for part in where.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # another process may be sweeping too
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()
