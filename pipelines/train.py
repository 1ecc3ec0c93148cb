"""Trains one architecture, or a trial again: `mlflow run . -e train -P architecture=cnn`.

With `-P run_id=ID` the data, params, seed and epochs are those of that trial's run, and what it
reached then is printed beside what it reaches now.
"""

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from models import ARCHITECTURES, Params
from models.transfer import WeightsUnreachableError
from pipelines import data, evaluate, tasks
from pipelines.config import SETTINGS_FILE, SearchSettings, TrainSettings
from pipelines.search import Best
from pipelines.summary import say
from pipelines.tasks import Task
from pipelines.tracking import Run, project_run
from serving import settings as entry
from serving.settings import UserError

NOT_PARAMS = ("architecture", "seed", "epochs")


@dataclass(frozen=True)
class Plan:
    """What to train; metrics: what the trial of that name reached, where there was one."""

    settings: TrainSettings
    params: Params
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)


def main(settings: TrainSettings) -> int:
    """Returns 0."""
    plan = again(settings) if settings.run_id else fresh(settings)
    settings = plan.settings
    dataset = data.prepare(settings.data, settings.seed)
    try:
        task = tasks.make(settings.architecture, dataset, settings)
    except WeightsUnreachableError as error:
        raise UserError(str(error)) from error
    with project_run(f"{dataset.name} {settings.architecture}") as run:
        say(f"Run {run.id}")
        run.tags({"level": "trial", "architecture": settings.architecture, "study": "none"})
        run.tags({"data_digest": dataset.digest})
        run.params(asdict(settings) | plan.params)
        metrics = train(task, plan, run)
    for name, value in metrics.items():
        then = f"  (then {plan.metrics[name]:.4f})" if name in plan.metrics else ""
        say(f"{name:<16} {value:.4f}{then}")
    return 0


def fresh(settings: TrainSettings) -> Plan:
    """The architecture's first params, with those given over them."""
    params = ARCHITECTURES[settings.architecture].start | settings.given()
    return Plan(settings, params, settings.seed)


def again(settings: TrainSettings) -> Plan:
    """A trial's plan, from its run and the search that it belongs to.

    Raises UserError where there is no such run, or it is not a search's trial.
    """
    try:
        trial = mlflow.get_run(settings.run_id)
        study = mlflow.get_run(trial.data.tags[MLFLOW_PARENT_RUN_ID])
        root = mlflow.get_run(study.data.tags[MLFLOW_PARENT_RUN_ID])
        text = mlflow.artifacts.load_text(f"{root.info.artifact_uri}/{SETTINGS_FILE}")
    except (MlflowException, KeyError) as error:
        raise UserError(
            f"Expected run_id to be the run of a search's trial in {mlflow.get_tracking_uri()}, "
            f"got {settings.run_id!r}."
        ) from error
    searched = asdict(SearchSettings.from_json(text, ""))
    shared = {name: searched[name] for name in asdict(settings) if name in searched}
    logged = {name: _value(value) for name, value in trial.data.params.items()}
    settings = replace(
        settings,
        **shared | {"architecture": trial.data.tags["architecture"], "epochs": logged["epochs"]},
    )
    params = {name: value for name, value in logged.items() if name not in NOT_PARAMS}
    return Plan(settings, params, int(logged["seed"]), trial.data.metrics)


def train(task: Task, plan: Plan, run: Run) -> dict[str, float]:
    """Trains and tests one network; logs metrics, pictures and the exported network."""
    epochs = plan.settings.epochs
    model, fit = task.train(
        plan.params,
        epochs=epochs,
        seed=plan.seed,
        on_epoch=lambda epoch, metrics: run.metrics(metrics, step=epoch),
    )
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, "network.keras")
        model.save(network)
        best = Best(
            number=0,
            params=plan.params,
            run_id=run.id,
            network=network,
            history=fit.history,
            train_accuracy=task.accuracy(model, "train"),
            val_accuracy=fit.best("val_accuracy"),
            val_loss=fit.best("val_loss"),
        )
        evaluation, pictures = evaluate.evaluate(task, best, Path(folder, "model"))
        run.metrics(evaluation.metrics, step=len(fit.rows))
        for name, figure in pictures.items():
            run.figure(figure, f"figures/{name}")
        run.table(evaluation.scores, "scores.csv")
        mlflow.log_artifacts(str(evaluation.exported.folder), "model")
    return evaluation.metrics


def _value(text: str) -> float | int | str | bool:
    """A parameter as it was before MLflow made it a string."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    entry.run(TrainSettings, main)
