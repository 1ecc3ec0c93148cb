"""Searches again, with the corrections of people: `mlflow run . -e retrain -P model=...`.

    python -m pipelines.retrain --model models:/NAME@champion --log URL

The settings are those of the search that made the model, its images are there with what people have
labelled since (`feedback.py`). What comes out is the model's next version: challenger, or with
`promote` champion where every gate passes.
"""

from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines import data, feedback, forks, job
from pipelines.config import SETTINGS_FILE, RetrainSettings, SearchSettings
from serving import registered
from serving import settings as entry
from serving.settings import UserError, require


def main(settings: RetrainSettings) -> int:
    """Returns 0, whether or not a gate refused the candidate; 130 where it was interrupted."""
    forks.begin()
    name, version = registered.resolve(settings.model)
    again = of_its_search(name, version, settings)
    feedback.require_some(again)
    dataset = feedback.add(data.prepare(again.data, again.seed), again)
    return job.run(again, dataset, retrained_from=version)


def of_its_search(name: str, version: str, given: RetrainSettings) -> SearchSettings:
    """The settings of the search that made a version, with what is given in their place.

    Raises UserError where no search made it, and where its images or weights are gone.
    """
    searched = _searched(name, version)
    again = replace(
        searched,
        name=name,
        feedback=given.log,
        promote=given.promote,
        storage=given.storage,
        workers=given.workers,
        timeout=given.timeout,
        data=given.data or searched.data,
        weights=given.weights or searched.weights,
    )
    require(
        bool(given.data) or again.data == "digits" or Path(again.data).is_dir(),
        f"Expected the images where version {version} of {name} had them, but {again.data} is no "
        "folder here; give theirs as `data`.",
    )
    again.require_weights()
    return again


def _searched(name: str, version: str) -> SearchSettings:
    """The settings of the search that made a version."""
    run_id = MlflowClient().get_model_version(name, version).run_id
    try:
        own = mlflow.get_run(run_id or "")
        root = mlflow.get_run(own.data.tags[MLFLOW_PARENT_RUN_ID])
        text = mlflow.artifacts.load_text(f"{root.info.artifact_uri}/{SETTINGS_FILE}")
    except (MlflowException, KeyError) as error:
        raise UserError(
            f"Expected a version that a search has made, but version {version} of {name} has none "
            f"with {SETTINGS_FILE} in the store; make one with `mlflow run .`."
        ) from error
    return SearchSettings.from_json(text, "")


if __name__ == "__main__":
    entry.run(RetrainSettings, main)
