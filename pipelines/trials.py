"""What a worker does for a search: trains a trial, evaluates a study's best, measures its speed.

`calls` says what each does; what they load stays in the process for the next call.
"""

import functools
import gc
import math
import os
import time
import traceback
import uuid
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import keras
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from models.transfer import MIN_SIDE, WeightsUnreachableError
from pipelines import cache, data, evaluate, features, feedback, search, tasks, training
from pipelines.calls import Prepared, Spec, Speed
from pipelines.config import SearchSettings
from pipelines.data import Dataset, Feedback
from pipelines.evaluation import Evaluation
from pipelines.search import Best, Study
from pipelines.tasks import Task
from pipelines.tracking import Run
from pipelines.training import Fit, Part
from serving.settings import UserError, require

if TYPE_CHECKING:
    import optuna

NETWORK = "network.keras"  # artifact of a trial's run, where the search's cache is out of reach
SPEED_STEPS, SPEED_SECONDS = 8, 3.0  # batches a measurement repeats, and for how long


class _Session:
    """The data set, the storage and the tasks of one search, in this process."""

    def __init__(self, spec: Spec) -> None:
        gc.collect()
        gc.freeze()  # what TensorFlow has loaded stays: every trial's collection would scan it
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # `tracking` waits, and makes runs once
        self.spec = spec
        self.dataset = _dataset(spec.settings, spec.digest, spec.feedback)
        self.storage = search.open_storage(spec.settings.storage)
        self.task = functools.cache(self._task)
        self.study = functools.cache(self._study)

    def _task(self, code: str) -> Task:
        return tasks.make(code, self.dataset, self.spec.settings)

    def _study(self, code: str) -> Study:
        return Study.load(self.storage, f"{self.spec.search}/{code}")


_session = functools.lru_cache(maxsize=1)(_Session)


def _dataset(settings: SearchSettings, digest: str, known: Feedback | None = None) -> Dataset:
    """The data set as it was kept on this machine, else from its folder here.

    Raises UserError where the images are not those of the search.
    """
    if kept := data.recall(digest):
        return kept
    dataset = feedback.add(data.prepare(settings.data, settings.seed), settings, known)
    require(
        dataset.digest == digest,
        f"Expected the images that the study was made from (digest {digest}) in {dataset.folder}, "
        f"got others ({dataset.digest}); copy those of the search, or name their folder with "
        "`-P data=FOLDER`.",
    )
    data.keep(dataset)
    return dataset


def check_backbone(settings: SearchSettings, digest: str) -> str:
    """As `calls.check_backbone`."""
    if 0 < settings.image_size < MIN_SIDE and not settings.asks_for_transfer:
        return f"left out: it needs an image_size of at least {MIN_SIDE}"
    try:
        _ = features.choose(settings, _dataset(settings, digest)).network
    except WeightsUnreachableError as error:
        if settings.asks_for_transfer:
            raise UserError(str(error)) from error
        return f"left out: {error}"
    return ""


def prepare(spec: Spec, code: str) -> Prepared:
    """As `calls.prepare`."""
    task = _session(spec).task(code)
    try:
        work = _multiplications(task.build(task.start | task.fixed))
    except ValueError:  # the images are too small for it: its trial will say so
        work = 0
    return Prepared(task.start, task.inputs.shape[1:], work)


def _multiplications(model: keras.Model) -> int:
    """Of one image: each weight of a layer counts once for each place of its output."""
    places = ((layer, layer.output.shape[1:-1]) for layer in model.layers if layer.weights)
    return sum(layer.count_params() * math.prod(shape) for layer, shape in places)


def train(spec: Spec, code: str, end: float, ticket: str) -> int | None:
    """As `calls.train`."""
    here = _session(spec)
    study, task = here.study(code), here.task(code)
    trial = study.claim(ticket)
    if trial is None:
        return None
    with study.beating(trial):
        try:
            _Training(study, task, trial).run(end)
        finally:
            keras.backend.clear_session()
            gc.collect()
    return trial.number


class _Training:
    """One trial: in Optuna, in MLflow, and on the processor.

    It ends in Optuna first: what is told there has happened, and a run that was left open by a
    kill right then is ended accordingly when the search goes on.
    """

    def __init__(self, study: Study, task: Task, trial: "optuna.Trial") -> None:
        self.study, self.task, self.trial = study, task, trial
        about = study.about
        tags = {
            "level": "trial",
            "architecture": task.code,
            "trial": trial.number,
            "study": study.name,
            "data_digest": about["data_digest"],
        }
        parent = Run(about["run_id"], about["experiment"])
        self.own = parent.child(f"{task.code} trial {trial.number}", tags)
        trial.set_user_attr("run_id", self.own.id)

    def run(self, end: float) -> None:
        """Trains to the end, whichever it is."""
        try:
            measured = self._train(end)
        except search.Pruned:
            self._end("pruned" if self.study.prune(self.trial) else "")
        except search.TakenAway:
            self._end("")
        except Exception as error:  # noqa: BLE001 - a trial that fails is one result of a search
            if self.study.fail(self.trial, error):
                self.own.failed(traceback.format_exc())
            else:
                self._end("")
        else:
            self.own.flush(wait=True)  # what is told as complete has its metrics
            self._end("complete" if self.study.complete(self.trial, measured) else "")

    def _end(self, state: str) -> None:
        """Ends the run; an empty state: the trial is another's by now."""
        if state:
            self.own.tags({"state": state})
        self.own.end("FINISHED" if state else "KILLED")

    def _train(self, end: float) -> dict[str, float]:
        settings = self.study.settings
        seed = self.study.seed(self.trial)
        params = self.task.space(self.trial) | self.task.fixed
        self.trial.set_user_attr("params", params)
        given = {"architecture": self.task.code, "seed": seed, "epochs": settings.epochs}
        self.own.first_params(params | given)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            self.own.metrics(metrics, step=epoch)
            if self.study.is_hopeless(self.trial, epoch, metrics["val_accuracy"]):
                raise search.Pruned

        model, fit = self.task.train(
            params,
            epochs=settings.epochs,
            seed=seed,
            on_epoch=on_epoch,
            deadline=lambda: time.time() > end,
        )
        measured = measure(self.task, model, fit)
        self.own.metrics(measured | {"best_epoch": fit.best_epoch}, step=len(fit.rows))
        self.own.tags({"stopped": fit.stopped or "all epochs"})
        self.trial.set_user_attr("history", fit.history.to_dict("list"))
        if self.study.is_better(measured):
            self._keep(model)
        return measured

    def _keep(self, model: keras.Model) -> None:
        """Keeps a network beside that of the best before it, as this trial may never complete."""
        if self.study.networks.is_dir():
            _save(model, self.study.network(self.trial.number))
            self.study.tidy()
        else:
            self._log(model)

    def _log(self, model: keras.Model) -> None:
        part = cache.folder("networks") / f".{uuid.uuid4().hex}" / NETWORK
        part.parent.mkdir()
        try:
            model.save(part)
            self.own.file(part, NETWORK)
        finally:
            part.unlink(missing_ok=True)
            part.parent.rmdir()


def _save(model: keras.Model, path: Path) -> None:
    part = path.with_name(f".{uuid.uuid4().hex}.keras")
    try:
        model.save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def measure(task: Task, model: keras.Model, fit: Fit) -> dict[str, float]:
    """What a trial is ranked by."""
    return {
        "train_accuracy": task.accuracy(model, "train"),
        "val_accuracy": fit.best("val_accuracy"),
        "val_loss": fit.best("val_loss"),
    }


def evaluate_best(spec: Spec, code: str, folder: Path) -> Evaluation:
    """As `calls.evaluate_best`, but raises ParityError."""
    here = _session(spec)
    study, task = here.study(code), here.task(code)
    own = Run(study.about["run_id"], study.about["experiment"])
    best = study.best()
    if best is None:
        raise ValueError(f"Expected a complete trial in study {study.name}, got none.")
    evaluation, pictures = evaluate.evaluate(task, _with_network(study, task, best), folder)
    for name, figure in pictures.items():
        own.figure(figure, f"figures/{name}")
    root = Run(spec.search, study.about["experiment"])
    root.figure(pictures["curves.png"], f"curves/{code}.png")
    for name, figure in study.plots():
        own.figure(figure, f"figures/{name}")
    own.table(evaluation.scores, "scores.csv")
    own.params({"architecture": code} | best.params)
    note = f"{evaluation.title}; best trial {best.number}"
    own.tags({"best_trial": best.number, MLFLOW_RUN_NOTE: note})
    return evaluation


def _with_network(study: Study, task: Task, best: Best) -> Best:
    """The best trial with its network here: as it was kept or logged, else trained once more."""
    if best.network.exists():
        return best
    try:
        where = mlflow.artifacts.download_artifacts(run_id=best.run_id, artifact_path=NETWORK)
        return replace(best, network=Path(where))
    except (MlflowException, OSError):  # neither: the cache was deleted
        done: list[int] = []
        model, fit = task.train(
            best.params,
            epochs=study.settings.epochs,
            seed=study.settings.seed + best.origin,
            on_epoch=lambda epoch, _: done.append(epoch),
            deadline=lambda: len(done) >= len(best.history),
        )
        _save(model, best.network)
        again = measure(task, model, fit)
        return replace(
            best,
            history=fit.history,
            train_accuracy=again["train_accuracy"],
            val_accuracy=again["val_accuracy"],
            val_loss=again["val_loss"],
        )


def speed(spec: Spec, code: str) -> Speed:
    """How fast this process trains the params that a study tries first, on SPEED_STEPS batches."""
    task = _session(spec).task(code)
    keras.utils.set_random_seed(spec.settings.seed)
    model = task.build(task.start | task.fixed)
    rows = task.dataset.rows("train")[: SPEED_STEPS * int(task.start["batch_size"])]
    labels = task.dataset.images["label"].to_numpy()[rows]
    part = Part(task.inputs, rows, labels)
    few = Part(task.inputs, rows[:1], labels[:1])
    begin = time.perf_counter()
    ends = [begin]
    training.fit(
        model,
        task.start,
        part,
        few,
        epochs=1_000_000,  # the deadline ends it; a schedule of so many steps stays in its warm-up
        seed=0,
        on_epoch=lambda *_: ends.append(time.perf_counter()),
        deadline=lambda: len(ends) > 3 and ends[-1] - ends[1] > SPEED_SECONDS,
    )
    keras.backend.clear_session()
    epoch = median(after - before for before, after in pairwise(ends[1:]))
    return Speed(max(0.0, ends[1] - begin - epoch), len(rows) / epoch)
