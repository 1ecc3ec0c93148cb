"""Pictures of the report: inline SVG, in the page's own colours, light and dark.

Shapes alone are drawn, in a box that stretches to the width there is; every word is HTML beside
it, so it keeps its size on a phone, and a class may be named in any script. Lines and dots keep
their width as they are stretched. Each function returns HTML; the same input gives the same text.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.words import Numbers, name_html, percent, text_html

BINS = 24
TAIL = 0.005  # share of the values at either end that may lie beyond the axis
HEIGHT = 100  # of a drawing, in its own units; its width is the number of bins, or WIDTH
WIDTH = 400
DOTS = 300  # of a cloud, a side

Tick = tuple[float, str]  # place on the axis, 0..1, and its words


def histogram(reference: Numbers, current: Numbers, words: str, *, share: bool) -> str:
    """Share of images by value, the reference filled and the current ones in front of it.

    share: the values are 0..1. Values beyond the axis count in its first and last bar.
    """
    low, high = (0.0, 1.0) if share else _range(reference, current)
    heights = [_heights(side, low, high) for side in (reference, current)]
    top = _ceiling(max(side.max() for side in heights))
    drawn = (
        f'<path class="{name}" d="{_steps(side / top)}"/>'
        for name, side in zip(("before", "now"), heights, strict=True)
    )
    across = [((mark - low) / (high - low), _mark(mark, share=share)) for mark in ticks(low, high)]
    up = [(0.0, "0"), (0.5, _mark(top / 2, share=True)), (1.0, _mark(top, share=True))]
    return _plot("".join(drawn), BINS, across, up, words)


def bars(table: pd.DataFrame, caption: str, most: int) -> str:
    """Two bars for each label, with their shares.

    table: `reference` and `current`, 0..1, by label; the first `most` rows are drawn.
    """
    shown = table.head(most)
    full = max(float(shown.to_numpy().max(initial=0.0)), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{name_html(label)}<td>'
        f"{_bar('before', before, full)}{_bar('now', now, full)}"
        for label, before, now in shown.itertuples()
    )
    return (
        f'<table class="bars"><caption class="unseen">{text_html(caption)}</caption>'
        '<colgroup><col class="name"><col></colgroup><thead class="unseen">'
        '<tr><th scope="col">Class<th scope="col">Reference, then now</thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def cloud(reference: Numbers, current: Numbers, words: str) -> str:
    """Rows of numbers as dots on the two directions in which both sides together vary most.

    reference, current: (images, numbers), of about `DOTS` images each.
    """
    both = np.concatenate([reference, current])
    _, _, directions = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    places = (both - both.mean(axis=0)) @ directions[:2].T
    places *= np.sign(directions[:2, 0]) + (directions[:2, 0] == 0)  # as their signs are arbitrary
    low, high = np.quantile(places, TAIL, axis=0), np.quantile(places, 1 - TAIL, axis=0)
    places = (np.clip(places, low, high) - low) / np.maximum(high - low, 1e-9)
    drawn = (
        f'<path class="dots {name}" d="{_dots(side)}"/>'
        for name, side in zip(("before", "now"), np.split(places, [len(reference)]), strict=True)
    )
    return _plot("".join(drawn), WIDTH, [], [], words)


def line(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    marked: Sequence[float],
    across: Sequence[Tick],
    words: str,
    level: float | None = None,
    *,
    shares: bool = True,
) -> str:
    """Values over time.

    series: (name in the style sheet, points); a point is its place 0..1 and its value 0..1.
    marked: places of the checks that found drift. level: a value to draw a dashed line at.
    shares: the values are shown in percent, and the axis lies close around them; else it is 0..1.
    """
    found = [value for _, points in series for _, value in points]
    low, high = _around([*found, *([] if level is None else [level])]) if shares else (0.0, 1.0)
    marks = ticks(low, high, 4)

    def place(value: float) -> float:
        return (value - low) / (high - low)

    drifted = "".join(
        f'<path class="mark" d="M{WIDTH * x:.1f} 0V{HEIGHT}"/>' for x in sorted(set(marked))
    )
    dashed = "" if level is None else f'<path class="level" d="{_across(place(level))}"/>'
    drawn = "".join(_curve(name, [(x, place(y)) for x, y in points]) for name, points in series)
    up = [(place(mark), _mark(mark, share=shares)) for mark in marks]
    return _plot(drifted + dashed + drawn, WIDTH, across, up, words)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, as many as there can be up to `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(place * step, 12) for place in range(first, last + 1)]
    return []


def _mark(value: float, *, share: bool) -> str:
    """Words at a tick: no more digits than tell it from its neighbours."""
    return f"{100 * value:.4g}%" if share else f"{value:,.6g}"


def _range(reference: Numbers, current: Numbers) -> tuple[float, float]:
    sides = reference, current
    low = min(float(np.quantile(side, TAIL)) for side in sides)
    high = max(float(np.quantile(side, 1 - TAIL)) for side in sides)
    room = max(0.5, 1e-6 * abs(low)) if high - low <= 1e-9 * max(abs(low), abs(high)) else 0.0
    return low - room, high + room


def _heights(side: Numbers, low: float, high: float) -> NDArray[np.float64]:
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(side, low, high), edges)
    return np.asarray(counts / len(side))


def _ceiling(share: float) -> float:
    """The round share at or above one, for the end of an axis."""
    steps = (0.02, 0.04, 0.06, 0.1, 0.16, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
    return next((step for step in steps if step >= share), 1.0)


def _steps(shares: Iterable[float]) -> str:
    tops = "".join(f"V{HEIGHT * (1 - s):.1f}H{i + 1}" for i, s in enumerate(shares))
    return f"M0 {HEIGHT}{tops}V{HEIGHT}Z"


def _bar(name: str, share: float, full: float) -> str:
    width = 100 * share / full
    return (
        f'<div class="pair"><i class="{name}" style="width:calc((100% - 3.6em)*{width / 100:.3f})">'
        f"</i><span>{percent(share)}</span></div>"
    )


def _curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    through = "L".join(f"{WIDTH * x:.1f} {HEIGHT * (1 - y):.1f}" for x, y in points)
    dots = f'<path class="dots {name}" d="{_dots(np.array(points).reshape(-1, 2))}"/>'
    return f'<path class="line {name}" d="M{through}"/>{dots}' if points else ""


def _dots(places: NDArray[np.float64]) -> str:
    """Lines of no length: their round ends are dots, however the box is stretched."""
    return "".join(f"M{WIDTH * x:.1f} {HEIGHT * (1 - y):.1f}h.01" for x, y in places)


def _across(height: float) -> str:
    return f"M0 {HEIGHT * (1 - height):.1f}H{WIDTH}"


def _around(found: Sequence[float]) -> tuple[float, float]:
    """An axis around shares: five points at least, so that noise looks as small as it is."""
    middle, reach = (min(found) + max(found)) / 2, (max(found) - min(found)) / 2
    reach = max(0.025, 1.15 * reach)
    middle = min(max(middle, reach), max(1 - reach, 0.5))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _plot(drawn: str, width: int, across: Sequence[Tick], up: Sequence[Tick], words: str) -> str:
    """Shapes with their axes; `words` say to who cannot see them what they show."""
    grid = "".join(
        f'<path class="grid" d="M0 {HEIGHT * (1 - place):.1f}H{width}"/>' for place, _ in up
    )
    return (
        f'<div class="plot"><div class="up" aria-hidden="true">{_labels(up, "bottom")}</div>'
        f'<svg viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{text_html(words)}">{grid}{drawn}</svg>'
        f'<div class="across" aria-hidden="true">{_labels(across, "left", _end)}</div></div>'
    )


def _labels(marks: Sequence[Tick], side: str, style: Callable[[float], str] = lambda _: "") -> str:
    return "".join(
        f'<span{style(place)} style="{side}:{100 * place:.1f}%">{text_html(text)}</span>'
        for place, text in marks
    )


def _end(place: float) -> str:
    """Words at an end of the axis stay inside it."""
    return ' class="first"' if place < 0.06 else ' class="last"' if place > 0.94 else ""
