"""How far estimates of the accuracy are from the truth, after shifts of the images."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import environments, process
from benchmarks.detectors import Contest
from benchmarks.draws import ESTIMATED, TAUGHT, UNTAUGHT, Draw, labelled
from benchmarks.environments import Environment, InstallError
from benchmarks.markdown import table
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
    plain = [draw for draws in cells.values() for draw in draws]
    truth = _true(contest, plain)
    columns = {"accuracy": truth}
    for title, ask in asked.items():
        print(f"  {title}", flush=True)
        found = ask(contest, plain)
        if found is not None:
            columns[title] = np.abs(found - truth)
    columns["inside Lookout's interval"] = _inside(contest, plain, truth)
    means = {t: dict(zip(cells, _means(v, len(cells)), strict=True)) for t, v in columns.items()}
    rows = {name: [_cell(title, [of[name]]) for title, of in means.items()] for name in cells}
    for name, kinds in {"mean of kinds taught": TAUGHT, "mean of others": UNTAUGHT}.items():
        rows[name] = [_cell(title, [of[kind] for kind in kinds]) for title, of in means.items()]
    title = f"Mean absolute error of the estimated accuracy in points, {SIZE} images, {count} draws"
    table(title, list(means), rows)


def _means(values: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    means: NDArray[np.float64] = values.reshape(cells, -1).mean(axis=1)
    return means


def _cell(title: str, shares: Sequence[float]) -> str:
    value = 100 * float(np.mean(shares))
    return f"{value:.1f}" if title in ESTIMATORS else f"{value:.0f}%"


def _true(contest: Contest, draws: Sequence[Draw]) -> Estimates:
    right = (contest.rows.table["label"] == contest.rows.table["truth"]).to_numpy()
    return np.asarray([right[draw.current].mean() for draw in draws])


def _ours(contest: Contest, draws: Sequence[Draw]) -> Estimates:
    return np.asarray([found.value for found in _estimates(contest, draws)])


def _inside(contest: Contest, draws: Sequence[Draw], truths: Estimates) -> Estimates:
    """1 for each draw whose true accuracy lies in Lookout's 95% interval, else 0."""
    found = zip(_estimates(contest, draws), truths, strict=True)
    return np.asarray([one.low <= truth <= one.high for one, truth in found], np.float64)


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
