"""Which rows a check compares: the draws of `benchmarks.drift`.

A draw without drift is a random split of the images that no training saw, labelled and not: as
many as the model was tested on are the reference, some of the rest the current images. So both
sides come from one distribution by construction, whatever the collection is like. A shift is done
to the current images alone; a share of cats and dogs takes the place of as many of them.

Classes go missing or come twice as often by their right labels, so that those draws split the
labelled images alone, in two halves; where a half has too few images, there is no draw.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.frames import Numbers, Rows
from benchmarks.shifts import FOREIGN, FOREIGN_AS_THEY_ARE, NONE, SEED

PIXELS = ("noise 25", "blur 2", "dark x0.5", "JPEG 10", "rotation 5")
MIXES = {
    "cats and dogs 5%": (FOREIGN, 0.05),
    "cats and dogs 10%": (FOREIGN, 0.1),
    "cats and dogs 25%": (FOREIGN, 0.25),
    "cats and dogs 10%, own size": (FOREIGN_AS_THEY_ARE, 0.1),
}
MISSING, DOUBLED = "one class missing", "one class doubled"
POWER = (*PIXELS, *MIXES, MISSING, DOUBLED)
# What the estimate of the accuracy is taught (`pipelines.correctness`), and what it never saw.
TAUGHT = (
    *("noise 10", "noise 25", "noise 50"),
    *("blur 1", "blur 2", "blur 4"),
    *("dark x0.7", "dark x0.5", "dark x0.3"),
    "JPEG 10",
    "a third covered",
)
UNTAUGHT = ("upside down", "salt and pepper 5%")
ESTIMATED = (NONE, *TAUGHT, *UNTAUGHT)


@dataclass(frozen=True)
class Draw:
    """Rows of the reference and of the current images, by their place in the table of all rows."""

    reference: Numbers
    current: Numbers


def draws(rows: Rows, name: str, size: int, count: int) -> list[Draw]:
    """`count` draws of `size` current images after the shift `name`; none where it has too few."""
    found = (_draw(rows, name, size, number) for number in range(count))
    return [draw for draw in found if draw is not None]


def labelled(rows: Rows, name: str, size: int, count: int) -> list[Draw]:
    """Draws of the labelled images alone, the shift `name` done to the current ones."""
    start, halves = rows.starts[name], (_halves(rows, number) for number in range(count))
    return [Draw(reference, start + rest[:size]) for reference, rest in halves]


def _draw(rows: Rows, name: str, size: int, number: int) -> Draw | None:
    if name in (MISSING, DOUBLED):
        return _classes(rows, name, size, number)
    order = np.random.default_rng((SEED, number)).permutation(rows.images)
    reference, rest = order[: rows.labelled], order[rows.labelled :]
    if len(rest) < size:
        return None
    if name not in MIXES:
        return Draw(reference, rows.starts[name] + rest[:size])
    foreign, share = MIXES[name]
    strangers = np.random.default_rng((SEED, number)).permutation(rows.foreign)
    strangers = rows.starts[foreign] + strangers[: round(share * size)]
    return Draw(reference, np.concatenate([rest[: size - len(strangers)], strangers]))


def _classes(rows: Rows, name: str, size: int, number: int) -> Draw | None:
    """The class is another with every draw."""
    reference, rest = _halves(rows, number)
    truth = rows.truth
    chosen = truth[rest] == rows.classes[number % len(rows.classes)]
    of_class, others = rest[chosen], rest[~chosen]
    twice = 0 if name == MISSING else round(2 * chosen.mean() * size)
    if len(of_class) < twice or len(others) < size - twice:
        return None
    return Draw(reference, np.concatenate([of_class[:twice], others[: size - twice]]))


def _halves(rows: Rows, number: int) -> tuple[Numbers, Numbers]:
    order = np.random.default_rng((SEED, number)).permutation(rows.labelled)
    middle = rows.labelled // 2
    return order[:middle], order[middle:]
