"""How the cores are shared out: few workers with many threads, or many with few.

Which is faster depends on the network and the machine, so it is measured, once for both.
"""

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import cache
from pipelines.workers import Pool, run_all
from serving.durable import replacing

if TYPE_CHECKING:
    from pipelines.calls import Spec, Speed

COST = 20.0  # seconds that a measurement takes, about
WORTH = 10  # times its cost: what a study must still take to be worth it
EPOCHS = 0.6  # of those allowed, that a trial trains on average: many are pruned or stop early

Measure = Callable[["Spec", str], "Speed"]


def candidates(cores: int) -> list[int]:
    """Threads a worker, from one up to all cores."""
    powers = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return [*powers, cores] if cores > 1 else [1]


def measure(pool: Pool, spec: "Spec", code: str, images: int, speed: Measure) -> int:
    """Threads a worker with which all cores together get through most trials an hour.

    The pool must be idle. More threads are tried as long as they gain.
    """
    best, most = 1, 0.0
    for threads in candidates(pool.size):
        together = [(spec, code)] * pool.room(threads)
        speeds = run_all(pool, speed, together, threads)
        rate = trials_a_second(speeds, images * EPOCHS * spec.settings.epochs)
        if rate <= most:
            break
        best, most = threads, rate
    return best


def trials_a_second(speeds: "list[Speed]", images: float) -> float:
    """Of all workers together; images: that a trial trains on, those of all its epochs counted."""
    return sum(1 / (speed.start + images / speed.images) for speed in speeds)


def known(code: str, shape: tuple[int, ...], cores: int) -> int:
    """What was measured before, on this machine, for a network of this input; 0 if nothing."""
    with suppress(OSError, ValueError):
        return int(json.loads(_path(code, shape, cores).read_text())["threads"])
    return 0


def keep(code: str, shape: tuple[int, ...], cores: int, threads: int) -> None:
    """Keeps a measurement for later searches."""
    with replacing(_path(code, shape, cores)) as file:
        file.write(json.dumps({"architecture": code, "threads": threads}).encode())


def _path(code: str, shape: tuple[int, ...], cores: int) -> Path:
    machine = platform.machine(), platform.processor(), _cpu(), os.cpu_count(), cores
    name = cache.key(code, shape, version("tensorflow"), *machine)
    return cache.folder("layouts") / f"{code}-{name}.json"


def _cpu() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("model name")), "")
    return ""
