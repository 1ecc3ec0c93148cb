"""Draws the pictures people look at: the data, the training, the comparison, the mistakes.

Every function takes plain data and returns a `Figure` that no global state knows of; only `save`
touches the disk. Positions on a page are inches from its upper left corner, and every text is
measured before it is placed, so that long class names are shortened rather than clipped.
A split, and whether an answer is right, has one colour in all pictures; the splits' three are the
high-contrast scheme of https://sronpersonalpages.nl/~pault/, told apart in any colour vision.
"""

import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

SPLITS = {"train": "#004488", "val": "#DDAA33", "test": "#BB5566"}
MARKERS = {"train": "o", "val": "D", "test": "s"}
LABELS = {"val": "validation", "f1": "F1"}
RIGHT, WRONG = "#1B7F79", "#C4501B"
INK, GREY, LINE, TRACK = "#222222", "#6B6B6B", "#D5D5D5", "#F1F1F1"
GROUPS = {
    "input": "#777777",
    "augment": "#44BB99",
    "convolution": "#5588CC",
    "normalisation": "#DDCC55",
    "pooling": "#66BBEE",
    "dense": "#EE8866",
    "regularisation": "#AA99CC",
    "activation": "#BBCC33",
    "backbone": "#E57F98",
    "other": "#BBBBBB",
}

Color = str | tuple[float, float, float]

DPI = 120
WIDTH = 8.5
MARGIN = 0.3
BODY = 0.85  # where the page begins under its heading
TEXT, SMALL = 9.0, 8.0
NONE = "\u2013"  # a dash, where there is no value


@dataclass(frozen=True)
class Layer:
    """One box of `layer_flow`.

    output_shape: without the batch; a leading None is taken for the batch and left out.
    group: a key of `GROUPS`, which gives the colour; any other is drawn as "other".
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    parameters: int
    group: str


def class_counts(counts: pd.DataFrame) -> Figure:
    """Stacked bars of the images of each class, and their numbers in columns beside them.

    counts: a row per class, a column per split ("train", "val", "test"), images; NaN counts as 0.
    """
    numbers = counts.fillna(0).astype(int)
    totals = numbers.sum(axis=1)
    subtitle = f"{totals.sum():,} images in {_plural(len(numbers), 'class', 'classes')}"
    columns = [*map(str, numbers.columns), "total"]
    table = _table("Images per class", subtitle, list(map(str, numbers.index)), 0.95 * len(columns))
    scale = (table.right - table.left) / max(1, totals.max())
    for column, name in enumerate(columns):
        x = table.column(column, len(columns))
        values = totals if name == "total" else numbers.iloc[:, column]
        starts = 0 * totals if name == "total" else numbers.iloc[:, :column].sum(axis=1)
        _head(table, x, name)
        for y, start, value in zip(table.rows, starts, values, strict=True):
            if name != "total":
                begin = table.left + scale * start
                _bar(table.page, begin, y, scale * value, 0.6 * table.pitch, _split(name))
            _write(table.page, x, y, f"{value:,}", align="right", bold=name == "total")
    return table.figure


def learning_curves(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy and loss by epoch, train and validation, with the best epoch marked.

    history: `epoch` (from 1), `train_accuracy` and `val_accuracy` (0..1), `train_loss`, `val_loss`;
    gaps in a curve where a value is not finite.
    """
    curves = history.astype(float).replace([np.inf, -np.inf], np.nan)
    scores = curves["val_accuracy"].to_numpy()
    known = np.isfinite(scores).any()
    best = float(curves["epoch"].iloc[int(np.nanargmax(scores))]) if known else None
    figure, page = _page(title, _best_epoch(best, scores), 4.2)
    for column, measure in enumerate(("accuracy", "loss")):
        x = MARGIN + 0.45 + 4.0 * column
        _write(page, x, BODY + 0.1, measure.capitalize(), bold=True)
        axes = _inset(figure, x, BODY + 0.5, 2.65, 2.25)
        _plot_curves(axes, curves, measure)
        if best is not None:
            _mark_epoch(axes, best)
    return figure


def comparison(table: pd.DataFrame) -> Figure:
    """Dot plot of train, validation and test accuracy by architecture, with the values beside it.

    table: a row per architecture in the order to show; `train_accuracy`, `val_accuracy` and
    `test_accuracy` (0..1 or NaN); `note` (optional) is shown in rows that have no value at all.
    """
    scores = table[[f"{split}_accuracy" for split in SPLITS]].astype(float)
    ticks = _accuracy_ticks(scores.to_numpy())
    subtitle = _plural(len(table), "architecture")
    if scores["test_accuracy"].notna().any():
        subtitle += "; best test accuracy in bold"
    if ticks[0] > 0:
        subtitle += f"; the scale begins at {ticks[0]:.0%}, not at 0"
    frame = _table("Accuracy by architecture", subtitle, list(map(str, table.index)), 3.0, 0.42)
    place = _draw_scale(frame, ticks)
    notes = table["note"] if "note" in table else pd.Series("", index=table.index)
    for y, values, note in zip(frame.rows, scores.to_numpy(), notes, strict=True):
        if np.isnan(values).all():
            _draw_note(frame, y, note)
        else:
            _draw_dots(frame.page, place(values), y)
    for column, split in enumerate(SPLITS):
        _draw_scores(frame, column, split, scores[f"{split}_accuracy"].to_numpy())
    return frame.figure


def layer_flow(layers: Sequence[Layer], title: str) -> Figure:
    """Flow chart of a model's layers: down a column, then on at the head of the next one."""
    columns = min(5, max(1, math.ceil(len(layers) / 8)))
    rows = math.ceil(len(layers) / columns)
    width = max(5.9, 2 * MARGIN + 1.85 * columns - 0.25)
    total = sum(layer.parameters for layer in layers)
    subtitle = (
        f"{_plural(len(layers), 'layer')}, {_plural(total, 'parameter')} (at the right of each box)"
    )
    legend = _legend_places(layers, width)
    top = BODY + 0.3 * (legend[-1][2] + 1 if legend else 0) + 0.15
    figure, page = _page(title, subtitle, top + 0.72 * rows + MARGIN - 0.1, width)
    _draw_legend(page, legend)
    size = (1.6 if columns > 1 else 2.4, 0.48)
    first = (width - 1.85 * (columns - 1) - size[0]) / 2
    corners = [
        (first + 1.85 * (place // rows), top + 0.72 * (place % rows))
        for place in range(len(layers))
    ]
    for start, end in pairwise(corners):
        _draw_arrow(page, start, end, size)
    for layer, corner in zip(layers, corners, strict=True):
        _draw_layer(page, layer, corner, size)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix: counts and shares of each row up to 12 classes, then the shares alone.

    matrix: int64 (k, k), rows the truth, columns the answers. Above 30 classes colour alone speaks.
    """
    count = len(classes)
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    panels = [("Share of each true class" + ", %" * (count <= 30), _percents(shares))]
    if count <= 12:
        panels.insert(0, ("Images", [[f"{cell}" for cell in row] for row in matrix.tolist()]))
    total = int(matrix.sum())
    accuracy = f"{np.trace(matrix) / total:.1%} of {total:,} images right" if total else "No images"
    grid = _Grid.fit(classes, len(panels))
    figure, page = _page("Answers against the truth", accuracy, grid.height, grid.width)
    for place, (heading, cells) in enumerate(panels):
        x = grid.left + place * (grid.side + 0.3)
        _write(page, x, BODY + 0.1, heading, bold=True)
        axes = _inset(figure, x, grid.top, grid.side, grid.side)
        axes.imshow(_shade(shares), interpolation="nearest", aspect="auto")
        if count <= 30:
            _fill_cells(axes, cells, shares, 72 * grid.cell)
        _name_columns(page, grid, x)
    _name_rows(page, grid)
    _draw_key(page, grid)
    return figure


def class_scores(scores: pd.DataFrame) -> Figure:
    """Precision, recall and F1 of each class as bars on 0..1; the lowest of each stands out.

    scores: a row per class; `precision`, `recall`, `f1` (0..1), `support` (images). A class without
    images has no scores: a dash.
    """
    measures = ["precision", "recall", "f1"]
    support = scores["support"].fillna(0).astype(int)
    values = scores[measures].astype(float).where(support > 0)
    subtitle = f"{support.sum():,} images; the lowest of each column in colour"
    table = _table("Scores by class", subtitle, list(map(str, scores.index)), 0.8)
    _head(table, WIDTH - MARGIN, "images")
    for y, images in zip(table.rows, support, strict=True):
        _write(table.page, WIDTH - MARGIN, y, f"{images:,}", align="right", color=GREY)
    step = (table.right - table.left + 0.25) / len(measures)
    for column, measure in enumerate(measures):
        left = table.left + step * column
        label = LABELS.get(measure, measure)
        _write(table.page, left, table.head, label, size=SMALL, bold=True)
        _draw_bars(table, left, step - 0.25, values[measure].to_numpy())
    return table.figure


def mistakes(
    pixels: np.ndarray, truth: Sequence[str], answers: Sequence[str], confidence: np.ndarray
) -> Figure:
    """Gallery of at most 16 wrongly answered images in the order given, most confident first.

    pixels: uint8 (n, height, width, 3), or 1 channel; confidence: (n,), 0..1, of the wrong answer.
    """
    if len(pixels) == 0:
        return _page("No mistakes on the test images", "Every answer was right.", 1.1)[0]
    shown = min(16, len(pixels))
    what = f"{shown} of {len(pixels)} shown" if shown < len(pixels) else f"{shown}"
    title = f"Mistakes on the test images ({what})"
    step, side = 2.03, 1.8
    height = BODY + 2.4 * math.ceil(shown / 4) + MARGIN - 0.15
    figure, page = _page(title, "The answer and its confidence; under it, the truth", height)
    for place in range(shown):
        x, y = MARGIN + step * (place % 4), BODY + 0.1 + 2.4 * (place // 4)
        sure = f"{confidence[place]:.0%}"
        _write(page, x + side, y, sure, align="right", color=WRONG, bold=True)
        room = side - _measure(sure, TEXT, True) - 0.1
        _write(page, x, y, answers[place], color=WRONG, bold=True, room=room)
        _write(page, x, y + 0.19, f"truth: {truth[place]}", color=RIGHT, room=side)
        _show(_inset(figure, x, y + 0.32, side, side), pixels[place])
    return figure


def predictions(
    pixels: np.ndarray, truth: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]
) -> Figure:
    """At most 12 images with their three most probable classes, and the true one wherever it is.

    pixels: uint8 (n, height, width, 3), or 1 channel; probabilities: (n, k), 0..1.
    """
    shown = min(12, len(pixels))
    height = BODY + 1.5 * math.ceil(shown / 3) + MARGIN - 0.2
    subtitle = "The three most probable classes; ✓ marks the true one, orange a wrong answer"
    figure, page = _page("Predictions", subtitle, height)
    for place in range(shown):
        x, y = MARGIN + 2.68 * (place % 3), BODY + 0.05 + 1.5 * (place // 3)
        _show(_inset(figure, x, y, 1.15, 1.15), pixels[place])
        ranked = [int(index) for index in np.argsort(-probabilities[place], kind="stable")]
        true = [index for index in ranked[3:] if classes[index] == truth[place]]
        for row, index in enumerate(ranked[:3] + true):
            is_true = classes[index] == truth[place]
            corner = (x + 1.25, y + 0.145 + 0.29 * row)
            color = RIGHT if is_true else GREY if row else WRONG
            label = f"✓ {classes[index]}" if is_true else classes[index]
            _draw_answer(page, corner, label, float(probabilities[place, index]), color)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG in one step: a reader sees the old file or the whole new one.

    Raises FileNotFoundError where the folder of `path` does not exist.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        figure.savefig(part, format="png", dpi=DPI, bbox_inches="tight")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# The page and what is written on it


def _page(title: str, subtitle: str, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """White page with its heading; the axes count inches, to the right and downwards."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set_xlim(0, width)
    page.set_ylim(height, 0)
    page.set_axis_off()
    room = width - 2 * MARGIN
    _write(page, MARGIN, 0.34, title, size=13, bold=True, room=room)
    _write(page, MARGIN, 0.6, subtitle, color=GREY, room=room)
    return figure, page


def _inset(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes without ticks or frame at a place of the page in inches."""
    full_width, full_height = figure.get_size_inches()
    bottom = 1 - (y + height) / full_height
    box = (x / full_width, bottom, width / full_width, height / full_height)
    axes = figure.add_axes(box)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _write(
    page: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = TEXT,
    color: str = INK,
    align: str = "left",
    bold: bool = False,
    room: float = math.inf,
    **style: Any,
) -> None:
    """Text with its middle at height y, shortened to `room` inches, dollars meaning dollars."""
    line = _shorten(text, room, size, bold).replace("$", r"\$")
    weight = "bold" if bold else "normal"
    style.setdefault("va", "center")
    page.text(x, y, line, fontsize=size, color=color, ha=align, fontweight=weight, **style)


@lru_cache(maxsize=4096)
def _measure(text: str, size: float = TEXT, bold: bool = False) -> float:
    """Width of one line in inches, with a little to spare for the hinting of the renderer."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return 1.03 * float(width) / 72


def _shorten(text: str, room: float, size: float = TEXT, bold: bool = False) -> str:
    """The text on one line, or as much of it as fits `room` inches, then an ellipsis."""
    line = " ".join(text.split())
    if math.isinf(room) or _measure(line, size, bold) <= room:
        return line
    line = line[:120]
    while line and _measure(f"{line}…", size, bold) > room:
        line = line[:-1]
    return f"{line.rstrip()}…"


def _bar(page: Axes, x: float, y: float, width: float, height: float, color: Color) -> None:
    """Bar from x to the right, its middle at height y."""
    page.add_patch(Rectangle((x, y - height / 2), width, height, color=color, linewidth=0))


def _plural(count: int, one: str, many: str = "") -> str:
    """`1 layer`, `2 layers`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _split(name: str) -> str:
    """Colour of a split; grey for one that has no colour of its own."""
    return SPLITS.get(name, GREY)


# Tables: a row per class or architecture, a picture in the middle, numbers at the right


@dataclass(frozen=True)
class _Table:
    """Page with named rows; the picture lies between left and right, inches."""

    figure: Figure
    page: Axes
    left: float
    right: float
    head: float
    pitch: float
    rows: list[float]

    def column(self, index: int, count: int) -> float:
        """Right edge of one of `count` equal columns of numbers beside the picture."""
        width = (WIDTH - MARGIN - self.right) / count
        return self.right + width * (index + 1)


def _table(
    title: str, subtitle: str, names: Sequence[str], columns: float, pitch: float = 0.0
) -> _Table:
    """Page with a row per name, and `columns` inches free at the right for numbers."""
    pitch = pitch or (0.32 if len(names) <= 25 else 0.22)
    top = BODY + 0.25
    figure, page = _page(title, subtitle, top + pitch * len(names) + MARGIN)
    left = MARGIN + _widest(names, 2.2) + 0.15
    rows = [top + pitch * (row + 0.5) for row in range(len(names))]
    for y, name in zip(rows, names, strict=True):
        _write(page, left - 0.15, y, name, align="right", room=2.2)
    return _Table(figure, page, left, WIDTH - MARGIN - columns, BODY + 0.08, pitch, rows)


def _widest(names: Iterable[str], limit: float, size: float = TEXT) -> float:
    """Inches that the longest name takes, at most `limit`."""
    return max((_measure(_shorten(name, limit, size), size) for name in names), default=0.0)


def _head(table: _Table, x: float, name: str) -> None:
    """Heading of a column of numbers; that of a split is also the legend of its colour."""
    label = LABELS.get(name, name)
    _write(table.page, x, table.head, label, size=SMALL, align="right", bold=True)
    if name in SPLITS:
        mark = x - _measure(label, SMALL, True) - 0.09
        style: dict[str, Any] = {"color": SPLITS[name], "markersize": 5.5, "markeredgewidth": 0}
        table.page.plot([mark], [table.head], MARKERS[name], **style)


def _draw_bars(table: _Table, left: float, width: float, values: np.ndarray) -> None:
    """One column of bars on a track of 0..1, each with its value at the right end."""
    scores = values[np.isfinite(values)]
    lowest = scores.min() if len(set(scores)) > 1 else np.nan
    track = width - 0.6
    for y, value in zip(table.rows, values, strict=True):
        known, is_lowest = not np.isnan(value), bool(value == lowest)
        _bar(table.page, left, y, track, 0.5 * table.pitch, TRACK)
        if known:
            color = WRONG if is_lowest else "#8FA3B5"
            _bar(table.page, left, y, track * value, 0.5 * table.pitch, color)
        style: dict[str, Any] = {"color": WRONG if is_lowest else INK, "bold": is_lowest}
        _write(table.page, left + width - 0.05, y, _percent(value), align="right", **style)


def _percent(value: float) -> str:
    """`91.2%`, or a dash where there is no value."""
    return NONE if np.isnan(value) else f"{value:.1%}"


# The comparison


def _accuracy_ticks(scores: np.ndarray) -> list[float]:
    """About five round ticks around the scores, inside 0..1."""
    known = scores[np.isfinite(scores)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    ticks = np.round(locator.tick_values(low, max(high, low + 0.02)), 4)
    return sorted({float(np.clip(tick, 0, 1)) for tick in ticks})


def _draw_scale(frame: _Table, ticks: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Draws the ticks over the rows; returns what turns accuracy into inches."""
    left, right = frame.left + 0.2, frame.right - 0.05

    def place(value: np.ndarray) -> np.ndarray:
        return left + (right - left) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    bottom = frame.rows[-1] + frame.pitch / 2 if frame.rows else BODY
    step = min(after - before for before, after in pairwise(ticks))
    digits = 0 if step >= 0.01 else 1
    for tick, x in zip(ticks, place(np.array(ticks)), strict=True):
        frame.page.plot([x, x], [BODY + 0.22, bottom], color=LINE, linewidth=0.8, zorder=0)
        label = f"{tick:.{digits}%}"
        _write(frame.page, x, frame.head, label, size=SMALL, align="center", color=GREY)
    return place


def _draw_dots(page: Axes, places: np.ndarray, y: float) -> None:
    """Dots of one architecture by a line from its lowest score to its highest.

    Validation sits a little higher and test a little lower, so that none hides another.
    """
    ends = [np.nanmin(places), np.nanmax(places)]
    page.plot(ends, [y, y], color="#B5B5B5", linewidth=1.6, zorder=1)
    for split, x, lift in zip(SPLITS, places, (0.0, 0.055, -0.055), strict=True):
        size = 8.5 if split == "train" else 7.0
        style: dict[str, Any] = {
            "markersize": size,
            "markeredgecolor": "white",
            "markeredgewidth": 0.9,
        }
        page.plot([x], [y - lift], MARKERS[split], color=SPLITS[split], zorder=3, **style)


def _draw_note(frame: _Table, y: float, note: object) -> None:
    """Why an architecture has no scores, on white so that the scale does not cross it."""
    text = note if isinstance(note, str) and note.strip() else "no result"
    room = frame.right - frame.left - 0.3
    ground: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
    style: dict[str, Any] = {"color": GREY, "style": "italic", "bbox": ground}
    _write(frame.page, frame.left + 0.2, y, text, room=room, **style)


def _draw_scores(frame: _Table, column: int, split: str, values: np.ndarray) -> None:
    """Column of one split's accuracies; the best test accuracy is bold."""
    x = frame.column(column, len(SPLITS))
    best = np.nanmax(values) if split == "test" and np.isfinite(values).any() else np.nan
    _head(frame, x, split)
    for y, value in zip(frame.rows, values, strict=True):
        color = GREY if np.isnan(value) else INK
        _write(frame.page, x, y, _percent(value), align="right", color=color, bold=value == best)


# Learning curves


def _best_epoch(best: float | None, scores: np.ndarray) -> str:
    """Subtitle that names the epoch with the highest validation accuracy."""
    count = _plural(len(scores), "epoch")
    if best is None:
        return f"{count}; no validation accuracy"
    return f"{count}; best validation accuracy {np.nanmax(scores):.1%} in epoch {best:.0f}"


def _plot_curves(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Train and validation by epoch, each named where its curve ends."""
    epochs = curves["epoch"].to_numpy()
    for split in ("train", "val"):
        style: dict[str, Any] = {"color": SPLITS[split], "linewidth": 2, "markersize": 4}
        marker = MARKERS[split] if len(epochs) <= 30 else None
        axes.plot(epochs, curves[f"{split}_{measure}"].to_numpy(), marker=marker, **style)
    axes.margins(y=0.08)
    _frame_curves(axes, measure)
    _name_curves(axes, curves, measure)
    axes.set_xlim(epochs.min(initial=1) - 0.5, epochs.max(initial=1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if measure == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=GREY)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=GREY)
    axes.set_xlabel("epoch", fontsize=SMALL, color=GREY)


def _frame_curves(axes: Axes, measure: str) -> None:
    """Losses from 0; accuracies over ten points at least, so that noise looks as small as it is."""
    low, high = axes.get_ylim()
    if measure == "loss":
        axes.set_ylim(min(0.0, low) if axes.dataLim.y0 < 0 else 0.0, high + 0.05 * abs(high))
        return
    middle, reach = (low + high) / 2, max(0.05, (high - low) / 2)
    axes.set_ylim(max(-0.01, middle - reach), min(1.01, middle + reach))


def _name_curves(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Names of the two curves at the right of the axes, kept from touching each other."""
    low, high = axes.get_ylim()
    ends = {split: curves[f"{split}_{measure}"].dropna() for split in ("train", "val")}
    places = {k: (float(v.iloc[-1]) - low) / (high - low) for k, v in ends.items() if len(v)}
    for split, y in _spread(places, 0.08).items():
        color = "#8A6A00" if split == "val" else SPLITS[split]
        style: dict[str, Any] = {
            "color": color,
            "fontsize": TEXT,
            "fontweight": "bold",
            "va": "center",
        }
        label = LABELS.get(split, split)
        axes.text(1.03, y, label, transform=axes.transAxes, **style)


def _spread(places: dict[str, float], gap: float) -> dict[str, float]:
    """The places, two of them pushed apart to `gap` where they are closer; order kept."""
    if len(places) < 2:
        return places
    (lower, low), (upper, high) = sorted(places.items(), key=lambda item: item[1])
    push = max(0.0, (gap - (high - low)) / 2)
    return {lower: low - push, upper: high + push}


def _mark_epoch(axes: Axes, epoch: float) -> None:
    """Thin vertical line at the epoch, labelled above the axes."""
    axes.axvline(epoch, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": SMALL, "color": INK}
    where = axes.get_xaxis_transform()
    axes.text(epoch, 1.02, f"best: epoch {epoch:.0f}", transform=where, **style)


# The flow chart


def _legend_places(layers: Sequence[Layer], width: float) -> list[tuple[str, float, int]]:
    """Groups in use with their place in the legend: inches from the left, and line."""
    used = {layer.group if layer.group in GROUPS else "other" for layer in layers}
    places, x, line = [], MARGIN, 0
    for group in (group for group in GROUPS if group in used):
        room = _measure(group, SMALL) + 0.4
        if x + room > width - MARGIN + 0.2:
            x, line = MARGIN, line + 1
        places.append((group, x, line))
        x += room
    return places


def _draw_legend(page: Axes, places: Sequence[tuple[str, float, int]]) -> None:
    """Coloured square and name of each group."""
    for group, x, line in places:
        y = BODY + 0.05 + 0.3 * line
        _bar(page, x, y, 0.13, 0.13, GROUPS[group])
        _write(page, x + 0.2, y, group, size=SMALL, color=GREY)


def _draw_layer(
    page: Axes, layer: Layer, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    """Box with the kind over the output shape and the parameters."""
    (x, y), (width, height) = corner, size
    color = GROUPS.get(layer.group, GROUPS["other"])
    style: dict[str, Any] = {"facecolor": _blend(color, 0.22), "edgecolor": color, "linewidth": 1.0}
    page.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.05", **style))
    _bar(page, x, y + height / 2, 0.06, height - 0.08, color)
    heading, room = _heading(layer), width - 0.19
    fitting = SMALL * room / _measure(heading, SMALL, True)
    fitting = min(SMALL, max(6.5, fitting))
    _write(page, x + 0.13, y + 0.15, heading, size=fitting, bold=True, room=room)
    parameters = _short_number(layer.parameters)
    _write(page, x + width - 0.08, y + 0.34, parameters, size=7.5, align="right", color=GREY)
    room = width - 0.28 - _measure(parameters, 7.5)
    _write(page, x + 0.13, y + 0.34, _shape(layer.output_shape), size=7.5, room=room)


def _heading(layer: Layer) -> str:
    """The kind; the name where the kind only says that it is a model."""
    return layer.name if layer.kind in {"Functional", "Sequential", "Model"} else layer.kind


def _shape(shape: tuple[int | None, ...]) -> str:
    """`32 x 32 x 64`, without the batch."""
    sides = shape[1:] if len(shape) > 1 and shape[0] is None else shape
    return " x ".join("?" if side is None else str(side) for side in sides)


def _short_number(count: int) -> str:
    """`650,342`, or `23.6 M` from ten millions on."""
    return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:.1f} M"


def _draw_arrow(
    page: Axes, start: tuple[float, float], end: tuple[float, float], size: tuple[float, float]
) -> None:
    """Arrow between boxes: straight down, or round the foot and up to the next column's head."""
    width, height = size
    (x, y), (to_x, to_y) = (start[0] + width / 2, start[1] + height), (end[0] + width / 2, end[1])
    if to_x > x:
        lane = start[0] + width + 0.125
        bend = ([x, x, lane, lane, to_x], [y, y + 0.1, y + 0.1, to_y - 0.16, to_y - 0.16])
        page.plot(*bend, color=GREY, linewidth=1, solid_joinstyle="round", zorder=0)
        x, y = to_x, to_y - 0.16
    arrow: dict[str, Any] = {
        "arrowstyle": "-|>",
        "color": GREY,
        "linewidth": 1,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    page.annotate("", (to_x, to_y), (x, y), arrowprops={**arrow, "mutation_scale": 9})


# The confusion matrix


@dataclass(frozen=True)
class _Grid:
    """Where the panels of a confusion matrix lie, inches; all of the same side."""

    classes: Sequence[str]
    panels: int
    left: float
    cell: float
    size: float

    @classmethod
    def fit(cls, classes: Sequence[str], panels: int) -> "_Grid":
        """Cells as large as the page allows, never too small for the names beside them."""
        size = TEXT if len(classes) <= 30 else 6.5
        left = MARGIN + 0.25 + _widest(classes, 1.6, size) + 0.1
        room = (WIDTH - MARGIN - left - 0.3 * (panels - 1)) / panels
        least = 0.29 if len(classes) <= 30 else 0.13
        return cls(classes, panels, left, min(1.1, max(least, room / len(classes))), size)

    @property
    def side(self) -> float:
        return self.cell * len(self.classes)

    @property
    def top(self) -> float:
        return BODY + 0.3

    @property
    def drop(self) -> float:
        """Height of the slanted or upright names under a panel."""
        slant = 0.75 if len(self.classes) <= 12 else 1.0
        return slant * _widest(self.classes, 1.6, self.size) + 0.2

    @property
    def width(self) -> float:
        panels = self.panels * self.side + 0.3 * (self.panels - 1)
        return max(5.0, self.left + panels + MARGIN)

    @property
    def height(self) -> float:
        return self.top + self.side + self.drop + 0.75


def _percents(shares: np.ndarray) -> list[list[str]]:
    """Whole per cent of each cell; a dash in the row of a class without images."""
    return [[NONE if np.isnan(cell) else f"{100 * cell:.0f}" for cell in row] for row in shares]


def _shade(shares: np.ndarray) -> np.ndarray:
    """Colour of each cell, (k, k, 3): by the root of its share, so that rare mistakes show."""
    strength = np.sqrt(np.nan_to_num(shares))[..., None]
    on_diagonal = np.eye(len(shares), dtype=bool)[..., None]
    color = np.where(on_diagonal, to_rgb(RIGHT), to_rgb(WRONG))
    shaded = 1 - strength * (1 - color)
    return np.where(np.isnan(shares)[..., None], to_rgb(TRACK), shaded)


def _fill_cells(
    axes: Axes, cells: Sequence[Sequence[str]], shares: np.ndarray, points: float
) -> None:
    """Text of each cell, as large as `points` of width allow; zeros stay in the background."""
    longest = max((len(cell) for row in cells for cell in row), default=1)
    size = min(TEXT + 1, 0.9 * points / (0.65 * max(2, longest)))
    for (row, column), share in np.ndenumerate(shares):
        cell = cells[row][column]
        color = "white" if share > 0.55 else "#A8A8A8" if cell in {"0", NONE} else INK
        _write(axes, column, row, cell, size=size, align="center", color=color)


def _name_columns(page: Axes, grid: _Grid, x: float) -> None:
    """Answers under a panel, slanted up to 12 classes, upright above."""
    foot = grid.top + grid.side + 0.07
    slanted = len(grid.classes) <= 12
    style: dict[str, Any] = {"rotation": 45 if slanted else 90, "rotation_mode": "anchor"}
    align: dict[str, Any] = {"align": "right", "va": "top" if slanted else "center"}
    for column, name in enumerate(grid.classes):
        middle = x + grid.cell * (column + 0.5)
        _write(page, middle, foot, name, size=grid.size, room=1.6, **align, **style)
    low = foot + grid.drop
    _write(page, x + grid.side / 2, low, "answer", size=SMALL, align="center", color=GREY)


def _name_rows(page: Axes, grid: _Grid) -> None:
    """The true classes, left of the first panel."""
    for row, name in enumerate(grid.classes):
        y = grid.top + grid.cell * (row + 0.5)
        _write(page, grid.left - 0.08, y, name, size=grid.size, align="right", room=1.6)
    style: dict[str, Any] = {"size": SMALL, "align": "center", "color": GREY, "rotation": 90}
    _write(page, MARGIN + 0.05, grid.top + grid.side / 2, "truth", **style)


def _draw_key(page: Axes, grid: _Grid) -> None:
    """What the two colours mean, with the shades of four shares."""
    y = grid.height - 0.27
    for place, (label, color) in enumerate((("right", RIGHT), ("confused", WRONG))):
        x = MARGIN + 2.3 * place
        _write(page, x, y, label, size=SMALL, color=GREY)
        x += _measure(label, SMALL) + 0.1
        for share in (0.01, 0.1, 0.5, 1.0):
            _bar(page, x, y, 0.39, 0.2, _blend(color, math.sqrt(share)))
            text: dict[str, Any] = {"color": "white" if share > 0.55 else INK, "align": "center"}
            _write(page, x + 0.195, y, f"{share:.0%}", size=7, **text)
            x += 0.4


def _blend(color: str, strength: float) -> tuple[float, float, float]:
    """The colour on white, at a strength of 0..1."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


# Images


def _show(axes: Axes, image: np.ndarray) -> None:
    """One image, grey or coloured, whole and undistorted; small ones keep their pixels."""
    grey = image.ndim == 2 or image.shape[-1] == 1
    plane = image.reshape(image.shape[:2]) if grey else image
    smooth = "nearest" if min(image.shape[:2]) < 32 else "bicubic"
    axes.imshow(plane, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation=smooth)
    axes.set_anchor("NW")


def _draw_answer(
    page: Axes, corner: tuple[float, float], label: str, probability: float, color: str
) -> None:
    """Bar of one class with its name and probability on it; the true one in bold."""
    (x, y), width, bold = corner, 1.3, color == RIGHT
    _bar(page, x, y, width, 0.24, TRACK)
    _bar(page, x, y, width * probability, 0.24, _blend(color, 0.25 if color == GREY else 0.45))
    share = f"{probability:.0%}"
    _write(page, x + width - 0.05, y, share, size=SMALL, align="right", bold=bold)
    room = width - 0.15 - _measure(share, SMALL, bold)
    _write(page, x + 0.05, y, label, size=SMALL, bold=bold, room=room)
