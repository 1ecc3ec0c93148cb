"""The model registry: what is logged and registered, and where the aliases point.

`champion` serves, `previous` is the champion before it, `challenger` is the last one refused,
or kept from becoming champion (`promote=false`).
"""

import json
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import log_model
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from monitoring import features
from monitoring.accuracy import CORRECTNESS, Correctness
from monitoring.features import FILES
from monitoring.pictures import thumbnail
from pipelines import correctness as learning
from pipelines import pixels
from pipelines.backend import start_up
from pipelines.config import GateSettings
from pipelines.data import Dataset
from pipelines.evaluation import Exported
from pipelines.gates import Candidate, Comparison, compare, judge, refusals
from pipelines.tracking import Run
from serving import folder, registered
from serving.predictor import BESIDE, REFERENCE, Classifier
from serving.registered import RegisteredModel
from serving.settings import UserError

THUMBNAILS = 120  # small pictures of test images that a model carries: half a megabyte
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # of a model, of an alias
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
PREDICTOR = Path(__file__).parents[1] / "serving" / "predictor.py"
CODE = {name: str(PREDICTOR.with_name(f"{name}.py")) for name in BESIDE}
SERVES_WITH = (
    *("mlflow", "numpy", "pandas", "pillow", "ai-edge-litert", "pyarrow", "pyyaml"),
    *("sqlalchemy", "psycopg", "psycopg-binary", "boto3"),  # the inference log
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "confidence"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)


def reference(exported: Exported, dataset: Dataset) -> pd.DataFrame:
    """Features and answers of the test images, as the exported network gives them.

    A row an image: as `monitoring.features.frame`, with `truth` (class), `content` (digest), and
    for a few of each class `thumbnail` (JPEG). Its attributes are FILES: how many files the data
    set has, and how many of them cannot be read.
    """
    images = dataset.images.iloc[dataset.rows("test")]
    with start_up():  # LiteRT tells of its delegate
        classifier = Classifier(exported.folder)
        answers = folder.answer(
            classifier, [Path(path) for path in images["path"]], features.of_photo
        )
        table = features.frame(answers, classifier.card.classes)
    known = images.set_index("path")
    table = table.assign(
        truth=table["path"].map(known["class"]),
        content=table["path"].map(known["content"]),
        thumbnail=_thumbnails(table["path"], images.set_index("path")["class"]),
    )
    table.attrs = dict(zip(FILES, (dataset.files, dataset.unreadable), strict=True))
    return table


def correctness(exported: Exported, dataset: Dataset) -> Correctness | None:
    """When the exported network is right, learnt from corrupted validation images."""
    with start_up():  # LiteRT tells of its delegate
        classifier = Classifier(exported.folder)
    rows = dataset.rows("val")[: learning.IMAGES]
    found = pixels.load(dataset, classifier.card.size)[rows]
    return learning.learn(classifier, found, dataset.labels("val")[: learning.IMAGES])


def _thumbnails(paths: pd.Series, classes: pd.Series) -> list[bytes | None]:
    """Small pictures of the first images of every class, at most THUMBNAILS in all."""
    each = max(1, THUMBNAILS // classes.nunique())
    shown = set(classes.groupby(classes).head(each).index[:THUMBNAILS])
    return [thumbnail(folder.read(Path(path))) if path in shown else None for path in paths]


def log(
    run: Run,
    name: str,
    exported: Exported,
    table: pd.DataFrame,
    known: Correctness | None = None,
) -> str:
    """Logs a finalist as a model of `run`: code, LiteRT, JSON, Parquet, .keras; no pickle.

    known: when it is right, if that was learnt. Returns the id of the logged model.
    """
    table.to_parquet(exported.folder / REFERENCE)
    if known:
        known.write(exported.folder / CORRECTNESS)
    client = MlflowClient()
    ended = client.get_run(run.id).info.end_time
    with mlflow.start_run(run_id=run.id, nested=True):
        info = log_model(
            name=name,
            python_model=str(PREDICTOR),
            artifacts={"model": str(exported.folder), **CODE},
            signature=SIGNATURE,
            pip_requirements=[f"{package}=={installed(package)}" for package in SERVES_WITH],
        )
    client.set_terminated(run.id, end_time=ended)  # or the run would seem to have taken till now
    return str(info.model_id)


def registered_before(name: str, run_id: str, trial: int) -> str | None:
    """The version that an interrupted search made of this run's trial; None where it made none."""
    found = MlflowClient().search_model_versions(f"name='{name}' and run_id='{run_id}'")
    same = (version for version in found if version.tags.get("best_trial") == str(trial))
    return next((str(version.version) for version in same), None)


def register(
    name: str,
    run_id: str,
    model_id: str,
    verdicts: Mapping[str, str],
    card: str,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A new version of `name`, with verdicts as tags and its card; returns its number."""
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    gates = {f"gate.{gate}": verdict[:5000] for gate, verdict in verdicts.items()}
    own = {**gates, **(tags or {})}
    version = client.create_model_version(
        name, f"models:/{model_id}", run_id, own, description=card, model_id=model_id
    )
    # What `mlflow.register_model` sets, for the UI to show the version beside the logged model.
    versions = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})
    return str(version.version)


def settle(name: str, version: str, verdicts: dict[str, str], *, promote: bool = True) -> str:
    """Points an alias at the version: `champion` where every gate passed, else `challenger`.

    promote: False keeps it `challenger` whatever the gates say, for a person to decide.
    `previous` moves before `champion`, so that no crash between the two loses the last champion.
    Returns the alias. Two searches that end at the same moment under one name are not told apart.
    """
    client = MlflowClient()
    if refusals(verdicts) or not promote:
        client.set_registered_model_alias(name, CHALLENGER, version)
        return CHALLENGER
    champion = at(name, CHAMPION)
    if champion and champion != version:
        client.set_registered_model_alias(name, PREVIOUS, champion)
    client.set_registered_model_alias(name, CHAMPION, version)
    if at(name, CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return CHAMPION


def at(name: str, alias: str) -> str | None:
    """The version that an alias points at, None where there is none.

    Raises MlflowException where the store fails: no answer is not the same as no champion.
    """
    try:
        return str(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        return None


def champion_of(name: str) -> RegisteredModel | None:
    """Today's champion, loaded; None where there is none."""
    version = at(name, CHAMPION)
    return registered.load(f"models:/{name}/{version}") if version else None


def against(champion: RegisteredModel, table: pd.DataFrame) -> Comparison:
    """Compares the rows of a candidate's reference with the champion's answers to the same images.

    Raises UserError where the champion neither was tested on an image nor can be asked about it.
    """
    answers = _remembered(champion)
    unknown = table[~table["content"].isin(answers.index)]
    missing = [path for path in unknown["path"] if not Path(path).is_file()]
    if missing:
        raise UserError(
            f"Expected the {len(table)} test images of the candidate, to ask champion version "
            f"{champion.version} about them, but {len(missing)} are gone, the first: {missing[0]}."
        )
    asked = folder.answer(
        champion.classifier, [Path(path) for path in unknown["path"]], features.of_photo
    )
    labels = features.frame(asked, champion.classifier.card.classes).set_index("path")["label"]
    known = table["content"].map(answers).fillna(table["path"].map(labels))
    return compare(champion.version, table["truth"], table["label"], known)


def candidate(
    name: str, version: str | None, metrics: Mapping[str, float], table: pd.DataFrame
) -> Candidate:
    """What the gates look at, of metrics and a reference; version: None before it has one."""
    comparison, incomparable = None, ""
    try:
        champion = champion_of(name)
        if champion and champion.version != version:
            comparison = against(champion, table)
    except UserError as error:
        incomparable = str(error)
    return Candidate(
        metrics["test_accuracy"],
        metrics["overfit_gap"],
        metrics["latency_ms"],
        metrics["size_mb"],
        float(table["truth"].value_counts(normalize=True).iloc[0]),
        comparison,
        incomparable,
    )


def promote(name: str, version: str, bounds: GateSettings) -> tuple[str, dict[str, str]]:
    """Sends a version through the gates again; returns the alias it got, and the verdicts.

    Raises UserError for an unknown model or version, and one that no search has measured.
    """
    model = registered.load(f"models:/{name}/{version}")
    client = MlflowClient()
    metrics = client.get_run(model.run_id).data.metrics if model.run_id else {}
    if "test_accuracy" not in metrics:
        raise UserError(
            f"Expected a version that a search has measured, but version {version} of {name} has "
            "no test_accuracy on its run; register it with `mlflow run .`."
        )
    verdicts = judge(candidate(name, version, metrics, model.reference()), bounds)
    for gate, verdict in verdicts.items():
        client.set_model_version_tag(name, version, f"gate.{gate}", verdict[:5000])
    champion = at(name, CHAMPION)
    if refusals(verdicts) and champion == version:
        return CHAMPION, verdicts
    return settle(name, version, verdicts), verdicts


def rollback(name: str) -> tuple[str, str]:
    """Swaps `champion` and `previous`; returns the versions (now champion, now previous).

    Raises UserError where the model is unknown, or has no previous champion.
    """
    champion, previous = at(name, CHAMPION), at(name, PREVIOUS)
    if not champion or not previous:
        registered.resolve(f"models:/{name}@{PREVIOUS}")
        raise UserError(f"Expected a champion of {name} to roll back from, but it has none.")
    if champion == previous:
        raise UserError(
            f"Expected a previous champion of {name} that is another, but both are version "
            f"{champion}; choose one with `promote`."
        )
    client = MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, previous)
    client.set_registered_model_alias(name, PREVIOUS, champion)
    return previous, champion


def _remembered(champion: RegisteredModel) -> pd.Series:
    """The champion's labels by image content, from its reference where it has one."""
    try:
        table = champion.reference()
    except UserError:
        return pd.Series(dtype=object)
    return table.drop_duplicates("content").set_index("content")["label"]


def card(
    dataset: Dataset,
    title: str,
    metrics: Mapping[str, float],
    params: Mapping[str, object],
    retrained_from: str = "",
) -> str:
    """The model card, in Markdown (Mitchell et al. 2019, Model Cards for Model Reporting).

    retrained_from: the version whose search was begun again, if one was.
    """
    counts = dataset.counts()
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    chosen = "\n".join(f"| {name} | {value} |" for name, value in sorted(params.items()))
    images = "\n".join(
        f"| {name} | {row.train} | {row.val} | {row.test} |" for name, row in counts.iterrows()
    )
    return f"""# {dataset.name}: {title}

**Answers** which of {len(dataset.classes)} classes an image shows: {", ".join(dataset.classes)}.
It always answers one of them, whatever the image shows; low confidence and the drift check tell
when an image is unlike those that it was built on.

**Built on** the images below (digest `{dataset.digest}`), with {len(dataset.excluded)} files left
out (unreadable, equal, or contradictory). It knows no others: expect less on other cameras, places
and styles.
{_corrections(dataset, retrained_from)}
| class | train | val | test |
| --- | ---: | ---: | ---: |
{images}

**Measured** on the test images, which the search has not seen:

| measure | value |
| --- | ---: |
{rows}

**Params**

| param | value |
| --- | --- |
{chosen}
"""


def _corrections(dataset: Dataset, retrained_from: str) -> str:
    """The card's paragraph on what people have corrected; empty where that is nothing."""
    if dataset.feedback is None:
        return ""
    begun = f"**Retrained** from version {retrained_from}" if retrained_from else "**Trained**"
    return f"\n{begun} with {dataset.feedback.images} corrected images among those to train on.\n"
