"""Files that are written whole or not at all, whatever ends the process that writes them."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SUFFIX = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `path` once it is written whole and flushed to disk, or not at all."""
    # Not `tempfile`: its files are the owner's alone, and `path` would stay so.
    temporary = path.with_name(f".{uuid.uuid4().hex}{SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
