"""What a detector of drift asks: pure functions of the values of two sides.

A test takes the values of all rows and `draws`, ways to part them into reference and current, and
answers for each: the first draw is the one to judge, the others are random. An effect takes the
values of both sides and says how large the difference is, as the least share of images that must
have changed, 0..1. `monitoring.drift` has the table of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

Values = NDArray[Any]  # (rows,), or (rows, width)
Draws = NDArray[np.floating]  # (draws, rows): 1 for a current row, 0 for one of the reference

EXPECTED = 5  # counts: below, the chi-squared distribution is no longer a fair approximation
TABLES = 19_999  # random ones of the exact test
ROUNDING = 1e-5  # of a squared distance between vectors, relative to their squared lengths
TAILS = (0.005, 0.01, 0.02, 0.05)  # shares of all rows that count as the most novel


@dataclass(frozen=True)
class Outcomes:
    """What one test says of each draw. p_value: 0..1."""

    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]


@dataclass(frozen=True)
class Files:
    """How many files a side has, and how many of them cannot be read."""

    reference: int
    reference_unreadable: int
    current: int
    unreadable: int


def chi_squared(values: Values, draws: Draws) -> Outcomes:
    """Pearson's chi-squared test of homogeneity on categories.

    Where an expected count is below `EXPECTED` (Cochran 1954, doi 10.2307/3001666), the p-value
    is instead the share of `TABLES` tables with the same margins that differ at least as much: a
    Monte Carlo exact test, counted so that it never says 0 (Phipson and Smyth 2010,
    doi 10.2202/1544-6115.1585).
    """
    codes = pd.factorize(values)[0]
    counts = np.bincount(codes)
    drawn = np.stack([np.bincount(codes, draw, len(counts)) for draw in draws])
    statistic = _pearson(drawn, counts)
    current = int(draws[0].sum())
    expected = counts.min() * min(current, len(codes) - current) / len(codes)
    if len(counts) == 1:
        return Outcomes(statistic, np.ones(len(draws)))
    if expected >= EXPECTED:
        return Outcomes(statistic, stats.chi2.sf(statistic, len(counts) - 1))
    return Outcomes(statistic, _exact(statistic, counts, current))


def kolmogorov_smirnov(values: Values, draws: Draws) -> Outcomes:
    """Two-sample Kolmogorov-Smirnov test on numbers, two-sided, with its asymptotic p-value.

    On the probabilities of a classifier it is black-box shift detection (Lipton et al. 2018,
    arXiv:1802.03916), the best of the detectors that Rabanser et al. 2019 (arXiv:1810.11953)
    compare. Ties make it conservative: a constant column has p-value 1. The statistic is the
    largest difference of the cumulative shares, 0..1.
    """
    order = np.argsort(values, kind="stable")
    ends = np.append(np.diff(values[order]) != 0, True)  # of equal values, the last
    rank = (np.flatnonzero(ends) + 1).astype(draws.dtype)
    current = float(draws[0].sum())
    others = len(values) - current
    below = np.cumsum(draws[:, order], axis=1)[:, ends]
    apart = np.abs(below * (1 / current + 1 / others) - rank / others)
    distance = apart.max(axis=1).astype(np.float64)
    return Outcomes(
        distance, special.kolmogorov(distance * np.sqrt(current * others / len(values)))
    )


def upper_tail(values: Values, draws: Draws) -> Outcomes:
    """Whether the largest values are current ones more often than by chance, as few as they are.

    Of the rows in each of `TAILS`, the number of current ones against the hypergeometric
    distribution (Fisher's exact test), corrected for the number of tails (Bonferroni): a few
    foreign images among many are found here, where the whole distribution hardly moves. The
    statistic is the largest excess, in standard deviations.
    """
    current, total = int(draws[0].sum()), len(values)
    p_values, excesses = [], []
    for share in TAILS:
        top = values >= np.quantile(values, 1 - share)
        found, size = draws[:, top].sum(axis=1), int(top.sum())
        p_values.append(stats.hypergeom.sf(found - 1, total, size, current))
        among = current / total
        variance = size * among * (1 - among) * (total - size) / max(1, total - 1)
        excesses.append((found - size * current / total) / max(np.sqrt(variance), 1e-12))
    p_value = np.minimum(1, len(TAILS) * np.min(p_values, axis=0))
    return Outcomes(np.max(excesses, axis=0).astype(np.float64), p_value)


def maximum_mean_discrepancy(values: Values, draws: Draws) -> Outcomes:
    """Kernel two-sample test on vectors (rows, width): squared MMD, Gaussian kernel.

    Gretton et al. 2012, A kernel two-sample test, JMLR 13, bandwidth by the median of the squared
    distances. The p-value is that of a Pearson III distribution with the mean, variance and
    skewness of the random draws (Minas and Montana 2014, doi 10.1002/sam.11236), so that it is not
    bounded by their number.
    """
    kernel = _centred(_kernel(values))
    current = float(draws[0].sum())
    scale = (len(values) / (current * (len(values) - current))) ** 2
    statistic = ((draws @ kernel) * draws).sum(axis=1, dtype=np.float64) * scale
    return Outcomes(statistic, _pearson_iii(statistic))


def variation(reference: Values, current: Values) -> float:
    """Total variation distance of categories, 0..1, the smallest share of images whose label would
    have to change (Gibbs and Su 2002, doi 10.1111/j.1751-5823.2002.tb00178.x).
    """
    codes, labels = pd.factorize(np.concatenate([reference, current]))
    shares = [
        np.bincount(side, minlength=len(labels)) / len(side)
        for side in np.split(codes, [len(reference)])
    ]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def distance(reference: Values, current: Values) -> float:
    """The largest difference of the cumulative shares, 0..1: the KS statistic, which is the least
    share of images that must have changed.
    """
    draws = np.repeat(np.array([[0, 1]], np.float32), [len(reference), len(current)], axis=1)
    return float(kolmogorov_smirnov(np.concatenate([reference, current]), draws).statistic[0])


def excess(reference: Values, current: Values) -> float:
    """By how much more of the current rows lie above what TAILS of the reference do, 0..1."""
    bounds = np.quantile(reference, [1 - share for share in TAILS])
    return max(0.0, *(float((current > b).mean() - (reference > b).mean()) for b in bounds))


def witness(reference: Values, current: Values) -> float:
    """Difference of the cumulative shares along the witness function of the MMD, 0..1.

    The witness tells where in space the current vectors are denser (Gretton et al. 2012, section
    2.3). It is made from every other row and measured on the rest, both ways, so that it cannot
    find what chance put into the rows that made it.
    """
    kernel = _kernel(np.concatenate([reference, current]))
    before, now = np.split(np.arange(len(kernel)), [len(reference)])
    found = []
    for making, held in ((0, 1), (1, 0)):
        denser = kernel[:, now[making::2]].mean(axis=1) - kernel[:, before[making::2]].mean(axis=1)
        denser = np.round(denser, 6)  # equal rows differ beyond, by where in the matrix they lie
        found.append(_one_sided(denser[before[held::2]], denser[now[held::2]]))
    return float(np.mean(found))


def unreadable(files: Files) -> tuple[float, float, float]:
    """Fisher's exact test, one-sided, of whether more files cannot be read than in the reference.

    Returns the share that cannot be read, the p-value, and the excess of the share.
    """
    bad = files.unreadable + files.reference_unreadable
    total = files.current + files.reference
    p_value = float(stats.hypergeom.sf(files.unreadable - 1, total, bad, files.current))
    share = files.unreadable / files.current
    before = files.reference_unreadable / max(1, files.reference)
    return share, p_value, max(0.0, share - before)


def _exact(
    statistic: NDArray[np.float64], counts: NDArray[np.int64], current: int
) -> NDArray[np.float64]:
    """Shares of random tables with the margins of these that differ at least as much from them."""
    generator = np.random.default_rng(0)
    size = max(1, min(TABLES, 2_000_000 // len(counts)))
    drawn = np.concatenate(
        [
            _pearson(
                generator.multivariate_hypergeometric(
                    counts, current, min(size, TABLES - start), method="marginals"
                ),
                counts,
            )
            for start in range(0, TABLES, size)
        ]
    )
    smaller = np.searchsorted(np.sort(drawn), statistic * (1 - 1e-9), side="left")
    return np.asarray((1 + TABLES - smaller) / (1 + TABLES), np.float64)


def _pearson(drawn: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's statistic of 2 x categories tables, given their second rows and their sums."""
    share = drawn.sum(axis=1, keepdims=True, dtype=np.float64) / counts.sum()
    expected = counts * share
    terms = (drawn - expected) ** 2 / (expected * (1 - share))
    return np.asarray(terms.sum(axis=1), np.float64)


def _kernel(values: Values) -> NDArray[np.float32]:
    """Gaussian kernel between vectors, its bandwidth the median of the squared distances.

    Where most vectors are equal, the bandwidth is the mean. Distances that are no more than
    rounding are 0, or equal vectors would be told apart by it.
    """
    centred = np.asarray(values - values.mean(axis=0), np.float32)
    lengths = (centred**2).sum(axis=1)
    sums = lengths[:, None] + lengths[None]
    squares = sums - 2 * centred @ centred.T
    squares[squares < ROUNDING * sums] = 0
    bandwidth = float(np.median(squares)) or float(squares.mean()) or 1.0
    return np.asarray(np.exp(-squares / bandwidth), np.float32)


def _centred(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernel between vectors less their mean in the kernel's space."""
    means = kernel.mean(axis=0)
    return np.asarray(kernel - means[None] - means[:, None] + means.mean(), np.float32)


def _pearson_iii(statistic: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values of all by the first three moments of all but the first."""
    random = statistic[1:]
    spread = max(float(random.std()), 1e-300)
    score = (statistic - random.mean()) / spread
    skewness = max(float((((random - random.mean()) / spread) ** 3).mean()), 1e-3)
    return np.asarray(stats.pearson3.sf(score, skewness), np.float64)


def _one_sided(reference: Values, current: Values) -> float:
    """By how much more of the current values lie above a threshold, at most, 0..1."""
    at = np.concatenate([reference, current])
    above = [
        1 - np.searchsorted(np.sort(side), at, side="right") / len(side)
        for side in (reference, current)
    ]
    return max(0.0, float((above[1] - above[0]).max()))
