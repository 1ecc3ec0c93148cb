"""The page that every picture is drawn on: its colours, its heading, and what is put on it.

Positions are inches from the page's upper left corner, and every text is measured before it is
placed, so that long class names are shortened rather than clipped. A split, and whether an answer
is right, has one colour in all pictures; the splits' three are the high-contrast scheme of
https://sronpersonalpages.nl/~pault/, told apart in any colour vision.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath

from serving.durable import replacing

SPLITS = {"train": "#004488", "val": "#DDAA33", "test": "#BB5566"}
MARKERS = {"train": "o", "val": "D", "test": "s"}
LABELS = {"train": "train", "val": "validation", "test": "test"}
RIGHT, WRONG = "#1B7F79", "#C4501B"
INK, GREY, LINE, TRACK = "#222222", "#6B6B6B", "#D5D5D5", "#F1F1F1"

DPI = 120
WIDTH = 8.5
MARGIN = 0.3
BODY = 0.85  # where the page begins under its heading
TEXT, SMALL = 9.0, 8.0
NONE = "\u2013"  # a dash, where there is no value

Color = str | tuple[float, float, float]


class Page:
    """White page with its heading; `axes` count inches, to the right and downwards."""

    def __init__(self, title: str, subtitle: str, height: float, width: float = WIDTH) -> None:
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.width, self.height = width, height
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        room = width - 2 * MARGIN
        self.write(MARGIN, 0.34, title, size=13, bold=True, room=room)
        self.write(MARGIN, 0.6, subtitle, color=GREY, room=room)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = TEXT,
        color: Color = INK,
        align: str = "left",
        bold: bool = False,
        room: float = math.inf,
        **style: Any,
    ) -> None:
        """Text with its middle at height y, shortened to `room` inches, dollars meaning dollars."""
        line = shorten(text, room, size, bold).replace("$", r"\$")
        style = {"va": "center", "fontweight": "bold" if bold else "normal"} | style
        self.axes.text(x, y, line, fontsize=size, color=color, ha=align, **style)

    def bar(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """Bar from x to the right, its middle at height y."""
        corner = (x, y - height / 2)
        self.axes.add_patch(Rectangle(corner, width, height, color=color, linewidth=0))

    def inset(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes without ticks or frame at a place of the page."""
        left, bottom = x / self.width, 1 - (y + height) / self.height
        axes = self.figure.add_axes((left, bottom, width / self.width, height / self.height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def image(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """One image, grey or coloured, whole and undistorted; small ones keep their pixels."""
        axes = self.inset(x, y, side, side)
        grey = pixels.ndim == 2 or pixels.shape[-1] == 1
        axes.imshow(
            pixels.reshape(pixels.shape[:2]) if grey else pixels,
            cmap="gray" if grey else None,
            vmin=0,
            vmax=255,
            interpolation="nearest" if min(pixels.shape[:2]) < 32 else "bicubic",
        )
        axes.set_anchor("NW")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG in one step: a reader sees the old file or the whole new one.

    Raises FileNotFoundError where the folder of `path` does not exist.
    """
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")


@lru_cache(maxsize=4096)
def measure(text: str, size: float = TEXT, bold: bool = False) -> float:
    """Width of one line in inches, with a little to spare for the hinting of the renderer."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return 1.03 * float(width) / 72


def shorten(text: str, room: float, size: float = TEXT, bold: bool = False) -> str:
    """The text on one line, or as much of it as fits `room` inches, then an ellipsis."""
    line = " ".join(text.split())
    if math.isinf(room) or measure(line, size, bold) <= room:
        return line
    line = line[:120]
    while line and measure(f"{line}…", size, bold) > room:
        line = line[:-1]
    return f"{line.rstrip()}…"


def blend(color: str, strength: float) -> Color:
    """The colour on white, at a strength of 0..1."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def plural(count: int, one: str, many: str = "") -> str:
    """`1 layer`, `2 layers`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
