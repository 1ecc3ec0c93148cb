"""How far estimates of the accuracy are from the truth, after shifts of the images."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import environments, process
from benchmarks.detectors import Contest
from benchmarks.draws import ESTIMATED, Draw, labelled
from benchmarks.environments import Environment, InstallError
from benchmarks.markdown import DASH, table
from benchmarks.places import ROOT
from monitoring.accuracy import Accuracy, estimate

SIZE = 500  # current images
# Statsmodels it imports and asks for nowhere; with pandas 3 it does not work.
NANNYML = ("nannyml==0.13.1", "statsmodels", "pandas<3")
PEER = "nannyml"

Estimates = NDArray[np.float64]  # of each draw, 0..1


def accuracy(contest: Contest, count: int, chosen: Sequence[str]) -> None:
    """Prints mean absolute errors of `count` draws, in points; chosen: names of the peers."""
    asked = {title: ask for title, (peer, ask) in ESTIMATORS.items() if peer in ("", *chosen)}
    cells = {name: labelled(contest.rows, name, SIZE, count) for name in ESTIMATED}
    truths = {name: _true(contest, draws) for name, draws in cells.items()}
    plain = [draw for draws in cells.values() for draw in draws]
    errors = {}
    for title, ask in asked.items():
        print(f"  {title}", flush=True)
        found = ask(contest, plain)
        if found is None:
            errors[title] = [DASH] * len(cells)
            continue
        parts = np.split(found, len(cells))
        off = [
            np.abs(part - truth).mean() for part, truth in zip(parts, truths.values(), strict=True)
        ]
        errors[title] = [f"{100 * value:.1f}" for value in (*off, np.mean(off))]
    rows = {name: [f"{100 * truth.mean():.1f}%"] for name, truth in truths.items()} | {"mean": [""]}
    inside = [_covered(contest, cells[name], truth).mean() for name, truth in truths.items()]
    errors["inside Lookout's interval"] = [f"{share:.0%}" for share in (*inside, np.mean(inside))]
    for place, row in enumerate(rows.values()):
        row += [column[place] if place < len(column) else DASH for column in errors.values()]
    title = f"Mean absolute error of the estimated accuracy in points, {SIZE} images, {count} draws"
    table(title, ["accuracy", *errors], rows)


def _true(contest: Contest, draws: Sequence[Draw]) -> Estimates:
    right = (contest.rows.table["label"] == contest.rows.table["truth"]).to_numpy()
    return np.asarray([right[draw.current].mean() for draw in draws])


def _ours(contest: Contest, draws: Sequence[Draw]) -> Estimates:
    return np.asarray([found.value for found in _estimates(contest, draws)])


def _covered(contest: Contest, draws: Sequence[Draw], truths: Estimates) -> NDArray[np.bool_]:
    """Of each draw whether the true accuracy lies in Lookout's 95% interval."""
    found = _estimates(contest, draws)
    inside = [e.low <= truth <= e.high for e, truth in zip(found, truths, strict=True)]
    return np.asarray(inside, bool)


def _estimates(contest: Contest, draws: Sequence[Draw]) -> list[Accuracy]:
    """As `monitoring.drift.check` makes them."""
    rows, classes = contest.rows.table, contest.rows.classes
    sides = ((rows.iloc[draw.reference], rows.iloc[draw.current]) for draw in draws)
    return [estimate(*pair, classes, contest.correctness) for pair in sides]


def _confidence(contest: Contest, draws: Sequence[Draw]) -> Estimates:
    """The mean of the confidences, as the network gives them."""
    confidence = contest.rows.table["confidence"].to_numpy()
    return np.asarray([confidence[draw.current].mean() for draw in draws])


def _nannyml(contest: Contest, draws: Sequence[Draw]) -> Estimates | None:
    """CBPE; None where it fails."""
    environments.ENVIRONMENTS[PEER] = Environment(NANNYML, locked=False)
    try:
        python = environments.python(PEER)
    except InstallError as error:
        print(f"  {PEER} cannot be installed: {error}", flush=True)
        return None
    classes = [f"p_{name}" for name in contest.rows.classes]
    with tempfile.TemporaryDirectory(dir=contest.kept) as scratch:
        names = ("rows.parquet", "draws.npz", "answers.json")
        rows, places, answers = (Path(scratch, name) for name in names)
        contest.rows.table[["label", "truth", *classes]].to_parquet(rows)
        sides = {
            "reference": np.stack([draw.reference for draw in draws]),
            "current": np.stack([draw.current for draw in draws]),
        }
        np.savez(places, allow_pickle=False, **sides)
        ended = process.run(
            PEER,
            [python, "-m", "benchmarks.peers.nanny", str(rows), str(places), str(answers)],
            folder=Path(scratch),
            environment={"PYTHONPATH": str(ROOT)},
            budget=contest.budget,
        )
        if ended.error or not answers.exists():
            print(f"  {PEER} failed: {ended.error or 'no answer in time'}", flush=True)
            return None
        return np.asarray(json.loads(answers.read_text()))


ESTIMATORS: dict[str, tuple[str, Callable[[Contest, Sequence[Draw]], Estimates | None]]] = {
    "Lookout": ("", _ours),
    "mean confidence": ("", _confidence),
    "NannyML CBPE": (PEER, _nannyml),
}
