"""What a report says in words: columns, numbers, and how each of them changed."""

from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.accuracy import Accuracy
from monitoring.drift import Finding
from serving.features import FEATURES

Numbers = NDArray[np.float64]

MINUS = "\N{MINUS SIGN}"
LONGEST = 60  # characters of a name
JOINERS = "\u200c\u200d"  # invisible, but part of words in Persian and the languages of India
LARGEST = 1e300  # beyond it, differences are no longer numbers
SHARES = ("confidence", "novelty", "saturation")  # columns of 0..1, besides the probabilities
STANDING = 0.25  # standard deviations that a mean may move and still count as standing
TITLES = {
    "label": "predicted class",
    "entropy": "entropy of the answer",
    "colour_cast": "colour cast",
    "aspect": "aspect ratio",
    "embedding": "what the network sees",
    "unreadable": "unreadable files",
}


def clean(value: object) -> str:
    """Text as it can be written and shown: what is invisible or no text is spelled out."""
    return "".join(
        letter if letter.isprintable() or letter in JOINERS else _spelled(letter)
        for letter in str(value)
    )


def shortened(value: object) -> str:
    """Clean text of at most `LONGEST` characters, its end kept."""
    text = clean(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 21]}…{text[-20:]}"


def name_html(value: object) -> str:
    """A name of any origin as text of a page."""
    return escape(shortened(value))


def text_html(sentence: str) -> str:
    """A sentence, which may hold names of any origin, as text of a page."""
    return escape(clean(sentence))


def title(column: str) -> str:
    """A column of the frame in words."""
    if column.startswith("p_"):
        return f"probability of {shortened(column[2:])}"
    return TITLES.get(column, shortened(column))


def is_share(column: str) -> bool:
    """Whether a column's numbers are 0..1 by what they are."""
    return column in SHARES or (column.startswith("p_") and column not in FEATURES)


def percent(value: float) -> str:
    """A share, 0..1, with as many digits as tell it from none and from all."""
    return f"{value:.1%}" if 0 < value < 0.1 or 0.9 < value < 1 else f"{value:.0%}"


def percents(before: float, now: float) -> tuple[str, str]:
    """Two shares with the digits that tell them apart."""
    digits = 0 if min(before, now) >= 0.095 and abs(before - now) >= 0.02 else 1
    return f"{before:.{digits}%}", f"{now:.{digits}%}"


def points(value: float) -> str:
    """A difference of two shares."""
    return f"{100 * value:+.1f} points".replace("-", MINUS)


def number(value: float) -> str:
    """A number with about three digits."""
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    text = f"{value:,.{digits}f}" if size >= 0.1 or value == 0 else f"{value:.2g}"
    return (text if size < 1e9 else f"{value:.3g}").replace("-", MINUS)


def p_text(value: float) -> str:
    """A p-value for a reader: two digits, as permutations give few."""
    return "< 0.0001" if value < 0.0001 else f"{float(f'{value:.2g}'):.4f}".rstrip("0").rstrip(".")


def interval(accuracy: Accuracy) -> str:
    """The 95% interval."""
    return f"{accuracy.low:.1%} to {accuracy.high:.1%}"


def values(frame: pd.DataFrame, column: str) -> Numbers | None:
    """The finite numbers of a column; None where the frame has none, or other than numbers."""
    if column not in frame or not pd.api.types.is_numeric_dtype(frame[column]):
        return None
    found = frame[column].to_numpy(np.float64, na_value=np.nan)
    found = found[np.abs(found) < LARGEST]
    return found if len(found) else None


def labelled(column: str, *frames: pd.DataFrame) -> bool:
    """Whether a column holds labels, not numbers, in each frame."""
    return all(
        column in frame and not pd.api.types.is_numeric_dtype(frame[column]) for frame in frames
    )


def shares(labels: pd.Series) -> pd.Series:
    """Share of each label, 0..1."""
    counted = labels.value_counts(normalize=True)
    return pd.Series(counted.to_numpy(np.float64), [str(label) for label in counted.index])


def both_shares(reference: pd.Series, current: pd.Series) -> pd.DataFrame:
    """`reference` and `current` shares of each label, what changed most first."""
    table = pd.DataFrame({"reference": shares(reference), "current": shares(current)}).fillna(0.0)
    change = (table["current"] - table["reference"]).abs().round(12)
    return table.loc[change.sort_index().sort_values(ascending=False, kind="stable").index]


def change(column: str, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """The means of numbers; of labels, the one whose share changed most; else nothing."""
    sides = values(reference, column), values(current, column)
    if sides[0] is not None and sides[1] is not None:
        before, now = _amounts(column, float(sides[0].mean()), float(sides[1].mean()))
        return f"mean {before} → {now}"
    if labelled(column, reference, current):
        table = both_shares(reference[column], current[column])
        if len(table):
            before, now = percents(*table.iloc[0])
            return f"{shortened(table.index[0])} {before} → {now}"
    return ""


def moved(
    finding: Finding,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    unreadable: float | None = None,
) -> str:
    """One sentence on a finding that moved. unreadable: share of the files now, 0..1."""
    column = finding.column
    before, now = values(reference, column), values(current, column)
    if before is not None and now is not None:
        return _numbers_moved(column, before, now)
    if labelled(column, reference, current):
        return _labels_moved(both_shares(reference[column], current[column]))
    if column == "unreadable" and unreadable is not None:
        return f"{percent(unreadable)} of the files cannot be read."
    if column == "embedding":
        return "To the network, the images lie elsewhere than those of the reference."
    return f"{_capital(title(column))} changed."


def _numbers_moved(column: str, before: Numbers, now: Numbers) -> str:
    means = float(before.mean()), float(now.mean())
    spreads = float(before.std()), float(now.std())
    amounts = _amounts(column, *means)
    name = title(column)
    if abs(means[1] - means[0]) > STANDING * min(spreads) and amounts[0] != amounts[1]:
        verb = "rose" if means[1] > means[0] else "fell"
        return f"Mean {name} {verb} from {amounts[0]} to {amounts[1]}."
    spread = _amounts(column, *spreads)
    if spread[0] == spread[1]:
        return f"The values of {name} are spread otherwise; their mean stays near {amounts[1]}."
    more = "more" if spreads[1] > spreads[0] else "less"
    varies = f"varies {more}: standard deviation {spread[0]} → {spread[1]}"
    return f"{_capital(name)} {varies}, mean {amounts[0]} → {amounts[1]}."


def _labels_moved(table: pd.DataFrame) -> str:
    if not len(table):
        return "The predicted classes changed."
    before, now = table.iloc[0]
    verb = "rose" if now > before else "fell"
    name = shortened(table.index[0])
    amounts = percents(before, now)
    return f"The share of {name} {verb} from {amounts[0]} to {amounts[1]}."


def _amounts(column: str, before: float, now: float) -> tuple[str, str]:
    return percents(before, now) if is_share(column) else (number(before), number(now))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
