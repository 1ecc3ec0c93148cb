"""The pictures of `benchmarks.drift`: plain numbers in, a `Figure` out."""

import math
from collections.abc import Mapping, Sequence
from itertools import count

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from pipelines.figures.page import BODY, GREY, INK, LINE, MARGIN, NONE, SMALL, WIDTH, Page, blend

# https://sronpersonalpages.nl/~pault/, the bright scheme: told apart in any colour vision.
COLORS = ("#222222", "#CCBB44", "#EE6677", "#4477AA", "#228833", "#AA3377")
MARKERS = ("o", "v", "^", "s", "D", "P")
STRONG = "#004488"  # of a cell with 1
ROW = 0.32  # inches
NAMES = 2.2  # inches, of the shifts
PANEL, GAP = 2.1, 0.62  # inches
ACROSS = 3  # panels in a row
LEGEND = 0.24  # inches a line


def by_shift(
    shifts: Sequence[str], shares: Mapping[str, Sequence[float | None]], size: int
) -> Figure:
    """A table of shares (0..1, of each detector one a shift), the darker the higher."""
    head = BODY + 0.3
    title = f"How often a shift of {size} images is found"
    subtitle = "Share of checks that say drift, each detector at its own level"
    page = Page(title, subtitle, head + ROW * len(shifts) + MARGIN)
    width = (WIDTH - NAMES - 2 * MARGIN) / len(shares)
    for column, (detector, values) in enumerate(shares.items()):
        left = MARGIN + NAMES + column * width
        for line, part in enumerate(_halves(detector)):
            y = BODY + 0.14 * line
            page.write(left + width / 2, y, part, size=SMALL, align="center", room=width)
        for row, value in enumerate(values):
            y = head + (row + 0.5) * ROW
            if value is not None:
                page.bar(
                    left + 0.02, y, width - 0.04, ROW - 0.04, blend(STRONG, 0.08 + 0.8 * value)
                )
            text = NONE if value is None else f"{value:.2f}"
            color = "white" if (value or 0) > 0.5 else INK
            page.write(left + width / 2, y, text, align="center", color=color)
    for row, name in enumerate(shifts):
        page.write(MARGIN, head + (row + 0.5) * ROW, name, room=NAMES - 0.1)
    return page.figure


def by_size(
    parts: Mapping[str, Mapping[str, Mapping[int, float]]], nominal: float | None = None
) -> Figure:
    """A panel a part: shares (0..1) of each detector by number of images; nominal: a line."""
    detectors = list(next(iter(parts.values())))
    rows = math.ceil(len(parts) / ACROSS)
    legend = LEGEND * math.ceil(len(detectors) / ACROSS)
    body = BODY + legend + 0.2
    title = "False alarms by number of images" if nominal else "Power by number of images"
    subtitle = "Share of checks that say drift, each detector at its own level"
    page = Page(title, subtitle, body + rows * (PANEL + GAP) + 0.1)
    width = (WIDTH - 2 * MARGIN - (ACROSS - 1) * GAP - 0.3) / ACROSS
    if len(parts) == 1:
        width = WIDTH - 2 * MARGIN - 0.3
    for place, (name, lines) in enumerate(parts.items()):
        row, column = divmod(place, ACROSS)
        x, y = MARGIN + 0.3 + column * (width + GAP), body + row * (PANEL + GAP)
        _panel(page.inset(x, y, width, PANEL), name, lines, nominal)
    for place, detector in enumerate(detectors):
        row, column = divmod(place, ACROSS)
        x, y = MARGIN + column * (WIDTH - 2 * MARGIN) / ACROSS, BODY + row * LEGEND
        page.axes.plot([x, x + 0.3], [y, y], color=COLORS[place], marker=MARKERS[place], ms=4)
        page.write(x + 0.4, y, detector, size=SMALL)
    return page.figure


def _panel(
    axes: Axes, name: str, lines: Mapping[str, Mapping[int, float]], nominal: float | None
) -> None:
    for points, color, marker, order in zip(
        lines.values(), COLORS, MARKERS, count(9, -1), strict=False
    ):
        (line,) = axes.plot(list(points), list(points.values()), ms=4, lw=1.2)
        line.set(color=color, marker=marker, zorder=order)  # the first one in front
    if nominal is not None:
        axes.axhline(nominal, color=GREY, lw=0.8, ls="--")
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.spines[:].set_color(LINE)
    axes.set_xscale("log")
    sizes = sorted({size for points in lines.values() for size in points})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=SMALL, color=INK)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.tick_params(labelsize=SMALL, length=0)
    axes.grid(axis="y", color=LINE, lw=0.5)
    axes.set_title(name, fontsize=SMALL + 1, color=INK, loc="left")


def _halves(words: str) -> list[str]:
    """The first word above the others."""
    first, _, rest = words.partition(" ")
    return [first, rest]
