"""The whole job: `mlflow run . -P data=FOLDER`, or `python -m pipelines.main --data FOLDER`.

Searches each architecture, tests the best trial of each once, logs the finalists, and sends one of
them through the gates into the registry. The digits take two minutes on two cores.
"""

from pipelines import forks
from pipelines.config import SearchSettings
from serving import settings as entry


def main(settings: SearchSettings) -> int:
    """Returns 0, whether or not a gate refused the candidate; 130 where it was interrupted."""
    forks.begin()
    # Now: these take seconds to import, as TensorFlow does there.
    from pipelines import data, feedback, job

    entry.quiet()  # importing MLflow has made it talk
    if settings.resume:
        settings = job.interrupted(settings)
        print(f"Resuming {settings.resume} with the settings that it began with", flush=True)
    settings.require_weights()
    dataset = data.prepare(settings.data, settings.seed)
    return job.run(settings, feedback.add(dataset, settings))


if __name__ == "__main__":
    entry.run(SearchSettings, main)
