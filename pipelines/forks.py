"""The process that workers are forked from: it imports TensorFlow, and does nothing with it."""

import multiprocessing
from multiprocessing import forkserver
from typing import Any


def begin() -> None:
    """Begins to import TensorFlow, for several seconds, while this process does other things."""
    if context() is not None:
        forkserver.ensure_running()


def context() -> Any:
    """Makes processes by forking that one; None where the system has no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["pipelines.preload"])
    return found
