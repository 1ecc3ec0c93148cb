"""Images with what was answered."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipelines.figures.page import (
    BODY,
    GREY,
    MARGIN,
    RIGHT,
    SMALL,
    TEXT,
    TRACK,
    WRONG,
    Page,
    blend,
    measure,
)

MISTAKES = 16
PREDICTIONS = 12


def mistakes(
    pixels: np.ndarray,
    truth: Sequence[str],
    answers: Sequence[str],
    confidence: np.ndarray,
    total: int = 0,
) -> Figure:
    """Gallery of at most MISTAKES wrongly answered images in the order given, most confident first.

    pixels: uint8 (n, height, width, 3), or 1 channel; confidence: (n,), 0..1, of the wrong answer;
    total: mistakes in all, where these are the first of more.
    """
    if len(pixels) == 0:
        return Page("No mistakes on the test images", "Every answer was right.", 1.1).figure
    shown, side = min(MISTAKES, len(pixels)), 1.8
    total = max(total, len(pixels))
    what = f"{shown} of {total} shown" if shown < total else f"{shown}"
    title = f"Mistakes on the test images ({what})"
    height = BODY + 2.4 * math.ceil(shown / 4) + MARGIN - 0.15
    page = Page(title, "The answer and its confidence; under it, the truth", height)
    for place in range(shown):
        x, y = MARGIN + 2.03 * (place % 4), BODY + 0.1 + 2.4 * (place // 4)
        sure = f"{confidence[place]:.0%}"
        page.write(x + side, y, sure, align="right", color=WRONG, bold=True)
        room = side - measure(sure, TEXT, True) - 0.1
        page.write(x, y, answers[place], color=WRONG, bold=True, room=room)
        page.write(x, y + 0.19, f"truth: {truth[place]}", color=RIGHT, room=side)
        page.image(x, y + 0.32, side, pixels[place])
    return page.figure


def predictions(
    pixels: np.ndarray, truth: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]
) -> Figure:
    """At most 12 images with their three most probable classes, and the true one wherever it is.

    pixels: uint8 (n, height, width, 3), or 1 channel; probabilities: (n, k), 0..1.
    """
    shown = min(PREDICTIONS, len(pixels))
    height = BODY + 1.5 * math.ceil(shown / 3) + MARGIN - 0.2
    subtitle = "The three most probable classes; ✓ marks the true one, orange a wrong answer"
    page = Page("Predictions", subtitle, height)
    for place in range(shown):
        x, y = MARGIN + 2.68 * (place % 3), BODY + 0.05 + 1.5 * (place // 3)
        page.image(x, y, 1.15, pixels[place])
        ranked = np.argsort(-probabilities[place], kind="stable")
        listed = [i for i in ranked if i in ranked[:3] or classes[i] == truth[place]]
        for row, i in enumerate(listed):
            right = classes[i] == truth[place]
            color = RIGHT if right else GREY if row else WRONG
            label = f"✓ {classes[i]}" if right else classes[i]
            corner = x + 1.25, y + 0.145 + 0.29 * row
            _draw_answer(page, *corner, label, probabilities[place, i], color)
    return page.figure


def _draw_answer(
    page: Page, x: float, y: float, label: str, probability: float, color: str
) -> None:
    """Bar of one class with its name and probability on it; the true one in bold."""
    width, bold = 1.3, color == RIGHT
    page.bar(x, y, width, 0.24, TRACK)
    page.bar(x, y, width * probability, 0.24, blend(color, 0.25 if color == GREY else 0.45))
    share = f"{probability:.0%}"
    page.write(x + width - 0.05, y, share, size=SMALL, align="right", bold=bold)
    room = width - 0.15 - measure(share, SMALL, bold)
    page.write(x + 0.05, y, label, size=SMALL, bold=bold, room=room)
