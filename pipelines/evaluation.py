"""What an evaluation gives: plain data, which other processes read without TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.search import Best


@dataclass(frozen=True)
class Exported:
    """A served network's folder, and what was measured on it."""

    folder: Path
    size_mb: float
    parity: float


@dataclass(frozen=True)
class Evaluation:
    """One architecture's best trial: metrics by name, per-class scores, the exported network."""

    code: str
    title: str
    best: Best
    metrics: dict[str, float]
    scores: pd.DataFrame
    matrix: NDArray[np.int64]
    exported: Exported
