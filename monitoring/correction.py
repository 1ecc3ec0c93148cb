"""P-values corrected for being many, by what random ways to part the same rows give.

Westfall and Young 1993, Resampling-based multiple testing: rejecting those below alpha keeps the
chance of any false alarm below alpha, for any number of rows, however the tests depend on each
other and however roughly each says its own p-value: exactly where all rows are parted, nearly
where a part of them is. Tests that say nearly the same cost nearly nothing, which Bonferroni and
Holm do not know.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]

DRAWS = 999  # the smallest corrected p-value is 1 / (1 + DRAWS)
SIDE = 2000  # rows a side that are parted at random, at most
CELLS = 1_000_000_000  # draws x rows x tests, about: so many take some ten seconds


@dataclass(frozen=True)
class Sample:
    """Rows of both sides, all or a random part, and ways to part them.

    reference, current: positions of the rows, empty where it is all of them; draws: (1 + DRAWS,
    rows), 1 for a row that counts as current, the first as it is.
    """

    reference: NDArray[np.int64]
    current: NDArray[np.int64]
    draws: NDArray[np.float32]
    is_whole: bool

    @classmethod
    def of(cls, reference: int, current: int, tests: int) -> "Sample":
        """For sides of so many rows, fewer of them the more tests there are.

        A test's p-value hardly depends on the number of rows where nothing has changed, so those
        of a part stand for those of all; with up to SIDE rows a side it is all.
        """
        generator = np.random.default_rng(0)
        most = max(500, min(SIDE, CELLS // (2 * DRAWS * max(1, tests))))
        sides = [
            np.sort(generator.choice(size, min(size, most), replace=False))
            for size in (reference, current)
        ]
        first = observed(len(sides[0]), len(sides[1]))
        first = first.astype(np.float32)
        draws = generator.permuted(np.repeat(first, DRAWS, axis=0), axis=1)
        whole = max(reference, current) <= most
        return cls(sides[0], sides[1], np.concatenate([first, draws]), whole)

    def parts(self, reference: Values, current: Values) -> tuple[Values, Values]:
        """The sample's rows of both sides."""
        return reference[self.reference], current[self.current]

    def take(self, reference: Values, current: Values) -> Values:
        """The sample's rows of both sides, one after the other."""
        return np.concatenate(self.parts(reference, current))


def observed(reference: int, current: int) -> NDArray[np.float64]:
    """(1, rows): the rows of the reference first, as they are. Float64 counts any number."""
    draws = np.zeros((1, reference + current))
    draws[:, reference:] = 1
    return draws


def step_down(
    observed: NDArray[np.float64], random: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Corrected p-values (tests,) by the step-down minP procedure.

    observed: (tests,), random: (draws, tests), p-values; weights: (tests,), positive: a test of
    twice the weight may raise the alarm at twice the p-value.
    """
    ratios, drawn = observed / weights, random / weights
    order = np.argsort(ratios, kind="stable")
    smallest = np.minimum.accumulate(drawn[:, order][:, ::-1], axis=1)[:, ::-1]
    as_small = 1 + (smallest <= ratios[order] * (1 + 1e-12)).sum(axis=0)
    corrected = np.empty(len(observed))
    corrected[order] = np.maximum.accumulate(as_small / (1 + len(random)))
    return corrected
