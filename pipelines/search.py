"""The search: one Optuna study an architecture, every trial its own run. Alone here: Optuna."""

import gc
import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from tqdm import tqdm

from models import Params
from pipelines import cache
from pipelines.config import SearchSettings
from pipelines.tasks import Task
from pipelines.tracking import Run
from pipelines.training import Fit
from serving.settings import UserError

GAP_MARGIN = 0.8  # of the gate's bound: the validation accuracy only estimates the test's
Storage = optuna.storages.BaseStorage
FAILED = "failed"  # tells a trial that failed from one that was interrupted
SQLITE_TIMEOUT = 60  # seconds to wait for another process's lock


@dataclass(frozen=True)
class Best:
    """The best trial of an architecture, and its trained network (`.keras`)."""

    number: int
    params: Params
    run_id: str
    network: Path
    history: pd.DataFrame
    train_accuracy: float
    val_accuracy: float
    val_loss: float


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's database, its schema made where it is missing.

    Raises UserError where it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is ours to print
    options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if url.startswith("sqlite") else {}
    try:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except OperationalError as error:
            if "already exists" not in str(error):
                raise
            return optuna.storages.RDBStorage(url, engine_kwargs=options)  # another made the tables
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Expected storage to be a database that answers, such as sqlite:///optuna.db; {reason}"
        ) from error


class Search:
    """One architecture's study, from its first trial to its best.

    run: the architecture's own; deadline: clock time (seconds) after which no trial starts and the
    running one ends with its epoch.
    """

    def __init__(
        self,
        task: Task,
        settings: SearchSettings,
        run: Run,
        storage: Storage,
        name: str,
        deadline: float = math.inf,
    ) -> None:
        self.task, self.settings, self.run, self.deadline = task, settings, run, deadline
        self.max_gap = GAP_MARGIN * settings.max_overfit_gap
        self.networks = cache.folder("networks") / cache.key(name)
        self.networks.mkdir(exist_ok=True)
        self.study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        self.study.sampler = self._sampler()
        self.study.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=3, n_warmup_steps=max(2, settings.epochs // 4)
        )
        self.study.set_user_attr("data_digest", task.dataset.digest)

    def optimize(self) -> None:
        """Runs the trials that are still missing; one that fails is logged, and the next begins."""
        if self.settings.resume:
            self._close_abandoned()
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(self.task.start)
        missing = self.settings.trials - self._finished()
        gc.collect()
        gc.freeze()  # what TensorFlow has loaded stays: every trial's collection would scan it
        with _progress(self.task.code, missing, self.deadline) as report:
            for _ in range(missing):
                if time.time() > self.deadline:
                    break
                self.study.optimize(self._objective, n_trials=1, catch=Exception)
                report(self.study.get_trials(deepcopy=False)[-1], self._best_trial())

    def best(self) -> Best | None:
        """The best trial, where overfitting beyond the bound counts against it; None if none.

        Its network is trained again from its params where the cache has lost it.
        """
        trial = self._best_trial()
        if trial is None or trial.value is None:
            return None
        kept = trial.user_attrs
        measured, history = _measured(trial), pd.DataFrame(kept["history"])
        if not self._network(trial.number).exists():
            epochs, seed = len(history), self._seed(trial.number)
            model, fit = self.task.train(kept["params"], epochs=epochs, seed=seed)
            measured, history = self._measure(model, fit), fit.history
            self._keep(model, trial.number)
        return Best(
            number=trial.number,
            params=kept["params"],
            run_id=kept["run_id"],
            network=self._network(trial.number),
            history=history,
            **measured,
        )

    def counts(self) -> dict[str, int]:
        """Trials by how they ended: complete, pruned, failed; an interrupted one does not count."""
        trials = self.study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        return {
            "complete": states.count(TrialState.COMPLETE),
            "pruned": states.count(TrialState.PRUNED),
            "failed": sum(FAILED in trial.user_attrs for trial in trials),
        }

    def plots(self) -> Iterator[tuple[str, Figure]]:
        """Optuna's history and importance plots, as far as the trials allow them."""
        draw = optuna.visualization.matplotlib
        completed = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, and about axes without legends
            if completed:
                yield "optuna_history.png", _figure(draw.plot_optimization_history(self.study))
            if len({trial.value for trial in completed}) > 1:
                yield "optuna_importance.png", _figure(draw.plot_param_importances(self.study))

    def _objective(self, trial: optuna.Trial) -> float:
        tags = {"level": "trial", "architecture": self.task.code, "trial": trial.number}
        run = self.run.child(f"{self.task.code} trial {trial.number}", tags | self.tags())
        trial.set_user_attr("run_id", run.id)
        value = None
        try:
            with run.ended():
                with suppress(optuna.TrialPruned):
                    value = self._train(trial, run)
                run.tags({"state": "pruned" if value is None else "complete"})
        except Exception as error:
            trial.set_user_attr(FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            keras.backend.clear_session()
        if value is None:
            raise optuna.TrialPruned
        return value

    def _train(self, trial: optuna.Trial, run: Run) -> float:
        seed = self._seed(trial.number)
        params = self.task.space(trial) | self.task.fixed
        trial.set_user_attr("params", params)
        given = {"seed": seed, "epochs": self.settings.epochs}
        run.params({"architecture": self.task.code} | params | given)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.metrics(metrics, step=epoch)
            trial.report(metrics["val_accuracy"], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        model, fit = self.task.train(
            params,
            epochs=self.settings.epochs,
            seed=seed,
            on_epoch=on_epoch,
            deadline=lambda: time.time() > self.deadline,
        )
        final = self._measure(model, fit)
        run.metrics(final | {"best_epoch": fit.best_epoch}, step=len(fit.rows))
        run.tags({"stopped": fit.stopped or "all epochs"})
        for name, value in final.items():
            trial.set_user_attr(name, value)
        trial.set_constraint("overfit_gap", _gap(final) - self.max_gap)
        trial.set_user_attr("history", fit.history.to_dict("list"))
        best = self._best_trial()
        if best is None or self._rank(final) > self._rank(_measured(best)):
            self._keep(model, trial.number)
        return final["val_accuracy"]

    def _measure(self, model: keras.Model, fit: Fit) -> dict[str, float]:
        return {
            "train_accuracy": self.task.accuracy(model, "train"),
            "val_accuracy": fit.best("val_accuracy"),
            "val_loss": fit.best("val_loss"),
        }

    def tags(self) -> dict[str, str]:
        """What every run of this study carries."""
        return {"study": self.study.study_name, "data_digest": self.task.dataset.digest}

    def _network(self, number: int) -> Path:
        """Where a trial's network is: named by the trial, it is never taken for another's."""
        return self.networks / f"{number}.keras"

    def _keep(self, model: keras.Model, number: int) -> None:
        """Keeps a network, and that of the best before it in case this trial never completes."""
        part = self.networks / f".{uuid.uuid4().hex}.keras"
        try:
            model.save(part)
            part.replace(self._network(number))
        finally:
            part.unlink(missing_ok=True)
        best = self._best_trial()
        for other in self.networks.glob("*.keras"):
            if other.stem not in (str(number), str(best.number if best else number)):
                other.unlink(missing_ok=True)

    def _rank(self, measured: dict[str, float]) -> tuple[float, float]:
        """Validation accuracy less half of what the gap is too large by; then the lower loss."""
        excess = max(0.0, _gap(measured) - self.max_gap)
        return measured["val_accuracy"] - excess / 2, -measured["val_loss"]

    def _best_trial(self) -> FrozenTrial | None:
        completed = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(completed, key=lambda trial: self._rank(_measured(trial)), default=None)

    def _finished(self) -> int:
        return sum(self.counts().values())

    def _close_abandoned(self) -> None:
        """Ends the trials, and their runs, that an interrupted process left running."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            if run_id := trial.user_attrs.get("run_id"):
                run = Run(run_id, self.run.experiment)
                run.tags({"error": "the search was interrupted"})
                run.end("KILLED")

    def _seed(self, number: int) -> int:
        return self.settings.seed + number

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """TPE that learns from the first trials on, and avoids what overfits.

        The seed moves with the trials done: a resumed study must not draw the first ones again.
        """
        return optuna.samplers.TPESampler(
            seed=self.settings.seed + self._finished(),
            n_startup_trials=max(3, self.settings.trials // 3),
        )


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


def _ending(trial: FrozenTrial) -> str:
    if trial.value is None:
        return str(trial.user_attrs.get(FAILED, "failed"))
    return f"val_accuracy {trial.value:.4f} {trial.state.name.lower()}"


Report = Callable[[FrozenTrial, FrozenTrial | None], None]


@contextmanager
def _progress(code: str, trials: int, deadline: float) -> Iterator[Report]:
    """A bar on a terminal, else a line a trial: its value, the best so far, the time left."""
    start = time.time()
    done = 0
    with tqdm(total=trials, desc=code, unit="trial", disable=None) as bar:

        def report(trial: FrozenTrial, best: FrozenTrial | None) -> None:
            nonlocal done
            done += 1
            so_far = f"best {best.value:.4f} (trial {best.number})" if best else "none complete"
            bar.set_postfix_str(so_far, refresh=False)
            bar.update()
            if bar.disable:
                passed = time.time() - start
                left = min(passed / done * (trials - done), max(0.0, deadline - time.time()))
                print(
                    f"{code:<8} trial {done}/{trials}  {_ending(trial)}, {so_far}, {passed:.0f} s, "
                    f"~{left:.0f} s left",
                    flush=True,
                )

        yield report
