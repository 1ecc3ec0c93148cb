"""How a training went: accuracy and loss by epoch."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipelines.figures.page import (
    BODY,
    GREY,
    INK,
    LABELS,
    LINE,
    MARGIN,
    MARKERS,
    SMALL,
    SPLITS,
    TEXT,
    Page,
    plural,
)

CURVES = ("train", "val")
NAMES = {"train": SPLITS["train"], "val": "#8A6A00"}  # darker than the curve, to be read


def learning_curves(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy and loss by epoch, train and validation, with the best epoch marked.

    history: `epoch` (from 1), `train_accuracy` and `val_accuracy` (0..1), `train_loss`, `val_loss`;
    gaps in a curve where a value is not finite.
    """
    curves = history.astype(float).replace([np.inf, -np.inf], np.nan).set_index("epoch")
    scores = curves["val_accuracy"].dropna()
    best = scores.idxmax() if len(scores) else None
    subtitle = f"{plural(len(curves), 'epoch')}; no validation accuracy"
    if best is not None:
        accuracy = f"best validation accuracy {scores.max():.1%} in epoch {best:.0f}"
        subtitle = f"{plural(len(curves), 'epoch')}; {accuracy}"
    page = Page(title, subtitle, 4.2)
    for place, measure in enumerate(("accuracy", "loss")):
        x = MARGIN + 0.45 + 4.0 * place
        page.write(x, BODY + 0.1, measure.capitalize(), bold=True)
        axes = page.inset(x, BODY + 0.5, 2.65, 2.25)
        _plot(axes, curves, measure)
        if best is not None:
            _mark(axes, best)
    return page.figure


def _plot(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Train and validation by epoch, each named where its curve ends."""
    for split in CURVES:
        marker = MARKERS[split] if len(curves) <= 30 else None
        values = curves[f"{split}_{measure}"]
        axes.plot(values, color=SPLITS[split], linewidth=2, marker=marker, markersize=4)
    axes.margins(y=0.08)
    _frame(axes, measure)
    _name(axes, curves, measure)
    epochs = curves.index.to_numpy()
    axes.set_xlim(epochs.min(initial=1) - 0.5, epochs.max(initial=1) + 0.5)
    axes.set_xlabel("epoch", fontsize=SMALL, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if measure == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=GREY)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=GREY)


def _frame(axes: Axes, measure: str) -> None:
    """Losses from 0; accuracies over ten points at least, so that noise looks as small as it is."""
    low, high = axes.get_ylim()
    if measure == "loss":
        axes.set_ylim(min(0.0, low) if axes.dataLim.y0 < 0 else 0.0, high + 0.05 * abs(high))
        return
    middle, reach = (low + high) / 2, max(0.05, (high - low) / 2)
    axes.set_ylim(max(-0.01, middle - reach), min(1.01, middle + reach))


def _name(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Names of the two curves at the right of the axes, kept from touching each other."""
    low, high = axes.get_ylim()
    ends = {split: curves[f"{split}_{measure}"].dropna() for split in CURVES}
    places = {split: (end.iloc[-1] - low) / (high - low) for split, end in ends.items() if len(end)}
    for split, y in _spread(places, 0.08).items():
        name = axes.text(1.03, y, LABELS[split], transform=axes.transAxes, va="center")
        name.set(fontsize=TEXT, fontweight="bold", color=NAMES[split])


def _spread(places: dict[str, float], gap: float) -> dict[str, float]:
    """The places, two of them pushed apart to `gap` where they are closer; order kept."""
    if len(places) < 2:
        return places
    (lower, low), (upper, high) = sorted(places.items(), key=lambda item: item[1])
    push = max(0.0, (gap - (high - low)) / 2)
    return {lower: low - push, upper: high + push}


def _mark(axes: Axes, epoch: float) -> None:
    """Thin vertical line at the epoch, labelled above the axes."""
    axes.axvline(epoch, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    where = axes.get_xaxis_transform()
    label = axes.text(epoch, 1.02, f"best: epoch {epoch:.0f}", transform=where, ha="center")
    label.set(va="bottom", fontsize=SMALL, color=INK)
