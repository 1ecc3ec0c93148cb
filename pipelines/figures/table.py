"""A page of named rows: a picture in the middle, numbers at the right."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.figures.page import (
    BODY,
    LABELS,
    MARGIN,
    MARKERS,
    NONE,
    SMALL,
    SPLITS,
    TEXT,
    WIDTH,
    Page,
    measure,
    shorten,
)

NAME = 2.2  # inches that a name may take


class Table(Page):
    """Page with a row per name and `columns` inches free at the right for numbers.

    The picture lies between `left` and `right`; `rows` are the middles of the rows, `head` that of
    the headings, `pitch` the height of a row, inches.
    """

    def __init__(
        self,
        title: str,
        subtitle: str,
        names: Iterable[object],
        columns: float,
        pitch: float | None = None,
    ) -> None:
        labels = [str(name) for name in names]
        self.pitch = pitch or (0.32 if len(labels) <= 25 else 0.22)
        self.head = BODY + 0.08
        top = BODY + 0.25
        super().__init__(title, subtitle, top + self.pitch * len(labels) + MARGIN)
        self.left = MARGIN + widest(labels, NAME) + 0.15
        self.right = WIDTH - MARGIN - columns
        self.rows = [top + self.pitch * (row + 0.5) for row in range(len(labels))]
        for y, label in zip(self.rows, labels, strict=True):
            self.write(self.left - 0.15, y, label, align="right", room=NAME)

    def column(self, index: int, count: int) -> float:
        """Right edge of one of `count` equal columns of numbers beside the picture."""
        return self.right + (WIDTH - MARGIN - self.right) / count * (index + 1)

    def heading(self, x: float, name: str) -> None:
        """Heading of a column of numbers; that of a split is also the legend of its colour."""
        label = LABELS.get(name, name)
        self.write(x, self.head, label, size=SMALL, align="right", bold=True)
        if name in SPLITS:
            mark = x - measure(label, SMALL, True) - 0.09
            self.axes.plot(
                [mark],
                [self.head],
                MARKERS[name],
                color=SPLITS[name],
                markersize=5.5,
                markeredgewidth=0,
            )


def widest(names: Sequence[str], limit: float, size: float = TEXT) -> float:
    """Inches that the longest name takes, at most `limit`."""
    return max((measure(shorten(name, limit, size), size) for name in names), default=0.0)


def percent(value: float) -> str:
    """`91.2%`, or a dash where there is no value."""
    return NONE if np.isnan(value) else f"{value:.1%}"
