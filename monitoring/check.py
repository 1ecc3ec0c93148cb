"""One drift check: a folder of images against what a registered model was tested on.

    python -m monitoring.check --model models:/NAME@champion --images FOLDER

Logs a run with `drift_report.html` and `drift.json`. Exit status: 0; 1 where images drifted and
`fail_on_drift` is true; 2 for what cannot be checked, which is refused before a run is opened.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from tqdm import tqdm

from monitoring import drift, history, report
from monitoring.accuracy import Accuracy
from monitoring.drift import DETECTORS, MINIMUM, Verdict
from monitoring.features import frame
from serving import folder, registered
from serving.durable import replacing
from serving.predictor import ImageError
from serving.registered import RegisteredModel
from serving.settings import UserError, describe, require, run

PICTURES = 12
NUMBERS = ("statistic", "p_value", "corrected_p_value", "effect_size")
METRICS_A_CALL = 500  # MLflow takes at most 1,000 at once
NAME_LENGTH = 200  # MLflow's bound is 250


@dataclass(frozen=True)
class MonitorSettings:
    """Checks a folder of images for drift against the reference of a registered model."""

    model: str = describe("registered model, as models:/NAME@champion or models:/NAME/VERSION")
    images: str = describe("folder of images to check", "")
    output: str = describe("file to write drift.json to as well; empty: none", "")
    fail_on_drift: bool = describe("exit with status 1 where the images drifted", False)

    def __post_init__(self) -> None:
        require(bool(self.images), "Expected a folder of images to check, got none; give `images`.")
        if self.output:
            path = Path(self.output)
            require(not path.is_dir(), f"Expected a file as `output`, but {path} is a folder.")
            require(
                path.parent.is_dir(),
                f"Expected a folder to write {path.name} in, but {path.parent} does not exist.",
            )


def main(settings: MonitorSettings) -> int:
    """Checks, logs, prints a summary. Returns 1 for drift with `fail_on_drift`, else 0.

    Raises UserError for an unknown model, one without a reference, a missing or empty folder, and
    fewer answered images than a check needs.
    """
    paths = folder.files(Path(settings.images))
    _require_enough(len(paths), settings.images)
    model = registered.load(settings.model)
    reference, classes = model.reference(), model.classifier.card.classes
    current = frame(_progress(folder.answer(model.classifier, paths), len(paths)), classes)
    unreadable = len(paths) - len(current)
    _require_enough(len(current), settings.images, unreadable)
    verdict = drift.check(reference, current, classes)
    html = report.page(
        verdict,
        reference,
        current,
        model=f"{model.name} version {model.version}",
        source=settings.images,
        unreadable=unreadable,
        estimated=Accuracy(
            verdict.estimated_accuracy,
            verdict.estimated_accuracy,
            verdict.estimated_accuracy,
            verdict.images,
        ),
        pairs=list(_pairs(current, Path(settings.images))),
        history=history.past(model.name, settings.images),
        when=datetime.now(UTC),
    )
    record = _record(verdict, model, settings.images, unreadable)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    where = _log(settings, model, verdict, record, {"drift_report.html": html, "drift.json": text})
    if settings.output:
        _write(Path(settings.output), text)
    print(_summary(verdict, unreadable, where))
    return 1 if verdict.drift and settings.fail_on_drift else 0


def metrics(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of drift.json under the same names, as MLflow takes them.

    A detector's are NUMBERS of its column, as `effect_size.COLUMN`; what MLflow does not allow
    in a name becomes `_`, and columns that this makes alike are numbered.
    """
    numbers = {
        key: float(value) for key, value in record.items() if isinstance(value, bool | int | float)
    }
    taken: set[str] = set()
    for finding in record["detectors"]:
        plain = re.sub(r"[^\w\-. ]", "_", finding["column"])[:NAME_LENGTH]
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([plain], numbered) if name not in taken)
        taken.add(name)
        for number in NUMBERS:
            numbers[f"{number}.{name}"] = finding[number]
    return numbers


def _require_enough(images: int, source: str, unreadable: int = 0) -> None:
    """Refuses early what `drift.check` would, in words about the folder."""
    others = f", and {unreadable} files that cannot be read" if unreadable else ""
    require(
        images >= MINIMUM,
        f"Expected at least {MINIMUM} images in {source}, got {images}{others}; "
        "fewer cannot tell drift from chance.",
    )


def _progress(answers: Iterator[folder.Answer], total: int) -> Iterator[folder.Answer]:
    """The answers, with a bar where standard error is a terminal."""
    yield from tqdm(answers, total=total, unit="image", disable=not sys.stderr.isatty())


def _pairs(current: pd.DataFrame, root: Path) -> Iterator[report.Pair]:
    """The current images that the model is least sure of, as far as they are still there."""
    for row in current.nsmallest(PICTURES, "confidence").itertuples():
        try:
            jpeg = report.thumbnail(folder.read(Path(row.path)))
        except ImageError:
            continue
        name = str(Path(row.path).relative_to(root))
        yield report.Pair(report.Picture(name, row.label, row.confidence, jpeg), None, 1.0)


def _record(
    verdict: Verdict, model: RegisteredModel, source: str, unreadable: int
) -> dict[str, Any]:
    """drift.json: a contract; a change to it goes into the changelog."""
    return {
        "drift": verdict.drift,
        "verdict": verdict.sentence,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_name": model.name,
        "model_version": model.version,
        "source": source,
        "alpha": verdict.alpha,
        "images": verdict.images,
        "unreadable": unreadable,
        "share_unreadable": unreadable / (verdict.images + unreadable),
        "reference_images": verdict.reference_images,
        "reference_accuracy": verdict.reference_accuracy,
        "estimated_accuracy": verdict.estimated_accuracy,
        "detectors": [
            {
                "detector": finding.detector,
                "column": finding.column,
                "test": DETECTORS[finding.detector].name,
                "statistic": finding.statistic,
                "p_value": finding.p_value,
                "corrected_p_value": finding.corrected_p_value,
                "effect_size": finding.effect_size,
                "effect": DETECTORS[finding.detector].effect,
                "floor": finding.floor,
                "verdict": "moved" if finding.moved else "steady",
            }
            for finding in verdict.findings
        ],
    }


def _log(
    settings: MonitorSettings,
    model: RegisteredModel,
    verdict: Verdict,
    record: dict[str, Any],
    files: dict[str, str],
) -> str:
    """Logs the check as a run, the one of `mlflow run` where there is one. Returns its report."""
    tags = {
        "level": "monitor",
        "model_name": model.name,
        "model_version": model.version,
        "drift": str(verdict.drift).lower(),
        "source": settings.images,
    }
    with mlflow.start_run(run_name=f"monitor {model.name} v{model.version}", tags=tags) as active:
        given = active.data.params  # `mlflow run` has logged them, spelled as they were given
        mlflow.log_params({k: v for k, v in asdict(settings).items() if k not in given})
        numbers = list(metrics(record).items())
        for start in range(0, len(numbers), METRICS_A_CALL):
            mlflow.log_metrics(dict(numbers[start : start + METRICS_A_CALL]))
        for name, text in files.items():
            mlflow.log_text(text, name)
        return str(mlflow.get_artifact_uri("drift_report.html"))


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"Expected to write {path}, but that failed: {error.strerror}.") from error


def _summary(verdict: Verdict, unreadable: int, where: str) -> str:
    moved = (
        f"  {finding.column}: effect size {finding.effect_size:.2f}, "
        f"corrected p {report.p_text(finding.corrected_p_value)}"
        for finding in verdict.moved
    )
    return "\n".join(
        [
            verdict.sentence,
            *moved,
            f"{verdict.images:,} images answered, {unreadable:,} unreadable; estimated accuracy "
            f"{verdict.estimated_accuracy:.1%}, on the reference {verdict.reference_accuracy:.1%}.",
            f"Report: {where}",
        ]
    )


if __name__ == "__main__":
    run(MonitorSettings, main)
