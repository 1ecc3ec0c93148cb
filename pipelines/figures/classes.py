"""What the data hold of each class, and how well each is told."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipelines.figures.page import (
    GREY,
    INK,
    MARGIN,
    SMALL,
    SPLITS,
    TRACK,
    WIDTH,
    WRONG,
    plural,
)
from pipelines.figures.table import Table, percent

MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1"}
BAR = "#8FA3B5"


def class_counts(counts: pd.DataFrame) -> Figure:
    """Stacked bars of the images of each class, and their numbers in columns beside them.

    counts: a row per class, a column per split ("train", "val", "test"), images; NaN counts as 0.
    """
    numbers = counts.fillna(0).astype(int)
    ends = numbers.cumsum(axis=1)
    totals = numbers.sum(axis=1)
    subtitle = f"{totals.sum():,} images in {plural(len(numbers), 'class', 'classes')}"
    columns = len(numbers.columns) + 1
    table = Table("Images per class", subtitle, numbers.index, 0.95 * columns)
    scale = (table.right - table.left) / max(1, totals.max())
    for place, name in enumerate(numbers.columns):
        x = table.column(place, columns)
        table.heading(x, name)
        for y, end, count in zip(table.rows, ends[name], numbers[name], strict=True):
            start = table.left + scale * (end - count)
            table.bar(start, y, scale * count, 0.6 * table.pitch, SPLITS.get(name, GREY))
            table.write(x, y, f"{count:,}", align="right")
    table.heading(WIDTH - MARGIN, "total")
    for y, total in zip(table.rows, totals, strict=True):
        table.write(WIDTH - MARGIN, y, f"{total:,}", align="right", bold=True)
    return table.figure


def class_scores(scores: pd.DataFrame) -> Figure:
    """Precision, recall and F1 of each class as bars on 0..1; the lowest of each stands out.

    scores: a row per class; `precision`, `recall`, `f1` (0..1), `support` (images). A class without
    images has no scores: a dash.
    """
    support = scores["support"].fillna(0).astype(int)
    values = scores[list(MEASURES)].astype(float).where(support > 0)
    subtitle = f"{support.sum():,} images; the lowest of each column in colour"
    table = Table("Scores by class", subtitle, scores.index, 0.8)
    table.heading(WIDTH - MARGIN, "images")
    for y, images in zip(table.rows, support, strict=True):
        table.write(WIDTH - MARGIN, y, f"{images:,}", align="right", color=GREY)
    step = (table.right - table.left + 0.25) / len(MEASURES)
    for place, (measure, label) in enumerate(MEASURES.items()):
        left = table.left + step * place
        table.write(left, table.head, label, size=SMALL, bold=True)
        _draw_bars(table, left, step - 0.25, values[measure].to_numpy())
    return table.figure


def _draw_bars(table: Table, left: float, width: float, values: np.ndarray) -> None:
    """One column of bars on a track of 0..1, each with its value at the right end."""
    scores = values[np.isfinite(values)]
    lowest = scores.min() if len(set(scores)) > 1 else np.nan
    track, height = width - 0.6, 0.5 * table.pitch
    for y, value in zip(table.rows, values, strict=True):
        apart = bool(value == lowest)
        table.bar(left, y, track, height, TRACK)
        table.bar(left, y, track * np.nan_to_num(value), height, WRONG if apart else BAR)
        color = WRONG if apart else INK
        x = left + width - 0.05
        table.write(x, y, percent(value), align="right", color=color, bold=apart)
