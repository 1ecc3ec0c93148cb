"""Synthetic rows of what a model told, as many as a test asks for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from monitoring.features import told
from serving.features import FEATURES

CLASSES = ("a", "b", "c", "d", "e", "f")
WIDTH = 8  # of the embedding, without the novelty


def rows(
    count: int, seed: int, classes: Sequence[str] = CLASSES, *, novel: int = 0, **moved: float
) -> pd.DataFrame:
    """Rows with `truth`; every class is likely to be right as often as the model is sure.

    novel: how many are unlike all others; `moved` adds to features, in standard deviations.
    """
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((count, len(classes)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    seen = generator.standard_normal((count, WIDTH))
    novelty = generator.uniform(0.1, 0.6, count)
    novelty[:novel] = generator.uniform(0.8, 0.9, novel)
    table = told(shares, np.column_stack([seen, novelty]), classes)
    right = generator.random(count) < shares.max(axis=1)
    numbers = {name: generator.standard_normal(count) for name in FEATURES}
    numbers |= {"width": np.full(count, 150.0), "aspect": np.full(count, 4 / 3)}
    numbers |= {name: numbers[name] + by for name, by in moved.items()}
    truth = np.where(right, table["label"], "none")
    return pd.concat([table, pd.DataFrame(numbers)], axis=1).assign(truth=truth)
