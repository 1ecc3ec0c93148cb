"""The whole job: `mlflow run . -P data=FOLDER`, or `python -m pipelines.main --data FOLDER`.

Searches each architecture, tests the best trial of each once, logs the finalists, and sends one of
them through the gates into the registry. The digits take two minutes on two cores.
"""

from dataclasses import replace

import mlflow
from mlflow.exceptions import MlflowException

from pipelines import data, job
from pipelines.config import SETTINGS_FILE, SearchSettings
from serving import settings as entry
from serving.settings import UserError, require

OF_THE_MACHINE = ("workers", "backend", "trial_cpus", "trial_gpus", "timeout", "storage")


def main(settings: SearchSettings) -> int:
    """Returns 0, whether or not a gate refused the candidate; 130 where it was interrupted."""
    if settings.resume:
        settings = interrupted(settings)
        print(f"Resuming {settings.resume} with the settings that it began with", flush=True)
    dataset = data.prepare(settings.data, settings.seed)
    return job.run(settings, dataset)


def interrupted(given: SearchSettings) -> SearchSettings:
    """The settings of an earlier run, to resume it; those of the machine as they are given now.

    Raises UserError where there is no such run, it was no search, or it has finished.
    """
    run_id = given.resume
    try:
        found = mlflow.get_run(run_id)
        text = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/{SETTINGS_FILE}")
    except MlflowException as error:
        raise UserError(
            f"Expected resume to be the id of a search's run in {mlflow.get_tracking_uri()}, "
            f"got {run_id!r}."
        ) from error
    require(
        found.info.status != "FINISHED",
        f"Expected an interrupted search to resume, but run {run_id} has finished.",
    )
    plain = SearchSettings()
    named = {name: getattr(given, name) for name in OF_THE_MACHINE}
    changed = {name: value for name, value in named.items() if value != getattr(plain, name)}
    return replace(SearchSettings.from_json(text, run_id), **changed)


if __name__ == "__main__":
    entry.run(SearchSettings, main)
