"""The studies of a search, shared by all that train for it. Alone here: Optuna.

A study is a list of trials in a database. Those that wait are tickets: whoever trains, in whatever
process or machine, claims one at a time, and the database gives each to one claimant alone. A
claimed trial beats: one whose beat stops, or whose process is gone, is failed and enqueued again
with the same params. A trial whose worker died alone is tried again RETRIES times at most, since it
may be what kills; where the whole search was stopped, it is not to blame.
"""

import math
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from pipelines import cache, database, processes
from pipelines.config import SearchSettings
from serving.settings import UserError
from serving.uri import without_password

if TYPE_CHECKING:
    from models.params import Params

GAP_MARGIN = 0.8  # of the gate's bound: the validation accuracy only estimates the test's
HEARTBEAT, GRACE = 10, 60  # seconds between a trial's beats; without one, until it counts as dead
RETRIES = 2  # of a trial whose worker died: its params may be what kills
PRUNE = 3  # a third of the epochs decides, and a third of the trials goes on (docs/adr/0005)
ASKED = "fixed_params"  # Optuna's attribute of a trial that was enqueued with params
FAILED = "failed"  # tells a trial that failed from one that was interrupted

Storage = optuna.storages.RDBStorage
Pruned = optuna.TrialPruned
TakenAway = UpdateFinishedTrialError  # of a trial that was given up, and is another worker's now
NoAnswer = (SQLAlchemyError, StorageInternalError)  # of a storage
Lost = Callable[[str], object]  # is told the run of a trial whose worker died


@dataclass(frozen=True)
class Best:
    """The best trial of an architecture, and its trained network (`.keras`).

    origin: the number of its first attempt, which its seed counts from.
    """

    number: int
    origin: int
    params: "Params"
    run_id: str
    network: Path
    history: pd.DataFrame
    train_accuracy: float
    val_accuracy: float
    val_loss: float


def do_nothing(run_id: str) -> None:
    """For a process that closes no runs of others."""


def open_storage(url: str) -> Storage:
    """Optuna's database, its schema made where it is missing.

    Raises UserError where it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is ours to print
    try:
        try:
            return _open(url)
        except DatabaseError as error:
            if not re.search("already exists|duplicate key", str(error)):
                raise
            return _open(url)  # another made the tables
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Expected storage to be a database that answers, such as sqlite:///optuna.db; {reason}"
        ) from error


def _open(url: str) -> Storage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats have been since 2.9
        storage = Storage(
            url,
            engine_kwargs=database.options(url),
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
        )
    database.take_turns(storage.engine)
    return storage


class Study:
    """One architecture's study: `NAME/CODE` in the storage, NAME being the search's run id."""

    def __init__(self, study: optuna.Study, settings: SearchSettings) -> None:
        self.study, self.settings = study, settings
        self.storage: Any = study._storage
        self.name = study.study_name
        self.search, self.code = self.name.split("/")
        self.max_gap = GAP_MARGIN * settings.max_overfit_gap
        # Where the search itself runs there is this folder; elsewhere networks travel by MLflow.
        self.networks = cache.folder("networks") / cache.key(self.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=math.ceil(settings.epochs / PRUNE), reduction_factor=PRUNE
            )

    @classmethod
    def create(
        cls, storage: Storage, name: str, settings: SearchSettings, about: dict[str, Any]
    ) -> "Study":
        """A study of this name, or the one that there is.

        about: `data_digest`; `run_id` and `experiment` of the architecture's run; `end`, a clock
        time (seconds), or None.
        """
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        stored = replace(settings, resume="", storage=without_password(settings.storage))
        for key, value in (about | {"settings": stored.to_json()}).items():  # settings last: made
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
        made = cls(study, settings)
        made.networks.mkdir(exist_ok=True)
        return made

    @classmethod
    def load(cls, storage: Storage, name: str) -> "Study":
        """A study that there is."""
        study = optuna.load_study(study_name=name, storage=storage)
        settings = SearchSettings.from_json(study.user_attrs["settings"], "")
        return cls(study, settings)

    @property
    def about(self) -> dict[str, Any]:
        """What `create` was told, and `closed`."""
        return dict(self.study.user_attrs)

    @property
    def end(self) -> float:
        """Clock time (seconds) when the search is over."""
        return float(self.about.get("end") or math.inf)

    # What the search does: it enqueues, watches over and closes.

    def top_up(self, trials: int, first: "Params") -> None:
        """Enqueues what is missing to `trials`, those that ran or run counted; `first` at first."""
        there = self.trials()
        if not there:
            self.study.enqueue_trial(first)
        for _ in range(trials - len(_counted(there)) - (not there)):
            self.study.enqueue_trial({})

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials, in order; of these states, or all."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return sorted(found, key=lambda trial: trial.number)

    def tickets(self, sender: str) -> tuple[int, int]:
        """How many trials wait to be claimed, and how many run that a process sent for."""
        open_ = self.trials(TrialState.WAITING, TrialState.RUNNING)
        waiting = sum(trial.state == TrialState.WAITING for trial in open_)
        return waiting, sum(_sender(trial) == sender for trial in open_)

    def was_claimed(self, ticket: str) -> bool:
        """Whether a trial was claimed with this ticket, whatever became of it."""
        return any(trial.user_attrs.get("ticket") == ticket for trial in self.trials())

    def running(self) -> int:
        """How many trials are being trained, here or elsewhere."""
        return len(self.trials(TrialState.RUNNING))

    def ended(self) -> list[FrozenTrial]:
        """Trials that completed, were pruned, or failed; an interrupted one does not count."""
        return [trial for trial in _counted(self.trials()) if trial.state.is_finished()]

    def close(self, *, closed: bool = True) -> None:
        """Tells workers elsewhere that no more trials are to be claimed here, or that some are."""
        self.study.set_user_attr("closed", closed)

    def lead(self) -> None:
        """Says that this process leads the search, now; to be said again before GRACE is over."""
        self.study.set_user_attr("leader", {"process": processes.name(), "time": time.time()})

    def leader(self) -> str:
        """The other process that leads the search, where one does; else empty."""
        found = self.study.user_attrs.get("leader")
        if not found or found["process"] == processes.name() or processes.is_gone(found["process"]):
            return ""
        fresh = time.time() - found["time"] < GRACE
        return str(found["process"]) if fresh else ""

    def reap(self, *, blame: bool = False, stopped: str = "", lost: Lost = do_nothing) -> None:
        """Fails trials whose worker died, and enqueues them again.

        A process of this machine is looked for, and so is the one that sent it; one elsewhere is
        known by its beat. blame: whether a worker here died alone, rather than with the search;
        stopped: a process that has ended all its workers, on whatever machine; lost: told the runs.
        """
        silent = set(self.storage._get_stale_trial_ids(self.study._study_id))
        for trial in self.trials(TrialState.RUNNING):
            known = list(filter(None, (trial.user_attrs.get("owner"), _sender(trial))))
            gone = stopped in known or any(map(processes.is_gone, known))
            if gone or trial._trial_id in silent:
                with suppress(TakenAway):  # another was faster
                    self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                    self._enqueue_again(trial, blame=blame or not gone)
                    if run_id := trial.user_attrs.get("run_id"):
                        lost(run_id)

    def repair(self) -> None:
        """Enqueues again what a kill let fail without: where nobody else leads the search."""
        trials = self.trials()
        replaced = {trial.user_attrs.get("after") for trial in trials}
        counted = _counted(trials)
        for trial in trials:
            if trial not in counted and trial.number not in replaced:
                self._enqueue_again(trial, blame=False)

    def _enqueue_again(self, trial: FrozenTrial, *, blame: bool) -> None:
        """Another attempt at a trial; none where it is to blame for more than RETRIES deaths."""
        deaths = trial.user_attrs.get("deaths", 0) + blame
        if deaths > RETRIES:
            return
        known = {"origin": _origin(trial), "deaths": deaths, "after": trial.number}
        asked = {k: v for k, v in trial.system_attrs.items() if k.startswith(ASKED)}
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=known,
                system_attrs=asked,
            )
        )

    # What a worker does with one trial.

    def claim(self, ticket: str = "") -> optuna.Trial | None:
        """The next trial that waits, as this process's own; None where none does.

        ticket: PROCESS/NUMBER, by which the process that sent this one knows its trial.
        """
        for waiting in self.trials(TrialState.WAITING):
            # Beats before it runs: else a kill right after the claim would leave it running.
            self.storage.record_heartbeat(waiting._trial_id)
            with suppress(TakenAway):
                if self.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
                    self.study.sampler = self._sampler(_origin(waiting))
                    trial = optuna.Trial(self.study, waiting._trial_id)
                    trial.set_user_attr("owner", processes.name())
                    trial.set_user_attr("ticket", ticket or f"{processes.name()}/0")
                    return trial
        return None

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Shows, while the block runs, that the trial's worker lives."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT):
                with suppress(*NoAnswer):
                    self.storage.record_heartbeat(trial._trial_id)  # else at the next beat

        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def seed(self, trial: optuna.Trial) -> int:
        """Seed of a trial's training, the same in each of its attempts."""
        return self.settings.seed + _origin(trial)

    def is_hopeless(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        """Whether a trial is worth no further epoch.

        The pruner decides at a third of the epochs alone, so it is told and asked then alone: each
        word with the storage takes milliseconds. At the last epoch there is nothing to save.
        """
        if epoch != math.ceil(self.settings.epochs / PRUNE) or epoch == self.settings.epochs:
            return False
        trial.report(value, epoch)
        return trial.should_prune()

    def complete(self, trial: optuna.Trial, measured: dict[str, float]) -> bool:
        """Ends a trial with its validation accuracy; False where it was given up meanwhile."""
        with suppress(TakenAway):
            for name, value in measured.items():
                trial.set_user_attr(name, value)
            trial.set_constraint("overfit_gap", _gap(measured) - self.max_gap)
        return self._tell(trial, TrialState.COMPLETE, measured["val_accuracy"])

    def prune(self, trial: optuna.Trial) -> bool:
        """Ends a trial that was pruned."""
        return self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, error: Exception) -> bool:
        """Ends a trial whose training failed."""
        try:
            trial.set_user_attr(FAILED, f"{type(error).__name__}: {error}"[:500])
        except TakenAway:
            return False
        return self._tell(trial, TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pruned trial without a value
            try:
                told = self.study.tell(trial, value, state=state, skip_if_finished=True)
            except TakenAway:  # between its look at the trial and its word
                return False
        return told.state == state and told.value == (value if value is not None else told.value)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """TPE that learns from the first trials on, and avoids what overfits.

        Seeded by the trial's number: whoever trains it, and in whichever attempt, draws the same
        from the same trials before it.
        """
        return optuna.samplers.TPESampler(
            seed=self.settings.seed + number,
            n_startup_trials=max(3, self.settings.trials // 3),
        )

    # What there is at the end.

    def best(self) -> Best | None:
        """The best trial, where overfitting beyond the bound counts against it; None if none."""
        trial = self.best_trial()
        if trial is None:
            return None
        kept = trial.user_attrs
        return Best(
            number=trial.number,
            origin=_origin(trial),
            params=kept["params"],
            run_id=kept["run_id"],
            network=self.network(trial.number),
            history=pd.DataFrame(kept["history"]),
            **_measured(trial),
        )

    def best_trial(self) -> FrozenTrial | None:
        """The same as it is in the storage."""
        completed = self.trials(TrialState.COMPLETE)
        return max(completed, key=lambda trial: self.rank(_measured(trial)), default=None)

    def is_better(self, measured: dict[str, float]) -> bool:
        """Whether a trial measured so would be the best."""
        best = self.best_trial()
        return best is None or self.rank(measured) > self.rank(_measured(best))

    def rank(self, measured: dict[str, float]) -> tuple[float, float]:
        """Validation accuracy less half of what the gap is too large by; then the lower loss."""
        excess = max(0.0, _gap(measured) - self.max_gap)
        return measured["val_accuracy"] - excess / 2, -measured["val_loss"]

    def values(self) -> list[float]:
        """What each complete trial is ranked by, best first, then what pruned ones last reached."""
        complete = [self.rank(_measured(t))[0] for t in self.trials(TrialState.COMPLETE)]
        pruned = [t.value for t in self.trials(TrialState.PRUNED) if t.value is not None]
        return sorted(complete, reverse=True) + sorted(pruned, reverse=True)

    def seconds(self) -> float:
        """Median duration of the trials that completed; 0 where none did."""
        done = [t.duration for t in self.trials(TrialState.COMPLETE) if t.duration]
        return float(pd.Series(done).median().total_seconds()) if done else 0.0

    def network(self, number: int) -> Path:
        """Where a trial's network is: named by the trial, it is never taken for another's."""
        return self.networks / f"{number}.keras"

    def tidy(self) -> None:
        """Deletes the networks of trials that have ended and are not the best; no other's."""
        ended = [trial.number for trial in self.trials() if trial.state.is_finished()]
        best = self.best_trial()  # after `ended`: what is not the best by then never will be
        for number in ended:
            if best is None or number != best.number:
                self.network(number).unlink(missing_ok=True)

    def counts(self) -> dict[str, int]:
        """Trials by how they ended: complete, pruned, failed."""
        states = [trial.state for trial in self.ended()]
        names = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        counted = {name: states.count(state) for name, state in names.items()}
        return counted | {"failed": states.count(TrialState.FAIL)}

    def plots(self) -> Iterator[tuple[str, Figure]]:
        """Optuna's history and importance plots, as far as the trials allow them."""
        draw = optuna.visualization.matplotlib
        completed = self.trials(TrialState.COMPLETE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, and about axes without legends
            if completed:
                yield "optuna_history.png", _figure(draw.plot_optimization_history(self.study))
            if len({trial.value for trial in completed}) > 1:
                yield "optuna_importance.png", _figure(draw.plot_param_importances(self.study))


def names(storage: Storage, search: str) -> list[str]:
    """Names of a search's studies, or of the one that `search` names, as far as they are made."""
    every = optuna.get_all_study_names(storage)
    asked = [name for name in every if name == search or name.startswith(f"{search}/")]
    return [name for name in asked if "settings" in _attributes(storage, name)]


def _attributes(storage: Storage, name: str) -> dict[str, Any]:
    return dict(optuna.load_study(study_name=name, storage=storage).user_attrs)


def ending(trial: FrozenTrial) -> str:
    """How a trial ended, in words."""
    if trial.state == TrialState.FAIL:
        return str(trial.user_attrs.get(FAILED, "failed: its worker died"))
    value = "no epoch" if trial.value is None else f"val_accuracy {trial.value:.4f}"
    return f"{value} {trial.state.name.lower()}"


def run_status(trial: FrozenTrial | None) -> str:
    """The status that a trial's run in MLflow must have; empty while it runs."""
    if trial is None:
        return "KILLED"
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return "FINISHED"
    if trial.state == TrialState.FAIL:
        return "FAILED" if FAILED in trial.user_attrs else "KILLED"
    return ""


def run_tags(trial: FrozenTrial | None) -> dict[str, str]:
    """What the run of a trial says of its end; nothing where its worker died."""
    if trial is None:
        return {}
    if trial.state == TrialState.FAIL:
        why = trial.user_attrs.get(FAILED)
        return {"error": why} if why else {}
    return {"state": trial.state.name.lower()}


def _counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those trials that were asked for, without those that another attempt replaced."""
    replaced = {trial.user_attrs.get("after") for trial in trials}

    def counts(trial: FrozenTrial) -> bool:
        if trial.state != TrialState.FAIL or FAILED in trial.user_attrs:
            return True
        gave_up = trial.user_attrs.get("deaths", 0) >= RETRIES
        return gave_up and trial.number not in replaced

    return list(filter(counts, trials))


def _origin(trial: FrozenTrial | optuna.Trial) -> int:
    """The number of the first attempt at a trial: what its seeds count from."""
    return int(trial.user_attrs.get("origin", trial.number))


def _sender(trial: FrozenTrial) -> str:
    """The process that sent a worker for a trial."""
    return str(trial.user_attrs.get("ticket", "")).rpartition("/")[0]


def _measured(trial: FrozenTrial) -> dict[str, float]:
    return {name: trial.user_attrs[name] for name in ("train_accuracy", "val_accuracy", "val_loss")}


def _gap(measured: dict[str, float]) -> float:
    return measured["train_accuracy"] - measured["val_accuracy"]


def _figure(axes: Any) -> Figure:
    """The figure of Optuna's axes, taken from pyplot's hands."""
    import matplotlib.pyplot as plt

    figure: Figure = axes.figure
    figure.set_size_inches(9, 5)
    figure.set_layout_engine("constrained")
    plt.close(figure)
    return figure
