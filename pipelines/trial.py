"""One training outside of a search: trained, tested, and logged to a run of its own."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import mlflow

from models import ARCHITECTURES, optimiser
from models.transfer import WeightsUnreachableError
from pipelines import evaluate, latency, tasks
from pipelines.config import Plan
from pipelines.data import Dataset
from pipelines.search import Best
from pipelines.summary import say
from pipelines.tasks import Task
from pipelines.tracking import Run, project_run
from serving.settings import UserError, require


def run(plan: Plan, dataset: Dataset) -> int:
    """Trains and tests what `plan` says; returns the exit status."""
    settings = plan.settings
    first = {} if settings.run_id else ARCHITECTURES[settings.architecture].start
    params = first | plan.params
    unknown = sorted(plan.params.keys() - first.keys() - set(optimiser.NAMES)) if first else []
    require(
        not unknown,
        f"Unknown params {', '.join(unknown)} of {settings.architecture}; "
        f"choose of {', '.join(sorted(first))}.",
    )
    try:
        task = tasks.make(settings.architecture, dataset, settings)
        optimiser.build(params, 1)
        task.build(params)
    except (WeightsUnreachableError, ValueError) as error:
        raise UserError(str(error)) from error
    with project_run(f"{dataset.name} {settings.architecture}") as own:
        say(f"Run {own.id}")
        own.tags({"level": "trial", "architecture": settings.architecture, "study": "none"})
        own.tags({"data_digest": dataset.digest})
        own.params(asdict(settings) | params)
        metrics = train(task, replace(plan, params=params), own)
    for name, value in metrics.items():
        then = f"  (then {plan.metrics[name]:.4f})" if name in plan.metrics else ""
        say(f"{name:<16} {value:.4f}{then}")
    return 0


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
            origin=0,
            params=plan.params,
            run_id=run.id,
            network=network,
            history=fit.history,
            train_accuracy=task.accuracy(model, "train"),
            val_accuracy=fit.best("val_accuracy"),
            val_loss=fit.best("val_loss"),
        )
        evaluation, pictures = evaluate.evaluate(task, best, Path(folder, "model"))
        evaluation = latency.measured(evaluation)
        run.metrics(evaluation.metrics, step=len(fit.rows))
        for name, figure in pictures.items():
            run.figure(figure, f"figures/{name}")
        run.table(evaluation.scores, "scores.csv")
        mlflow.log_artifacts(str(evaluation.exported.folder), "model")
    return evaluation.metrics
