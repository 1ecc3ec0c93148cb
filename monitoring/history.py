"""The checks that a model had before, from the runs that they logged."""

from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities import Run

EFFECT = "effect_size."
UNTIL = "until"  # tag: the end of the time that the check looked at
QUOTES = "'\"`\\"


@dataclass(frozen=True)
class Past:
    """What one finished check found.

    time: of its start, aware, UTC. estimated_accuracy, accuracy (None where no labels were known)
    and largest_effect: 0..1. version: of the model. until: the end of the time that the
    check looked at.
    """

    run_id: str
    time: datetime
    drift: bool
    images: int
    estimated_accuracy: float
    accuracy: float | None
    largest_effect: float
    version: str
    until: datetime | None = None


def past(model_name: str, source: str | None = None, limit: int = 50) -> list[Past]:
    """The newest checks of a model in the active experiment, at most `limit`; the oldest first.

    source: only those of this source, as their tag `source` spells it.
    """
    wanted = {"level": "monitor", "model_name": model_name}
    if source is not None:
        wanted["source"] = source
    conditions = [f"tags.{key} {_equals(value)}" for key, value in wanted.items()]
    runs = mlflow.search_runs(
        filter_string=" and ".join(["attributes.status = 'FINISHED'", *conditions]),
        max_results=limit,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return [
        _past(run)
        for run in reversed(runs)
        if "estimated_accuracy" in run.data.metrics and wanted.items() <= run.data.tags.items()
    ]


def _past(run: Run) -> Past:
    metrics, tags = run.data.metrics, run.data.tags
    effects = (value for name, value in metrics.items() if name.startswith(EFFECT))
    return Past(
        run_id=run.info.run_id,
        time=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        drift=tags.get("drift") == "true",
        images=int(metrics.get("images", 0)),
        estimated_accuracy=metrics["estimated_accuracy"],
        accuracy=metrics.get("accuracy"),
        largest_effect=max(effects, default=0.0),
        version=tags.get("model_version", ""),
        until=datetime.fromisoformat(tags[UNTIL]).astimezone(UTC) if UNTIL in tags else None,
    )


def _equals(value: str) -> str:
    """A filter's comparison; as MLflow knows no escape, what cannot be quoted stands for any."""
    pattern = value.translate(dict.fromkeys(map(ord, QUOTES), "_"))
    return f"= '{value}'" if pattern == value else f"LIKE '{pattern}'"
