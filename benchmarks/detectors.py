"""The contestants of `benchmarks.drift`, each at its own nominal 5%: a line in DETECTORS.

| name | what flags drift |
| --- | --- |
| `ours` | `monitoring.drift.check`, the whole of it |
| `evidently` | the defaults of its DataDriftPreset on the same columns but the embedding: half of the columns drifted, and any of them |
| `ks`, `mmd`, `classifier` | alibi-detect on the embedding, with uv in an environment of its own |
"""  # noqa: E501 - a table's line

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from benchmarks import environments, process
from benchmarks.draws import Draw
from benchmarks.environments import Environment
from benchmarks.frames import Rows
from benchmarks.peers import alibi
from benchmarks.places import ROOT
from monitoring import drift
from monitoring.accuracy import Correctness
from serving.predictor import cores
from serving.settings import quiet

# Torch comes with CUDA from PyPI, 2 GB to fetch: a build without it is on an index of its own.
ALIBI = ("alibi-detect[torch]==0.13.0", "torch==2.2.2")
SCRIPT = Path(alibi.__file__)
HALF = 0.5  # of the columns: Evidently's default
Cell = tuple[str, int]  # a shift, and the number of current images
Plan = Mapping[Cell, Sequence[Draw]]
Flags = dict[Cell, list[bool]]  # of each draw, whether it was flagged


@dataclass(frozen=True)
class Contest:
    """What all share.

    kept: folder of what peers answered; budget: seconds that a peer may take; correctness: of the
    model.
    """

    rows: Rows
    kept: Path
    budget: float
    correctness: Correctness | None = None


@dataclass(frozen=True)
class Detector:
    """titles: of what it says; run: flags of each title; most: draws of a cell that it is given."""

    titles: tuple[str, ...]
    run: Callable[[Contest, Plan], list[Flags]]
    most: int = 1000

    def flags(self, contest: Contest, plan: Plan) -> dict[str, Flags]:
        """Of each title; cells without draws, or that a peer had no time for, are left out."""
        given = {cell: draws[: self.most] for cell, draws in plan.items() if draws}
        return dict(zip(self.titles, self.run(contest, given), strict=True))


def _ours(contest: Contest, plan: Plan) -> list[Flags]:
    return _in_parallel(_check, contest.rows.table, contest.rows.classes, plan)


def _check(table: pd.DataFrame, classes: Sequence[str], draws: Sequence[Draw]) -> list[list[bool]]:
    found = (drift.check(table.iloc[d.reference], table.iloc[d.current], classes) for d in draws)
    return [[verdict.drift] for verdict in found]


def _evidently(contest: Contest, plan: Plan) -> list[Flags]:
    rows = contest.rows
    return _in_parallel(_count, rows.table[rows.plain], rows.classes, plan)


def _count(table: pd.DataFrame, _: Sequence[str], draws: Sequence[Draw]) -> list[list[bool]]:
    """Of each draw whether half of the columns drifted, and whether any did.

    What the preset counts, without its pictures, which take most of its time.
    """
    quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own dependencies
        import evidently
        from evidently.metrics import DriftedColumnsCount
    found = []
    for draw in draws:
        sides = (table.iloc[places] for places in (draw.current, draw.reference))
        with np.errstate(all="ignore"):
            results = evidently.Report([DriftedColumnsCount()]).run(*sides).metric_results
        (drifted,) = results.values()
        found.append([drifted.share.value >= HALF, drifted.count.value > 0])
    return found


def _in_parallel(
    judge: Callable[[pd.DataFrame, Sequence[str], Sequence[Draw]], list[list[bool]]],
    table: pd.DataFrame,
    classes: Sequence[str],
    plan: Plan,
) -> list[Flags]:
    """Flags of each of a judge's titles, on all cores."""
    count = cores()
    parts = [(cell, draws[n::count]) for cell, draws in plan.items() for n in range(count)]
    parts = [(cell, draws) for cell, draws in parts if draws]
    calls = (delayed(judge)(table, classes, draws) for _, draws in parts)
    found = Parallel(n_jobs=count)(calls)
    flags: list[Flags] = [{} for _ in found[0][0]]
    for (cell, _), answers in zip(parts, found, strict=True):
        for title, answer in zip(flags, zip(*answers, strict=True), strict=True):
            title.setdefault(cell, []).extend(answer)
    return flags


def _alibi(contest: Contest, plan: Plan, method: str) -> list[Flags]:
    """What a method of alibi-detect says within the budget.

    Its answers depend on the embedding, the draws, its version and the script alone, and are kept
    by those: what is asked again is not computed again.
    Raises InstallError where it cannot be installed.
    """
    environments.ENVIRONMENTS["alibi"] = Environment(ALIBI, locked=False)
    python = environments.python("alibi")
    embedding = contest.rows.table[contest.rows.embedding].to_numpy(np.float32)
    arrays = _arrays(plan)
    key = sha256(repr((ALIBI, method)).encode() + SCRIPT.read_bytes() + embedding.tobytes())
    for name, places in arrays.items():
        key.update(name.encode() + places.tobytes())
    kept = contest.kept / "peers"
    kept.mkdir(exist_ok=True)
    answers = kept / f"{method}-{key.hexdigest()[:16]}.jsonl"
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        given = Path(scratch, "embedding.npy"), Path(scratch, "draws.npz")
        np.save(given[0], embedding)
        np.savez(given[1], allow_pickle=False, **arrays)
        ended = process.run(
            method,
            [python, "-m", alibi.__name__, method, *map(str, given), str(answers)],
            folder=Path(scratch),
            environment={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            budget=contest.budget,
        )
    if ended.error:
        print(f"  {method} failed: {ended.error}", flush=True)
    return [_answered(answers, plan)]


def _arrays(plan: Plan) -> dict[str, NDArray[np.int64]]:
    """The draws of all cells as `benchmarks.peers.alibi` takes them."""
    arrays = {}
    for cell, draws in plan.items():
        arrays[f"{_name(cell)} reference"] = np.stack([draw.reference for draw in draws])
        arrays[f"{_name(cell)} current"] = np.stack([draw.current for draw in draws])
    return arrays


def _answered(answers: Path, plan: Plan) -> Flags:
    lines = answers.read_text().splitlines() if answers.exists() else []
    found = {line["cell"]: line["drift"] for line in map(json.loads, lines)}
    return {cell: found[_name(cell)] for cell in plan if _name(cell) in found}


def _name(cell: Cell) -> str:
    shift, size = cell
    return f"{shift}, {size} images"


DETECTORS = {
    "ours": Detector(("Lookout",), _ours),
    "evidently": Detector(("Evidently, dataset", "Evidently, any column"), _evidently),
    "ks": Detector(("alibi-detect KS",), partial(_alibi, method="ks")),
    "mmd": Detector(("alibi-detect MMD",), partial(_alibi, method="mmd"), most=50),
    "classifier": Detector(("alibi-detect classifier",), partial(_alibi, method="classifier")),
}
