"""Which classes are taken for which."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pipelines.figures.page import (
    BODY,
    GREY,
    INK,
    MARGIN,
    NONE,
    RIGHT,
    SMALL,
    TEXT,
    TRACK,
    WIDTH,
    WRONG,
    Page,
    blend,
    measure,
)
from pipelines.figures.table import widest

COUNTED = 12  # the most classes with room for counts, and for slanted names
WRITTEN = 30  # the most classes with room for text in the cells
NAME = 1.6  # inches that a name may take
GAP = 0.3  # inches between panels
ZERO = "#A8A8A8"
STRONG = 0.55  # the share from which on the text of a cell is white


@dataclass(frozen=True)
class _Grid:
    """Where the panels of a confusion matrix lie, inches; all of the same side."""

    classes: Sequence[str]
    panels: int

    @property
    def size(self) -> float:
        """Points of the names."""
        return TEXT if len(self.classes) <= WRITTEN else 6.5

    @property
    def left(self) -> float:
        return MARGIN + 0.25 + widest(self.classes, NAME, self.size) + 0.1

    @property
    def cell(self) -> float:
        """As large as the page allows, never too small for the names beside it."""
        room = (WIDTH - MARGIN - self.left - GAP * (self.panels - 1)) / self.panels
        least = 0.29 if len(self.classes) <= WRITTEN else 0.13
        return min(1.1, max(least, room / len(self.classes)))

    @property
    def side(self) -> float:
        return self.cell * len(self.classes)

    @property
    def top(self) -> float:
        return BODY + 0.3

    @property
    def drop(self) -> float:
        """Height of the slanted or upright names under a panel."""
        slant = 0.75 if len(self.classes) <= COUNTED else 1.0
        return slant * widest(self.classes, NAME, self.size) + 0.2

    @property
    def width(self) -> float:
        panels = self.panels * self.side + GAP * (self.panels - 1)
        return max(5.0, self.left + panels + MARGIN)

    @property
    def height(self) -> float:
        return self.top + self.side + self.drop + 0.75


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix: counts and shares of each row up to 12 classes, then the shares alone.

    matrix: int64 (k, k), rows the truth, columns the answers. Above 30 classes colour alone speaks.
    """
    written = len(classes) <= WRITTEN
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    panels = [("Share of each true class" + ", %" * written, _percents(shares))]
    if len(classes) <= COUNTED:
        panels.insert(0, ("Images", matrix.astype(str)))
    total = int(matrix.sum())
    accuracy = f"{np.trace(matrix) / total:.1%} of {total:,} images right" if total else "No images"
    grid = _Grid(classes, len(panels))
    page = Page("Answers against the truth", accuracy, grid.height, grid.width)
    for place, (heading, cells) in enumerate(panels):
        x = grid.left + place * (grid.side + GAP)
        page.write(x, BODY + 0.1, heading, bold=True)
        axes = page.inset(x, grid.top, grid.side, grid.side)
        axes.imshow(_shade(shares), interpolation="nearest", aspect="auto")
        axes.set_zorder(-1)  # under what is written on the page
        if written:
            _fill_cells(page, grid, x, cells, shares)
        _name_columns(page, grid, x)
    _name_rows(page, grid)
    _draw_key(page)
    return page.figure


def _percents(shares: np.ndarray) -> np.ndarray:
    """Whole per cent of each cell; a dash in the row of a class without images."""
    whole = np.char.mod("%.0f", 100 * shares)
    return np.where(np.isnan(shares), NONE, whole)


def _shade(shares: np.ndarray) -> np.ndarray:
    """Colour of each cell, (k, k, 3): by the root of its share, so that rare mistakes show."""
    strength = np.sqrt(np.nan_to_num(shares))[..., None]
    on_diagonal = np.eye(len(shares), dtype=bool)[..., None]
    color = np.where(on_diagonal, to_rgb(RIGHT), to_rgb(WRONG))
    shaded = 1 - strength * (1 - color)
    return np.where(np.isnan(shares)[..., None], to_rgb(TRACK), shaded)


def _fill_cells(page: Page, grid: _Grid, x: float, cells: np.ndarray, shares: np.ndarray) -> None:
    """Text of each cell, as large as the cell allows; zeros stay in the background."""
    longest = max(2, *map(len, cells.flat))
    size = min(TEXT + 1, 0.9 * 72 * grid.cell / (0.65 * longest))
    for (row, column), cell in np.ndenumerate(cells):
        middle = x + grid.cell * (column + 0.5), grid.top + grid.cell * (row + 0.5)
        color = "white" if shares[row, column] > STRONG else ZERO if cell in {"0", NONE} else INK
        page.write(*middle, str(cell), size=size, align="center", color=color)


def _name_columns(page: Page, grid: _Grid, x: float) -> None:
    """Answers under a panel, slanted up to 12 classes, upright above."""
    foot = grid.top + grid.side + 0.07
    slanted = len(grid.classes) <= COUNTED
    for column, name in enumerate(grid.classes):
        page.write(
            x + grid.cell * (column + 0.5),
            foot,
            name,
            size=grid.size,
            align="right",
            room=NAME,
            rotation=45 if slanted else 90,
            rotation_mode="anchor",
            va="top" if slanted else "center",
        )
    middle = x + grid.side / 2
    page.write(middle, foot + grid.drop, "answer", size=SMALL, align="center", color=GREY)


def _name_rows(page: Page, grid: _Grid) -> None:
    """The true classes, left of the first panel."""
    for row, name in enumerate(grid.classes):
        y = grid.top + grid.cell * (row + 0.5)
        page.write(grid.left - 0.08, y, name, size=grid.size, align="right", room=NAME)
    middle = grid.top + grid.side / 2
    page.write(MARGIN + 0.05, middle, "truth", size=SMALL, align="center", color=GREY, rotation=90)


def _draw_key(page: Page) -> None:
    """What the two colours mean, with the shades of four shares."""
    y = page.height - 0.27
    for left, label, color in ((MARGIN, "right", RIGHT), (MARGIN + 2.3, "confused", WRONG)):
        page.write(left, y, label, size=SMALL, color=GREY)
        x = left + measure(label, SMALL) + 0.1
        for share in (0.01, 0.1, 0.5, 1.0):
            page.bar(x, y, 0.39, 0.2, blend(color, math.sqrt(share)))
            ink = "white" if share > STRONG else INK
            page.write(x + 0.195, y, f"{share:.0%}", size=7, color=ink, align="center")
            x += 0.4
