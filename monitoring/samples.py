"""What Evidently draws: a sample of the columns that both frames have, under names it can show."""

import itertools
from collections.abc import Hashable, Iterable, Mapping

import numpy as np
import pandas as pd

from monitoring.drift import Finding, Verdict
from monitoring.tables import ordered
from monitoring.words import LARGEST, shortened

SAMPLE = 2_000  # rows in the pictures; the statistics are made from all
PICTURED = 24  # columns with a picture, those that moved first: a thousand classes fit in a page
CATEGORIES = 50  # bars of a picture; the rest is one more
OTHER = "(other)"


def shown(verdict: Verdict, reference: pd.DataFrame, current: pd.DataFrame) -> list[Finding]:
    """The findings that have a picture: one a column that holds something on both sides."""
    found: dict[str, Finding] = {}
    for finding in ordered(verdict):
        if len(found) == PICTURED:
            break
        if all(_sample(side, finding.column).notna().any() for side in (reference, current)):
            found.setdefault(finding.column, finding)
    return list(found.values())


def names(found: Iterable[Hashable], less_than: str) -> dict[Hashable, str]:
    """Names that Evidently can show, each another, by the names as they are."""
    given: dict[Hashable, str] = {}
    taken: set[str] = set()
    for name in found:
        plain = shortened(name).replace("<", less_than)
        numbered = (f"{plain} ({number})" for number in itertools.count(2))
        given[name] = next(n for n in itertools.chain([plain], numbered) if n not in taken)
        taken.add(given[name])
    return given


def sides(
    reference: pd.DataFrame, current: pd.DataFrame, columns: Mapping[Hashable, str], less_than: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Samples of both frames, with the columns of `names`: numbers as float, all else as words."""
    samples = [
        pd.DataFrame({name: _sample(rows, column) for column, name in columns.items()})
        for rows in (reference, current)
    ]
    for name in columns.values():
        if all(sample[name].dtype == float for sample in samples):
            continue
        counts = pd.concat([sample[name].map(str) for sample in samples]).value_counts()
        known = names(counts.index[:CATEGORIES], less_than)
        for sample in samples:
            sample[name] = sample[name].map(lambda value, known=known: known.get(str(value), OTHER))
    return samples[0], samples[1]


def _sample(rows: pd.DataFrame, column: Hashable) -> pd.Series:
    """At most `SAMPLE` rows of one column, the same of each; empty where there is no such one."""
    if column not in rows:
        return pd.Series(dtype=float)
    if len(rows) <= SAMPLE:
        picked = rows[column]
    else:
        index = np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)
        picked = rows[column].iloc[index]
    if pd.api.types.is_numeric_dtype(picked):
        numbers = picked.astype(float).reset_index(drop=True)
        return numbers.where(numbers.abs() < LARGEST)
    return picked.astype(object).reset_index(drop=True)
