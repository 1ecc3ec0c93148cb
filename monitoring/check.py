"""One drift check: current images against what a registered model was tested on.

    python -m monitoring.check --model models:/NAME@champion --images FOLDER
    python -m monitoring.check --model models:/NAME@champion --log URL --since 24h

Logs a run with `drift_report.html` and `drift.json`. Exit status: 0; 1 where images drifted and
`fail_on_drift` is true; 2 for what cannot be checked, which is refused before a run is opened.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from monitoring import drift, history, inference, report, sources
from monitoring.accuracy import CORRECTNESS, Accuracy, Correctness, by_class, measured
from monitoring.detectors import Files
from monitoring.drift import MINIMUM, Verdict
from monitoring.features import FILES, NOVELTY, embedding_columns, probability_columns
from monitoring.pictures import Pair, Picture, thumbnail
from monitoring.record import Checked, metrics, record
from monitoring.sources import Current
from monitoring.window import LAST, Window, since_last
from serving import folder, registered
from serving.durable import replacing
from serving.predictor import ImageError
from serving.registered import RegisteredModel
from serving.settings import UserError, describe, require, run

PICTURES = 12
PATHS = ("images", "scores", "output", "workspace")
TOO_FEW = "fewer cannot tell drift from chance"
METRICS_A_CALL = 500  # MLflow takes at most 1,000 at once
EVER = datetime(1970, 1, 1, tzinfo=UTC)
DAY = "24h"  # of a log, where nothing else is asked for


@dataclass(frozen=True)
class MonitorSettings:
    """Checks current images for drift against the reference of a registered model."""

    model: str = describe("registered model, as models:/NAME@champion or models:/NAME/VERSION")
    images: str = describe("folder of images to check", "")
    log: str = describe("or an inference log to check: its URL; env: that in LOOKOUT_LOG", "")
    scores: str = describe("or a Parquet file to check, as `score` writes it", "")
    since: str = describe(
        "30m, 24h, 7d; 500: the last so many images; last: since the last check; "
        "empty: 24h of a log, all of the others",
        "",
    )
    labelled: bool = describe("the folders in `images` are named by the right labels", False)
    output: str = describe("file to write drift.json to as well; empty: none", "")
    workspace: str = describe("folder for `evidently ui` to be fed too; empty: none", "")
    fail_on_drift: bool = describe("exit with status 1 where the images drifted", False)

    def __post_init__(self) -> None:
        """Raises UserError for no source or several, and places that cannot be written to."""
        given = [name for name in ("images", "log", "scores") if getattr(self, name)]
        require(
            len(given) == 1,
            "Expected one of `images`, `log` and `scores` to check, got "
            f"{' and '.join(given) or 'none'}.",
        )
        Window.parse(self.since, sources.now())
        require(
            not self.labelled or bool(self.images),
            "Expected `labelled` with `images`: the folders there name the right labels.",
        )
        if self.output:
            path = Path(self.output)
            require(not path.is_dir(), f"Expected a file as `output`, but {path} is a folder.")
            require(
                path.parent.is_dir(),
                f"Expected a folder to write {path.name} in, but {path.parent} does not exist.",
            )

    @property
    def source(self) -> str:
        """What is checked, as it may be shown: a log's URL without its password."""
        if self.log:
            return inference.public(self.log)
        return folder.written(Path(self.images or self.scores))


def main(settings: MonitorSettings) -> int:
    """Checks, logs, prints a summary. Returns 1 for drift with `fail_on_drift`, else 0.

    Raises UserError for an unknown model, one without a reference, a source that does not answer
    or belongs to other classes, fewer answered images than a check needs, and a tracking store that
    does not answer.
    """
    try:
        return _main(settings)
    except (MlflowException, SQLAlchemyError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".")
        cause = re.sub(r"//[^/\s]*@", "//", cause)  # MLflow's errors tell the password of its URL
        raise UserError(
            f"Expected MLflow's tracking store to answer, but: {cause}; see MLFLOW_TRACKING_URI."
        ) from error


def _main(settings: MonitorSettings) -> int:
    model = registered.load(settings.model)
    reference = model.reference()
    classes = model.classifier.card.classes
    drift.require_columns(
        reference, ["label", *probability_columns(classes), "truth"], "the model's reference"
    )
    window = _window(settings, model.name)
    current = _current(settings, model, window)
    _require_enough(current, settings.source, window)
    verdict = drift.check(
        reference,
        current.rows,
        classes,
        files=_files(reference, current),
        correctness=_correctness(model),
    )
    checked = _checked(settings, model, window, current, verdict)
    html = report.page(
        verdict,
        reference,
        current.rows,
        model=f"{model.name} version {model.version}",
        source=f"{settings.source} ({window})",
        unreadable=current.unreadable,
        estimated=verdict.estimated,
        real=checked.real,
        by_class=checked.by_class,
        left_out=current.left_out,
        pairs=list(_pairs(reference, current)),
        history=history.past(model.name, settings.source),
        when=window.until,
    )
    text = json.dumps(record(checked), indent=2, ensure_ascii=False, allow_nan=False)
    if settings.workspace:
        report.feed(
            Path(settings.workspace), model.name, verdict, reference, current.rows, window.until
        )
    where = _log(settings, checked, {"drift_report.html": html, "drift.json": text})
    if settings.output:
        _write(Path(settings.output), text)
    print(_summary(checked, where))
    return 1 if verdict.drift and settings.fail_on_drift else 0


def _window(settings: MonitorSettings, model: str) -> Window:
    asked = settings.since or (DAY if settings.log else "")
    window = Window.parse(asked, sources.now())
    if asked != LAST:
        return window
    last = since_last(model, settings.source)
    if last is None and settings.log:
        return Window.parse(DAY, window.until)
    if last is None and settings.scores:  # of a table that knows no times, the next would fail
        last = EVER
    return replace(window, after=last)


def _current(settings: MonitorSettings, model: RegisteredModel, window: Window) -> Current:
    if settings.log:
        return inference.of_log(model, settings.log, window)
    if settings.scores:
        return sources.of_table(model, Path(settings.scores), window)
    return sources.of_folder(model, Path(settings.images), window, labelled=settings.labelled)


def _require_enough(current: Current, source: str, window: Window) -> None:
    """Refuses early what `drift.check` would, in words about the source."""
    others = f", and {current.unreadable} files that cannot be read" if current.unreadable else ""
    told = f" ({current.left_out[-1].rstrip('.')})" if current.left_out else ""
    require(
        len(current.rows) >= MINIMUM,
        f"Expected at least {MINIMUM} images in {source} ({window}), got {len(current.rows)}"
        f"{others}{told}; {TOO_FEW}.",
    )


def _files(reference: pd.DataFrame, current: Current) -> Files | None:
    """Counts of files, where the source knows them; an older reference knows of none unreadable."""
    if current.unreadable is None:
        return None
    known = [int(reference.attrs.get(name, 0)) for name in FILES]
    total, unreadable = known if known[0] else (len(reference), 0)
    return Files(total, unreadable, len(current.rows) + current.unreadable, current.unreadable)


def _correctness(model: RegisteredModel) -> Correctness | None:
    path = model.folder / CORRECTNESS
    return Correctness.read(path) if path.exists() else None


def _checked(
    settings: MonitorSettings,
    model: RegisteredModel,
    window: Window,
    current: Current,
    verdict: Verdict,
) -> Checked:
    real: Accuracy | None = None
    classes: dict[str, Accuracy] = {}
    if labels := current.labels:
        real = measured(labels.truth, labels.label)
        classes = by_class(labels.truth, labels.label)
    return Checked(
        verdict,
        model.name,
        model.version,
        settings.source,
        window,
        current.unreadable,
        tuple(current.left_out),
        real,
        classes,
    )


def _pairs(reference: pd.DataFrame, current: Current) -> Iterator[Pair]:
    """The current images least like the reference, each with the reference image nearest to it.

    Least alike are the most novel; of a model without an embedding, those it is least sure of.
    """
    rows = current.rows
    if NOVELTY in rows and NOVELTY in reference:
        order = np.argsort(-rows[NOVELTY].to_numpy(), kind="stable")
        before = np.sort(reference[NOVELTY].to_numpy())
        less = np.searchsorted(before, rows[NOVELTY].to_numpy()) / len(before)
    else:
        order = np.argsort(rows["confidence"].to_numpy(), kind="stable")
        before = np.sort(-reference["confidence"].to_numpy())
        less = np.searchsorted(before, -rows["confidence"].to_numpy()) / len(before)
    nearest = _Nearest(reference)
    for position in order[:PICTURES].tolist():
        row = rows.iloc[position]
        try:
            jpeg = thumbnail(current.picture(position))
        except ImageError:
            continue
        name = str(row.get("path", "")) or f"answer {position + 1}"
        shown = Picture(name, str(row["label"]), float(row["confidence"]), jpeg)
        yield Pair(shown, nearest.to(row), float(less[position]))


class _Nearest:
    """The reference images that a model carries pictures of, by their embeddings."""

    def __init__(self, reference: pd.DataFrame) -> None:
        names = embedding_columns(reference)
        pictured = "thumbnail" in reference and bool(names)
        self._rows = reference[reference["thumbnail"].notna()] if pictured else reference[:0]
        self._names = names
        self._seen = self._rows[names].to_numpy(np.float32)

    def to(self, row: pd.Series) -> Picture | None:
        """The picture nearest to a current row; None where there is none to compare with."""
        if not len(self._rows) or any(name not in row for name in self._names):
            return None
        apart = self._seen - row[self._names].to_numpy(np.float32)
        found = self._rows.iloc[int((apart**2).sum(axis=1).argmin())]
        name = Path(str(found["path"])).name
        jpeg = bytes(found["thumbnail"])
        return Picture(name, str(found["truth"]), float(found["confidence"]), jpeg)


def _log(settings: MonitorSettings, checked: Checked, files: dict[str, str]) -> str:
    """Logs the check as a run, the one of `mlflow run` where there is one. Returns its report."""
    tags = {
        "level": "monitor",
        "model_name": checked.model_name,
        "model_version": checked.model_version,
        "source": checked.source,
        "drift": str(checked.verdict.drift).lower(),
        history.UNTIL: checked.window.until.isoformat(),
    }
    name = f"monitor {checked.model_name} v{checked.model_version}"
    with mlflow.start_run(run_name=name, tags=tags) as active:
        given = active.data.params  # `mlflow run` has logged them, spelled as they were given
        shown = asdict(settings) | {"log": settings.log and checked.source}
        shown |= {name: folder.written(Path(shown[name])) for name in PATHS if shown[name]}
        mlflow.log_params({k: v for k, v in shown.items() if k not in given})
        numbers = list(metrics(record(checked)).items())
        for start in range(0, len(numbers), METRICS_A_CALL):
            mlflow.log_metrics(dict(numbers[start : start + METRICS_A_CALL]))
        for file, text in files.items():
            mlflow.log_text(text, file)
        return str(mlflow.get_artifact_uri("drift_report.html"))


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"Expected to write {path}, but that failed: {error.strerror}.") from error


def _summary(checked: Checked, where: str) -> str:
    verdict = checked.verdict
    moved = (
        f"  {finding.column}: effect size {finding.effect_size:.2f}, "
        f"corrected p {finding.corrected_p_value:.3f}"
        for finding in verdict.moved
    )
    unreadable = "" if checked.unreadable is None else f", {checked.unreadable:,} unreadable"
    real = f"; of {checked.real.images:,} labelled {_share(checked.real)}" if checked.real else ""
    return "\n".join(
        [
            verdict.sentence,
            *moved,
            f"{verdict.images:,} images answered{unreadable}; estimated accuracy "
            f"{_share(verdict.estimated)}{real}; on the reference "
            f"{verdict.reference_accuracy:.1%}.",
            *checked.left_out,
            f"Report: {where}",
        ]
    )


def _share(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"


if __name__ == "__main__":
    run(MonitorSettings, main)
