"""Trains one architecture, or a trial again: `mlflow run . -e train -P architecture=cnn`.

With `-P run_id=ID` the data, params, seed and epochs are those of that trial's run, and what it
reached then is printed beside what it reaches now.
"""

from dataclasses import asdict, replace

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines import data, feedback
from pipelines.backend import start_up
from pipelines.config import SETTINGS_FILE, Plan, SearchSettings, TrainSettings
from serving import settings as entry
from serving.settings import UserError

NOT_PARAMS = ("architecture", "seed", "epochs")


def main(settings: TrainSettings) -> int:
    """Returns 0."""
    plan = again(settings) if settings.run_id else Plan(settings, settings.given(), settings.seed)
    plan.settings.require_weights()
    dataset = data.prepare(plan.settings.data, plan.settings.seed)
    if plan.searched:
        dataset = feedback.add(dataset, plan.searched)
    with start_up():
        from pipelines import trial
    return trial.run(plan, dataset)


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
    searched = SearchSettings.from_json(text, root.info.run_id)
    known = asdict(searched)
    shared = {name: known[name] for name in asdict(settings) if name in known}
    logged = {name: _value(value) for name, value in trial.data.params.items()}
    settings = replace(
        settings,
        **shared | {"architecture": trial.data.tags["architecture"], "epochs": logged["epochs"]},
    )
    params = {name: value for name, value in logged.items() if name not in NOT_PARAMS}
    return Plan(settings, params, int(logged["seed"]), trial.data.metrics, searched)


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
