"""The parts of the report above Evidently's, each a piece of HTML or nothing."""

import base64
from collections.abc import Sequence

import numpy as np
import pandas as pd

from monitoring import figures
from monitoring.accuracy import Accuracy
from monitoring.drift import Finding, Verdict
from monitoring.pictures import Pair, Picture
from monitoring.tables import test_of
from monitoring.words import (
    Numbers,
    both_shares,
    interval,
    is_share,
    labelled,
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
JPEG_BYTES = 16_000  # bytes of a picture
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
        ("Estimated accuracy", estimated, "from what the model saw"),
        ("Real accuracy", real, "labelled images"),
    ):
        if accuracy is not None:
            basis = basis if accuracy is estimated else f"on {accuracy.images:,} {basis}"
            gap = points(accuracy.value - verdict.reference_accuracy)
            detail = f"{gap} against the reference<br>95%: {interval(accuracy)}<br>{basis}"
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
    if not found:
        return ""
    alone = all(pair.reference is None for pair in found)
    items = "".join(_pair(pair, alone) for pair in found[:PAIRS])
    about = "Left, the image; right, the image of the reference that comes nearest to it."
    about = "The current images that the reference has least of." if alone else about
    kind = "pairs alone" if alone else "pairs"
    return f'<h2>Least like the reference</h2><p>{about}</p><ul class="{kind}">{items}</ul>'


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


def _shown(verdict: Verdict) -> list[Finding]:
    """What moved most; of the probabilities, which move together, only the first ones."""
    probable = [finding for finding in verdict.moved if finding.detector == "probabilities"]
    same = probable[PROBABILITIES:]
    return [finding for finding in verdict.moved if finding not in same][:CARDS]


def _effect(finding: Finding) -> str:
    corrected = p_text(finding.corrected_p_value)
    return f"Effect size {finding.effect_size:.2f}, corrected p {corrected}, {test_of(finding)}"


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
    elif labelled(column, reference, current):
        table = both_shares(reference[column], current[column])
        return figures.bars(table, f"Shares by {title(column)}", CARDS)
    return ""


def _embedding(frame: pd.DataFrame) -> Numbers:
    """Evenly taken rows of the columns e_0, e_1, ...: (images, columns)."""
    columns = [name for name in frame if str(name).startswith("e_") and str(name)[2:].isdigit()]
    step = max(1, len(frame) // figures.DOTS)
    rows = [frame[name].to_numpy()[::step] for name in columns]
    found = np.stack(rows, axis=1).astype(np.float64) if rows else np.empty((0, 0))
    return found[np.isfinite(found).all(axis=1)]


def _pair(pair: Pair, alone: bool) -> str:
    less = pair.novelty_percentile
    share = "all" if less >= 1 else f"{min(less, 0.999):.1%}"
    nearest = "" if alone else _figure(pair.reference, "Reference")
    return (
        f'<li><div class="two">{_figure(pair.current, "Now")}{nearest}</div>'
        f"<p>more novel than {share} of the reference<br>{name_html(pair.current.path)}</p>"
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
