"""TensorFlow's start: late, since it takes 15 seconds, and without its remarks.

An entry point refuses wrong settings first, and imports what needs TensorFlow inside `start_up`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def start_up() -> Iterator[None]:
    """For the import of TensorFlow, whose libraries write to standard error whatever is set."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
