"""Optuna's pruners on recorded learning curves: `python -m benchmarks.pruners --step record`.

`record` trains trials to their end without pruning: the one that a study tries first, then others
drawn at random from the architecture's space. It appends each to a file of JSON lines, so that an
interrupted recording goes on where it was; 50 minutes for 50 trials on one core. `replay`
sends the curves in random orders through real studies in memory, epoch by epoch as the search
reports them, and prints what each pruner saves and loses; 10 minutes.

Scenes are measured where LOOKOUT_DATA names a folder with `scenes`, else the digits.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial, TrialState

from benchmarks import curves as recorded
from benchmarks.curves import EPOCHS, Curve
from benchmarks.timing import grid
from pipelines.config import ARCHITECTURES
from serving import settings as entry
from serving.settings import describe, require

SIZES = (6, 10, 20)  # trials of a study
BUDGETS = (36, 72, 120)  # epochs of a study
MEASURES = ("epochs %", "regret", "lost %")
WORKERS = (1, 2)
LEGEND = f"""Trials of at most {EPOCHS} epochs.
median, percentile: trials without pruning / epochs of each; percentile also what it keeps (percent)
halving, hyperband: min_resource (epochs) / reduction_factor; wilcoxon: p_threshold
patient: epochs without improvement that must come first
epochs %: trained, of those without pruning, in a study of 6, 10 or 20 trials
regret: points of accuracy below the best without pruning, on average
lost %: studies whose best trial was pruned
best: validation accuracy (percent) after so many epochs of a study that goes on, drawing again"""


@dataclass(frozen=True)
class PrunerSettings:
    """Records learning curves, or replays them under Optuna's pruners."""

    step: str = describe("record or replay")
    curves: str = describe("file of the curves, a JSON line a trial", "curves.jsonl")
    architectures: str = describe("a comma list; to record", "dnnd,cnn,dcnn")
    trials: int = describe("to record of each architecture", 24)
    minutes: float = describe("after which no recording begins", 60.0)
    share: float = describe("of the training images, to record on", 1 / 3)
    image_size: int = describe("side in pixels", 64)
    orders: int = describe("random orders to replay", 100)
    start_first: bool = describe("a replayed study begins as the search does", True)
    seed: int = describe("of split, draws, training and orders", 0)

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        known = self.step in STEPS
        require(known, f"Unknown step {self.step!r}; choose one of {', '.join(STEPS)}.")
        unknown = sorted(set(self.codes) - set(ARCHITECTURES))
        choices = ", ".join(ARCHITECTURES)
        require(not unknown, f"Unknown architectures {', '.join(unknown)}; choose of {choices}.")
        for name in ("trials", "minutes", "image_size", "orders"):
            value = getattr(self, name)
            require(value > 0, f"Expected {name} of more than 0, got {value}.")
        require(0 < self.share <= 1, f"Expected share above 0, at most 1, got {self.share}.")

    @property
    def codes(self) -> tuple[str, ...]:
        """The architectures."""
        return tuple(code.strip() for code in self.architectures.split(","))


@dataclass(frozen=True)
class Ended:
    """How a trial of a replayed study ended.

    epochs: that it was trained; value: 0 where it was pruned; spent: epochs of the whole study
    until then.
    """

    curve: Curve
    epochs: int
    value: float
    spent: int


def study(
    pruner: BasePruner,
    curves: Iterable[Curve],
    workers: int,
    *,
    name: str = "study",
    budget: float = math.inf,
) -> list[Ended]:
    """Trials that ended, in the order of their start; `workers` advance in turn, an epoch each.

    curves: of a trial each; name: of the study, by which Hyperband draws its brackets; budget:
    epochs of all trials, after which the study ends.
    """
    sampler = optuna.samplers.RandomSampler(0)  # draws nothing: the curves are the draws
    asked = optuna.create_study(
        direction="maximize", pruner=pruner, sampler=sampler, study_name=name
    )
    waiting, spent = iter(curves), 0
    running: list[tuple[optuna.Trial, Curve, int]] = []
    ended: dict[int, Ended] = {}
    while spent < budget:
        begun = islice(waiting, workers - len(running))
        running += [(asked.ask(), curve, 0) for curve in begun]
        if not running:
            break
        still = []
        for trial, curve, before in running:
            epoch, spent = before + 1, spent + 1
            trial.report(curve.val_accuracy[epoch - 1], epoch)
            if trial.should_prune():
                asked.tell(trial, state=TrialState.PRUNED)
                ended[trial.number] = Ended(curve, epoch, 0.0, spent)
            elif epoch == len(curve.val_accuracy):
                asked.tell(trial, curve.value)
                ended[trial.number] = Ended(curve, epoch, curve.value, spent)
            else:
                still.append((trial, curve, epoch))
        running = still
    return [ended[number] for number in sorted(ended)]


ANSWERS: dict[float, dict[tuple[tuple[float, ...], ...], bool]] = defaultdict(dict)


def pruners() -> dict[str, Callable[[], BasePruner]]:
    """What makes each pruner that is compared; steps are epochs, counted from 1."""
    startups = ((1, 1), (1, 3), (2, 3), (3, 1), (3, 3), (3, 6))
    kept = ((25, 3, 3), (75, 3, 3))
    rungs = ((1, 2), (2, 2), (3, 2), (4, 2), (6, 2), (1, 3), (3, 3), (4, 3))
    found: dict[str, Callable[[], BasePruner]] = {"none": NopPruner}
    found |= {f"median {a}/{b}": partial(MedianPruner, a, b) for a, b in startups}
    found |= {f"percentile {p} {a}/{b}": partial(PercentilePruner, p, a, b) for p, a, b in kept}
    found |= {f"halving {a}/{b}": partial(SuccessiveHalvingPruner, a, b) for a, b in rungs}
    found |= {
        f"hyperband {a}/{b}": partial(HyperbandPruner, a, EPOCHS, b) for a, b in ((1, 3), (3, 2))
    }
    found |= {f"wilcoxon {p}": partial(Remembering, p) for p in (0.05, 0.1, 0.2)}
    found |= {
        f"patient {n}, median {a}/{b}": partial(_patient, n, a, b)
        for n, a, b in ((1, 1, 1), (1, 3, 3))
    }
    return found


class Remembering(WilcoxonPruner):
    """WilcoxonPruner that tests the same pair of curves once: a test takes milliseconds."""

    def __init__(self, p_threshold: float) -> None:
        super().__init__(p_threshold=p_threshold)
        self.known = ANSWERS[p_threshold]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """As its parent."""
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return False
        pair = (trial, study.best_trial)
        key = tuple(tuple(one.intermediate_values.values()) for one in pair)
        if key not in self.known:
            self.known[key] = super().prune(study, trial)
        return self.known[key]


def _patient(patience: int, startup: int, warm_up: int) -> BasePruner:
    return PatientPruner(MedianPruner(startup, warm_up), patience)


def replay(settings: PrunerSettings) -> None:
    """Prints a table for each architecture and number of workers, and one of their means."""
    curves = recorded.load(Path(settings.curves))
    require(bool(curves), f"Expected curves in {settings.curves}; make them with --step record.")
    warnings.simplefilter("ignore")  # of experimental pruners, and of columns without figures
    print(LEGEND, flush=True)
    every: dict[str, list[list[float]]] = defaultdict(list)
    for code in dict.fromkeys(curve.code for curve in curves):
        of_code = sorted((c for c in curves if c.code == code), key=lambda curve: curve.trial)
        images = of_code[0].images
        for workers in WORKERS:
            rows = {n: _row(make, of_code, workers, settings) for n, make in pruners().items()}
            _table(f"{code}: {len(of_code)} curves of {images} images, workers: {workers}", rows)
            for name, row in rows.items():
                every[name].append(row[: -len(BUDGETS)])
    _table(
        "Means of the above", {n: np.nanmean(rows, axis=0).tolist() for n, rows in every.items()}
    )


def _row(
    make: Callable[[], BasePruner],
    curves: Sequence[Curve],
    workers: int,
    settings: PrunerSettings,
) -> list[float]:
    """The figures of a pruner: for each measure of `_losses` one a SIZE, then one a BUDGET."""
    whole, limited = [], []
    for number in range(settings.orders):
        order = _shuffled(curves, settings, number)
        whole.append(study(make(), order, workers, name=str(number)))
        draws = _drawn(curves, settings, number)
        limited.append(study(make(), draws, workers, name=str(number), budget=max(BUDGETS)))
    losses = [_losses(whole, trials) for trials in SIZES]
    reached = [_reached(limited, budget) for budget in BUDGETS]
    return [figure for figures in zip(*losses, strict=True) for figure in figures] + reached


def _shuffled(curves: Sequence[Curve], settings: PrunerSettings, number: int) -> list[Curve]:
    """Every curve once, that of the trial which a search tries first at the head."""
    head = int(settings.start_first)
    rest = np.random.default_rng((settings.seed, number)).permutation(len(curves) - head)
    return [*curves[:head], *(curves[head + place] for place in rest)]


def _drawn(curves: Sequence[Curve], settings: PrunerSettings, number: int) -> Iterator[Curve]:
    """Curves without end, each drawn from all, that of the trial which a search tries first at
    the head.
    """
    random = np.random.default_rng((settings.seed, number))
    if settings.start_first:
        yield curves[0]
    while True:
        yield curves[int(random.integers(len(curves)))]


def _losses(studies: Sequence[Sequence[Ended]], trials: int) -> tuple[float, float, float]:
    """Of the first trials: epochs trained (percent of all), mean regret (points), and studies
    whose best trial was pruned (percent); NaN where there are too few curves.
    """
    if len(studies[0]) < trials:
        return math.nan, math.nan, math.nan
    first = [ended[:trials] for ended in studies]
    trained = sum(one.epochs for ended in first for one in ended)
    whole = sum(len(one.curve.val_accuracy) for ended in first for one in ended)
    regret = np.array(
        [max(o.curve.value for o in ended) - max(o.value for o in ended) for ended in first]
    )
    return 100 * trained / whole, 100 * float(regret.mean()), 100 * float((regret > 0).mean())


def _reached(studies: Sequence[Sequence[Ended]], budget: int) -> float:
    """Mean of the best values (percent) that were complete after `budget` epochs of a study."""
    best = [max((o.value for o in ended if o.spent <= budget), default=0.0) for ended in studies]
    return 100 * float(np.mean(best))


def _table(title: str, rows: Mapping[str, Sequence[float]]) -> None:
    columns = [f"{m} {n}" if n == SIZES[0] else str(n) for m in MEASURES for n in SIZES]
    columns += [f"best {n}" if n == BUDGETS[0] else str(n) for n in BUDGETS]
    shown = columns[: len(rows["none"])]
    cells = {name: [_cell(value) for value in values] for name, values in rows.items()}
    grid(title, shown, cells)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


STEPS: dict[str, Callable[[PrunerSettings], None]] = {
    "record": recorded.record,
    "replay": replay,
}


def main(settings: PrunerSettings) -> int:
    """Runs the step; returns 0."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    STEPS[settings.step](settings)
    return 0


if __name__ == "__main__":
    entry.run(PrunerSettings, main)
