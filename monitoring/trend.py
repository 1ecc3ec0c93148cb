"""The checks of a model over time, as a picture and a table."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from monitoring import figures
from monitoring.drift import Verdict
from monitoring.figures import Tick
from monitoring.history import Past
from monitoring.tables import folded
from monitoring.words import name_html

MOST = 100  # checks
MARKS = 4  # dates on the axis
LEGEND = (
    '<div class="legend"><span><i class="now"></i>estimated accuracy</span>{}'
    '<span><i class="level"></i>reference accuracy</span>'
    '<span><i class="mark"></i>a check that found drift</span></div>'
)
REAL = '<span><i class="real"></i>real accuracy, where labels were known</span>'


def trend(history: Sequence[Past], verdict: Verdict) -> str:
    """Accuracy and largest effect of each check, the oldest first; nothing without a check."""
    checks = history[-MOST:]
    if not checks:
        return ""
    places, dates = _places([check.time for check in checks])
    known = [
        (place, check.accuracy)
        for place, check in zip(places, checks, strict=True)
        if check.accuracy is not None
    ]
    estimated = list(zip(places, (check.estimated_accuracy for check in checks), strict=True))
    effects = list(zip(places, (min(1.0, c.largest_effect) for c in checks), strict=True))
    drifted = [place for place, check in zip(places, checks, strict=True) if check.drift]
    words = f"Accuracy of {len(checks)} checks from {_day(checks[0].time)} on; the table has them."
    accuracy = figures.line(
        [("now", estimated), ("real", known)], drifted, dates, words, verdict.reference_accuracy
    )
    words = words.replace("Accuracy", "Largest effect size", 1)
    effect = figures.line([("now", effects)], drifted, dates, words, shares=False)
    return (
        f'<h2>Over time</h2>{LEGEND.format(REAL if known else "")}<ul class="cards trend">'
        f"<li><h3>Accuracy</h3>{accuracy}</li><li><h3>Largest effect size</h3>{effect}</li></ul>"
        f"<details><summary>{_counted(checks)}</summary>{_table(checks)}</details>"
    )


def moment(time: datetime) -> str:
    """A time as people read it."""
    return f"{_day(time)}, {time.astimezone(UTC):%H:%M} UTC"


def _day(time: datetime) -> str:
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y}"


def _places(times: Sequence[datetime]) -> tuple[list[float], list[Tick]]:
    """Places of the times on an axis, 0..1, and its dates."""
    first, last = min(times), max(times)
    span = last - first
    if not span:
        return [0.5] * len(times), [(0.5, _short(first, span))]
    margin = 0.02
    scale = (1 - 2 * margin) / span.total_seconds()
    places = [margin + scale * (time - first).total_seconds() for time in times]
    dates: list[Tick] = []
    for index in range(MARKS):
        text = _short(first + span * index / (MARKS - 1), span)
        if text not in [words for _, words in dates]:
            dates.append((margin + (1 - 2 * margin) * index / (MARKS - 1), text))
    return places, dates


def _short(time: datetime, span: timedelta) -> str:
    utc = time.astimezone(UTC)
    if span > timedelta(days=300):
        return f"{utc:%b %Y}"
    if span > timedelta(days=3):
        return f"{utc.day} {utc:%b}"
    return f"{utc.day} {utc:%b %H:%M}"


def _counted(checks: Sequence[Past]) -> str:
    found = sum(check.drift for check in checks)
    one = "1 check" if len(checks) == 1 else f"{len(checks)} checks"
    return f"{one}, {found} with drift"


def _table(checks: Sequence[Past]) -> str:
    head = (
        '<tr><th scope="col" style="width:26%">Time<th scope="col">Verdict'
        '<th scope="col" class="number">Images<th scope="col" class="number">Estimated accuracy'
        '<th scope="col" class="number">Real accuracy'
        '<th scope="col" class="number">Largest effect'
        '<th scope="col" class="number wide">Version<th scope="col" class="wide">Run'
    )
    rows = [
        f"<tr{' class=moved' if check.drift else ''}><td>{moment(check.time)}"
        f"<td>{'drift' if check.drift else 'no drift'}<td class=number>{check.images:,}"
        f"<td class=number>{check.estimated_accuracy:.1%}"
        f"<td class=number>{'' if check.accuracy is None else f'{check.accuracy:.1%}'}"
        f"<td class=number>{check.largest_effect:.2f}"
        f'<td class="number wide">{name_html(check.version)}<td class="wide">'
        f"{name_html(check.run_id[:8])}"
        for check in reversed(checks)
    ]
    return folded(head, rows)
