"""A registered model by its URI, as the model's own code loads it."""

import re
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from serving.predictor import REFERENCE, Classifier
from serving.settings import UserError
from serving.uri import parse


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a registered model, loaded."""

    name: str
    version: str
    run_id: str
    classifier: Classifier
    folder: Path

    def reference(self) -> pd.DataFrame:
        """Features and probabilities of the images that this version was tested on.

        Raises UserError where the version was registered without them.
        """
        path = self.folder / REFERENCE
        if not path.exists():
            raise UserError(
                f"Expected {REFERENCE} in {self.name} version {self.version}, but it has none; "
                "register the model with `mlflow run .`, which adds it."
            )
        return pd.read_parquet(path)


def load(uri: str) -> RegisteredModel:
    """The version that `uri` names: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    The answers come from the code and files of that version. Raises UserError for a URI of another
    form, an unknown model, version or alias, and a model that is not one of Lookout's.
    """
    name, version = resolve(uri)
    details = MlflowClient().get_model_version(name, version)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{name}/{version}").unwrap_python_model()
        return RegisteredModel(name, version, details.run_id or "", model.classifier, model.folder)
    except (MlflowException, AttributeError, ImportError, OSError, ValueError) as error:
        raise UserError(
            f"Expected a model registered by Lookout, but {uri} cannot be loaded: "
            f"{' '.join(str(error).split()).rstrip('.')}."
        ) from error


def resolve(uri: str) -> tuple[str, str]:
    """Name and version that a `models:/` URI stands for today. Raises UserError as `load`."""
    name, alias, version = parse(uri)
    try:
        client = MlflowClient()
        found = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        )
        return name, str(found.version)
    except MlflowException as error:
        raise UserError(f"Unknown model {uri!r} in {_store()}; {_known(name)}.") from error


def _known(name: str) -> str:
    try:
        registered = {model.name: model for model in MlflowClient().search_registered_models()}
    except MlflowException:
        return "the store gives no answer: set MLFLOW_TRACKING_URI to one that does"
    if name not in registered:
        return f"registered models are: {', '.join(sorted(registered)) or 'none yet'}"
    aliases = ", ".join(f"@{alias}" for alias in registered[name].aliases) or "none yet"
    return f"{name} has the aliases {aliases}"


def _store() -> str:
    """The store's URI without the password that it may hold."""
    return re.sub(r"//.*@", "//", mlflow.get_tracking_uri())
