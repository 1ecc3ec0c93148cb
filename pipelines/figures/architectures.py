"""How the architectures compare."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.figures.page import BODY, GREY, INK, LINE, MARKERS, SMALL, SPLITS, plural
from pipelines.figures.table import Table, percent

SPAN = "#B5B5B5"  # from the lowest score of an architecture to its highest
LIFTS = {"train": 0.0, "val": 0.055, "test": -0.055}  # inches up, so that no dot hides another


def comparison(table: pd.DataFrame) -> Figure:
    """Dot plot of train, validation and test accuracy by architecture, with the values beside it.

    table: a row per architecture in the order to show; `train_accuracy`, `val_accuracy` and
    `test_accuracy` (0..1 or NaN); `note` (optional) is shown in rows that have no value at all.
    """
    scores = table[[f"{split}_accuracy" for split in SPLITS]].astype(float)
    ticks = _ticks(scores.to_numpy())
    subtitle = plural(len(table), "architecture")
    if scores["test_accuracy"].notna().any():
        subtitle += "; best test accuracy in bold"
    if ticks[0] > 0:
        subtitle += f"; the scale begins at {ticks[0]:.0%}, not at 0"
    frame = Table("Accuracy by architecture", subtitle, table.index, 3.0, 0.42)
    ends = frame.left + 0.2, frame.right - 0.05
    _draw_scale(frame, ticks, np.interp(ticks, (ticks[0], ticks[-1]), ends))
    places = np.interp(scores, (ticks[0], ticks[-1]), ends)
    notes = table["note"] if "note" in table else [""] * len(table)
    for y, row, note in zip(frame.rows, places, notes, strict=True):
        if np.isnan(row).all():
            _draw_note(frame, y, note)
        else:
            _draw_dots(frame, row, y)
    for place, split in enumerate(SPLITS):
        _draw_scores(frame, place, split, scores[f"{split}_accuracy"])
    return frame.figure


def _ticks(scores: np.ndarray) -> list[float]:
    """About five round ticks around the scores, inside 0..1."""
    known = scores[np.isfinite(scores)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    low = min(low, 0.98)  # room for a scale also where every score is 1
    ticks = np.round(locator.tick_values(low, max(high, low + 0.02)), 4)
    return sorted(set(np.clip(ticks, 0, 1).tolist()))


def _draw_scale(frame: Table, ticks: list[float], places: np.ndarray) -> None:
    """The ticks, as lines over the rows."""
    bottom = frame.rows[-1] + frame.pitch / 2 if frame.rows else BODY
    step = min(after - before for before, after in pairwise(ticks))
    digits = 0 if step >= 0.01 else 1
    for tick, x in zip(ticks, places, strict=True):
        frame.axes.plot([x, x], [BODY + 0.22, bottom], color=LINE, linewidth=0.8, zorder=0)
        label = f"{tick:.{digits}%}"
        frame.write(x, frame.head, label, size=SMALL, align="center", color=GREY)


def _draw_dots(frame: Table, places: np.ndarray, y: float) -> None:
    """Dots of one architecture by a line from its lowest score to its highest."""
    ends = np.nanmin(places), np.nanmax(places)
    frame.axes.plot(ends, (y, y), color=SPAN, linewidth=1.6, zorder=1)
    for split, x in zip(SPLITS, places, strict=True):
        frame.axes.plot(
            [x],
            [y - LIFTS[split]],
            MARKERS[split],
            color=SPLITS[split],
            markersize=8.5 if split == "train" else 7.0,
            markeredgecolor="white",
            markeredgewidth=0.9,
            zorder=3,
        )


def _draw_note(frame: Table, y: float, note: object) -> None:
    """Why an architecture has no scores, on white so that the scale does not cross it."""
    text = note if isinstance(note, str) and note.strip() else "no result"
    room = frame.right - frame.left - 0.3
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
    frame.write(frame.left + 0.2, y, text, room=room, color=GREY, style="italic", bbox=ground)


def _draw_scores(frame: Table, place: int, split: str, values: pd.Series) -> None:
    """Column of one split's accuracies; the best test accuracy is bold."""
    x = frame.column(place, len(SPLITS))
    best = values.max() if split == "test" else np.nan
    frame.heading(x, split)
    for y, value in zip(frame.rows, values, strict=True):
        color = GREY if np.isnan(value) else INK
        frame.write(x, y, percent(value), align="right", color=color, bold=bool(value == best))
