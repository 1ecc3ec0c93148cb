"""What a model is made of: a flow chart of its layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pipelines.figures.page import BODY, GREY, MARGIN, SMALL, Page, blend, measure, plural

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
MODELS = frozenset({"Functional", "Sequential", "Model"})
ACROSS, DOWN = 1.85, 0.72  # inches from box to box
HEIGHT = 0.48

Place = tuple[float, float]


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

    @property
    def heading(self) -> str:
        """The kind; the name where the kind only says that it is a model."""
        return self.name if self.kind in MODELS else self.kind

    @property
    def shape(self) -> str:
        """`32 x 32 x 64`, without the batch."""
        batch = len(self.output_shape) > 1 and self.output_shape[0] is None
        sides = self.output_shape[1:] if batch else self.output_shape
        return " x ".join("?" if side is None else str(side) for side in sides)

    @property
    def size(self) -> str:
        """`650,342` parameters, or `23.6 M` from ten millions on."""
        count = self.parameters
        return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:.1f} M"


def layer_flow(layers: Sequence[Layer], title: str) -> Figure:
    """Flow chart of a model's layers: down a column, then on at the head of the next one."""
    columns = min(5, max(1, math.ceil(len(layers) / 8)))
    rows = math.ceil(len(layers) / columns)
    width = max(5.9, 2 * MARGIN + ACROSS * columns - 0.25)
    total = plural(sum(layer.parameters for layer in layers), "parameter")
    subtitle = f"{plural(len(layers), 'layer')}, {total} (at the right of each box)"
    legend = _legend(layers, width)
    top = max((y for _, _, y in legend), default=BODY - 0.25) + 0.4
    page = Page(title, subtitle, top + DOWN * rows + MARGIN - 0.1, width)
    for group, x, y in legend:
        page.bar(x, y, 0.13, 0.13, GROUPS[group])
        page.write(x + 0.2, y, group, size=SMALL, color=GREY)
    box = 1.6 if columns > 1 else 2.4
    left = (width - ACROSS * (columns - 1) - box) / 2
    corners = [(left + ACROSS * (i // rows), top + DOWN * (i % rows)) for i in range(len(layers))]
    for start, end in pairwise(corners):
        _draw_arrow(page, start, end, box)
    for layer, corner in zip(layers, corners, strict=True):
        _draw_layer(page, layer, corner, box)
    return page.figure


def _legend(layers: Sequence[Layer], width: float) -> list[tuple[str, float, float]]:
    """Groups in use, each with its place."""
    used = {layer.group if layer.group in GROUPS else "other" for layer in layers}
    places, x, y = [], MARGIN, BODY + 0.05
    for group in (group for group in GROUPS if group in used):
        room = measure(group, SMALL) + 0.4
        if x + room > width - MARGIN + 0.2:
            x, y = MARGIN, y + 0.3
        places.append((group, x, y))
        x += room
    return places


def _draw_layer(page: Page, layer: Layer, corner: Place, width: float) -> None:
    """Box with the kind over the output shape and the parameters."""
    x, y = corner
    color = GROUPS.get(layer.group, GROUPS["other"])
    box = FancyBboxPatch(corner, width, HEIGHT, "round,pad=0,rounding_size=0.05")
    box.set(facecolor=blend(color, 0.22), edgecolor=color, linewidth=1.0)
    page.axes.add_patch(box)
    page.bar(x, y + HEIGHT / 2, 0.06, HEIGHT - 0.08, color)
    room = width - 0.19
    fitting = SMALL * room / measure(layer.heading, SMALL, True)
    size = min(SMALL, max(6.5, fitting))
    page.write(x + 0.13, y + 0.15, layer.heading, size=size, bold=True, room=room)
    page.write(x + width - 0.08, y + 0.34, layer.size, size=7.5, align="right", color=GREY)
    room = width - 0.28 - measure(layer.size, 7.5)
    page.write(x + 0.13, y + 0.34, layer.shape, size=7.5, room=room)


def _draw_arrow(page: Page, start: Place, end: Place, width: float) -> None:
    """Arrow between boxes: straight down, or round the foot and up to the next column's head."""
    (x, y), (to_x, to_y) = (start[0] + width / 2, start[1] + HEIGHT), (end[0] + width / 2, end[1])
    if to_x > x:
        lane, foot, above = start[0] + width + 0.125, y + 0.1, to_y - 0.16
        bend = [(x, y), (x, foot), (lane, foot), (lane, above), (to_x, above)]
        page.axes.plot(*zip(*bend, strict=True), color=GREY, linewidth=1, zorder=0)
        x, y = to_x, above
    head = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    line = {"color": GREY, "linewidth": 1}
    page.axes.annotate("", (to_x, to_y), (x, y), arrowprops=head | line)
