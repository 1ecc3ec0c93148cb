"""What a peer is told, and what it tells: one JSON object in, a file of JSON lines out."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

START = "LOOKOUT_BENCHMARK_START"  # clock time (seconds) at which the process was started


@dataclass(frozen=True)
class Job:
    """One search.

    folder: holds train/CLASS and val/CLASS; size: side in pixels; images: of the training split;
    fixed: params that are not searched; cached: whether decoded images stay in memory; patience:
    epochs without a lower validation loss after which a trial ends; events: file to append to.
    """

    folder: str
    size: int
    images: int
    classes: int
    epochs: int
    patience: int
    trials: int
    seed: int
    events: str
    method: str = "random"
    code: str = "cnn"
    cached: bool = False
    fixed: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """All fields, for `given`."""
        return json.dumps(asdict(self))

    @classmethod
    def given(cls) -> Self:
        """The job on the command line."""
        return cls(**json.loads(sys.argv[1]))


def tell(events: str, kind: str, trial: int, **values: float) -> None:
    """Appends what happened to a trial, with the seconds since the process was started."""
    seconds = time.time() - float(os.environ[START])
    line = json.dumps({"seconds": seconds, "kind": kind, "trial": trial} | values)
    with Path(events).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
