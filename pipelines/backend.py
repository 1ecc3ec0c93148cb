"""TensorFlow's start: late, since it takes 15 seconds, and without its remarks.

An entry point refuses wrong settings first, and imports what needs TensorFlow inside `start_up`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def use_threads(count: int) -> None:
    """Bounds what a process trains on; to be called before its first TensorFlow operation.

    Operations of one network hardly ever run side by side, so all threads go into each.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # several share it


@contextmanager
def start_up() -> Iterator[None]:
    """Around what writes to standard error whatever is set: TensorFlow's import, LiteRT."""
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
