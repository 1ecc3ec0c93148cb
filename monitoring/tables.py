"""The tables of the report: every detector, and the accuracy on each class."""

from collections.abc import Mapping, Sequence

import pandas as pd

from monitoring.accuracy import Accuracy
from monitoring.drift import DETECTORS, Finding, Verdict
from monitoring.words import change, interval, name_html, p_text, text_html

OPEN_ROWS = 20  # of a table; the others unfold
ROWS = 250  # of a table; with what lies beyond, a thousand classes would not fit in a page


def accuracy_by_class(by_class: Mapping[str, Accuracy], reference: pd.DataFrame) -> str:
    """How right the model is on the images of each class, the least right first."""
    if not by_class:
        return ""
    before = _reference_accuracy(reference)
    rows = [
        f'<tr><th scope="row">{name_html(name)}<td class="number">{accuracy.images:,}'
        f'<td class="number wide">{f"{before[name]:.1%}" if name in before else ""}'
        f'<td class="number">{accuracy.value:.1%}'
        f"<td><small>{interval(accuracy)}</small>{_range(accuracy)}"
        for name, accuracy in sorted(by_class.items(), key=lambda item: item[1].value)
    ]
    head = (
        '<tr><th scope="col">Class<th scope="col" class="number">Labelled images'
        '<th scope="col" class="number wide">Reference<th scope="col" class="number">Now'
        '<th scope="col" style="width:38%">95% interval'
    )
    about = "Of the images whose right label is known and is this class, those that got it."
    return f"<h2>Accuracy by class</h2><p>{about}</p>{folded(head, rows)}"


def detectors(verdict: Verdict, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """Every detector's finding, those that moved first."""
    titles = {
        "Column": "",
        "Test": "wide",
        "Reference → now": "",
        "Statistic": "number wide",
        "p": "number wide",
        "Corrected p": "number",
        "Effect size": "",
        "Verdict": "",
    }
    head = "".join(f'<th scope="col" class="{kind}">{name}' for name, kind in titles.items())
    rows = [_row(finding, reference, current) for finding in ordered(verdict)]
    effects = {_effect_name(finding) for finding in verdict.findings}
    return (
        f'<h2>Detectors</h2><div class="detectors">{folded(f"<tr>{head}", rows)}</div>'
        f"<p>Moved: corrected p (by permutation, over all {len(rows)}) of {verdict.alpha:g} or "
        "less, and an effect size at or above the mark in its bar. Effect size: 0 for no "
        "difference, 1 for the "
        f"largest there can be ({', '.join(sorted(effects - {''}))}). "
        "drift.json has every number in full.</p>"
    )


def ordered(verdict: Verdict) -> list[Finding]:
    """Findings in the order of the page: those that moved, by effect; the others by p-value."""
    steady = [finding for finding in verdict.findings if not finding.moved]
    return [*verdict.moved, *sorted(steady, key=lambda finding: finding.p_value)]


def test_of(finding: Finding) -> str:
    """The name of a finding's test."""
    line = DETECTORS.get(finding.detector)
    return line.name if line else finding.detector


def folded(head: str, rows: Sequence[str]) -> str:
    """A table whose rows unfold beyond the first."""
    shown, more, beyond = rows[:OPEN_ROWS], rows[OPEN_ROWS:ROWS], rows[ROWS:]
    table = f"<table><thead>{head}</thead><tbody>{{}}</tbody></table>"
    rest = (
        f"<details><summary>{len(more):,} more</summary>{table.format(''.join(more))}</details>"
        if more
        else ""
    )
    last = f"<p>{len(beyond):,} more are not shown.</p>" if beyond else ""
    return table.format("".join(shown)) + rest + last


def _reference_accuracy(reference: pd.DataFrame) -> dict[str, float]:
    if "truth" not in reference or "label" not in reference:
        return {}
    truth = reference["truth"].astype(str)
    right = (truth == reference["label"].astype(str)).groupby(truth).mean()
    return dict(zip(right.index, right.to_numpy().tolist(), strict=True))


def _range(accuracy: Accuracy) -> str:
    """A bar of an accuracy, and its interval as a line on it."""
    width = 100 * (accuracy.high - accuracy.low)
    return (
        f'<div class="bar accuracy"><i style="width:{100 * accuracy.value:.1f}%"></i>'
        f'<u style="left:{100 * accuracy.low:.1f}%;width:{width:.1f}%"></u></div>'
    )


def _row(finding: Finding, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    effect = min(1.0, max(0.0, finding.effect_size))
    bar = (
        f'<div class="bar"><i style="width:{100 * effect:.1f}%"></i>'
        f'<b style="left:{100 * finding.floor:.1f}%"></b></div>'
    )
    moved_from = text_html(change(finding.column, reference, current))
    return (
        f"<tr{' class=moved' if finding.moved else ''}>"
        f'<th scope="row">{name_html(finding.column)}<td class="wide">{text_html(test_of(finding))}'
        f'<td>{moved_from}<td class="number wide">{finding.statistic:.3g}'
        f'<td class="number wide">{p_text(finding.p_value)}'
        f'<td class="number">{p_text(finding.corrected_p_value)}'
        f"<td>{finding.effect_size:.2f}{bar}<td>{'moved' if finding.moved else 'steady'}"
    )


def _effect_name(finding: Finding) -> str:
    line = DETECTORS.get(finding.detector)
    return line.unit if line else ""
