"""The parts of the report above Evidently's, each a piece of HTML or nothing."""

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from monitoring import figures
from monitoring.accuracy import Accuracy
from monitoring.drift import DETECTORS, Finding, Verdict
from monitoring.pictures import Pair, Picture
from monitoring.words import (
    Numbers,
    both_shares,
    change,
    interval,
    is_share,
    moved,
    name_html,
    p_text,
    percent,
    points,
    text_html,
    title,
    values,
)

CARDS = 6  # findings with a picture
PROBABILITIES = 2  # of them
PAIRS = 12
CLASSES = 20  # with their shares
OPEN_ROWS = 20  # of a table; the others unfold
ROWS = 250  # of a table; with what lies beyond, a thousand classes would not fit in a page
JPEG_BYTES = 16_000  # bytes of a picture
CLOUD = 1_500  # rows of an embedding that a picture is made of
SIDES = (
    '<div class="legend"><span><i class="before"></i>reference</span>'
    '<span><i class="now"></i>now</span></div>'
)


def numbers(
    verdict: Verdict, unreadable: int | None, estimated: Accuracy, real: Accuracy | None
) -> str:
    """How many images there were, and how right the model is on them."""
    items = [("Images answered", f"{verdict.images:,}", "")]
    if unreadable is not None:
        share = unreadable / max(1, verdict.images + unreadable)
        items.append(("Unreadable", f"{unreadable:,}", f"{percent(share)} of the files"))
    items.append(("Reference images", f"{verdict.reference_images:,}", ""))
    items.append(("Reference accuracy", f"{verdict.reference_accuracy:.1%}", ""))
    for words, accuracy, basis in (
        ("Estimated accuracy", estimated, "from the model's confidences"),
        ("Real accuracy", real, "labelled images"),
    ):
        if accuracy is not None:
            basis = basis if accuracy is estimated else f"on {accuracy.images:,} {basis}"
            gap = points(accuracy.value - verdict.reference_accuracy)
            detail = f"{gap}<br>95%: {interval(accuracy)}<br>{basis}"
            items.append((words, f"{accuracy.value:.1%}", detail))
    return "<dl>{}</dl>".format(
        "".join(
            f"<div><dt>{name}</dt><dd>{value}</dd>"
            f"{f'<dd class=detail>{detail}</dd>' if detail else ''}</div>"
            for name, value, detail in items
        )
    )


def notes(left_out: Sequence[str]) -> str:
    """What this check could not do."""
    items = "".join(f"<li>{text_html(sentence)}</li>" for sentence in left_out)
    return f'<ul class="notes" aria-label="Left out">{items}</ul>' if items else ""


def cards(
    verdict: Verdict,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    unreadable: float | None,
) -> str:
    """What moved most, in words and pictures. unreadable: share of the files, 0..1."""
    found = _shown(verdict)
    if not found:
        return ""
    items = "".join(
        f"<li><h3>{text_html(words)}</h3><p>{_effect(finding)}</p>"
        f"{_picture(finding, reference, current, words)}</li>"
        for finding in found
        for words in [moved(finding, reference, current, unreadable)]
    )
    rest = len(verdict.moved) - len(found)
    more = f"<p>{rest} more that moved are in the table of detectors.</p>" if rest else ""
    return f'<h2>What moved most</h2>{SIDES}<ul class="cards">{items}</ul>{more}'


def pairs(found: Sequence[Pair]) -> str:
    """The current images that are least like the reference, each beside what comes nearest."""
    items = "".join(_pair(pair) for pair in found[:PAIRS])
    about = "<p>Left, the image; right, the image of the reference that comes nearest to it.</p>"
    return (
        f'<h2>Least like the reference</h2>{about}<ul class="pairs">{items}</ul>' if items else ""
    )


def classes(reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """The share of each predicted class."""
    if "label" not in reference or "label" not in current:
        return ""
    table = both_shares(reference["label"], current["label"])
    of_all = (
        f"The {CLASSES} of {len(table):,} classes whose share"
        if len(table) > CLASSES
        else ("Share of the images that got each label; what")
    )
    bars = figures.bars(table, "Share of each predicted class", CLASSES)
    return f"<h2>Predicted classes</h2><p>{of_all} changed most comes first.</p>{SIDES}{bars}"


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
        f"<p>Moved: corrected p (Holm, over all {len(rows)}) of {verdict.alpha:g} or less, and an "
        "effect size at or above the mark in its bar. Effect size: 0 for no difference, 1 for the "
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


def _shown(verdict: Verdict) -> list[Finding]:
    """What moved most; of the probabilities, which move together, only the first ones."""
    probable = [finding for finding in verdict.moved if finding.detector == "probabilities"]
    same = probable[PROBABILITIES:]
    return [finding for finding in verdict.moved if finding not in same][:CARDS]


def _effect(finding: Finding) -> str:
    corrected = p_text(finding.corrected_p_value)
    return f"Effect size {finding.effect_size:.2f}, corrected p {corrected}, {test_of(finding)}"


def _effect_name(finding: Finding) -> str:
    line = DETECTORS.get(finding.detector)
    return line.unit if line else ""


def _picture(finding: Finding, reference: pd.DataFrame, current: pd.DataFrame, words: str) -> str:
    """A picture of one column on both sides, as far as the column is one of the frames."""
    column = finding.column
    before, now = values(reference, column), values(current, column)
    if before is not None and now is not None:
        words = f"Histogram of {title(column)}, reference and now. {words}"
        return figures.histogram(before, now, words, share=is_share(column))
    if column == "embedding":
        sides = [_embedding(frame) for frame in (reference, current)]
        if sides[0].shape[1] == sides[1].shape[1] > 1:
            words = f"The images as dots, reference and now, like near like. {words}"
            return figures.cloud(sides[0], sides[1], words)
    elif column in reference and column in current:
        table = both_shares(reference[column], current[column])
        return figures.bars(table, f"Shares by {title(column)}", CARDS)
    return ""


def _embedding(frame: pd.DataFrame) -> Numbers:
    """Evenly taken rows of the columns e_0, e_1, ...: (images, columns)."""
    columns = [name for name in frame if str(name).startswith("e_") and str(name)[2:].isdigit()]
    step = max(1, len(frame) // CLOUD)
    rows = [frame[name].to_numpy()[::step] for name in columns]
    found = np.stack(rows, axis=1).astype(np.float64) if rows else np.empty((0, 0))
    return found[np.isfinite(found).all(axis=1)]


def _pair(pair: Pair) -> str:
    less = pair.novelty_percentile
    novelty = (
        f"more novel than {'all' if less >= 1 else f'{min(less, 0.999):.1%}'} of the reference"
    )
    return (
        f'<li><div class="two">{_figure(pair.current, "Now")}'
        f"{_figure(pair.reference, 'Reference')}</div>"
        f"<p>{novelty}<br>{name_html(pair.current.path)}</p>"
    )


def _figure(picture: Picture | None, side: str) -> str:
    if picture is None:
        return '<figure><div class="none">no picture of the reference</div></figure>'
    label = name_html(picture.label)
    said = f"<figcaption><b>{label}</b>{picture.confidence:.0%} confident</figcaption>"
    if not 0 < len(picture.jpeg) <= JPEG_BYTES:
        return f'<figure><div class="none">no picture</div>{said}</figure>'
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    return f'<figure><img alt="{side}: an image labelled {label}" src="{source}">{said}</figure>'


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
