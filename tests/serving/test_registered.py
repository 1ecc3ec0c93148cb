"""Registered models by URI."""

from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from serving import registered
from serving.settings import UserError

STRANGER = """
import mlflow


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return model_input


mlflow.models.set_model(Echo())
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a model in a store of its own that another project registered."""
    (tmp_path / "echo.py").write_text(STRANGER)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow.set_tracking_uri(None)
    monkeypatch.chdir(tmp_path)
    mlflow.pyfunc.log_model(
        name="model", python_model="echo.py", registered_model_name="echo", pip_requirements=[]
    )
    return "models:/echo/1"


@pytest.mark.parametrize("uri", ["models:/colours@champion", "models:/colours/1"])
def test_a_version_is_loaded_by_alias_and_by_number(tracking: MlflowClient, uri: str) -> None:
    model = registered.load(uri)
    assert (model.name, model.version) == ("colours", "1")
    assert model.classifier.card.classes == ("blue", "green", "red")
    assert len(model.reference()) == 200


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("models:/shapes@champion", "registered models are: colours, tints."),
        ("models:/shapes/1", "registered models are: colours, tints."),
        ("models:/colours@best", "colours has the aliases @champion."),
        ("models:/colours/7", "colours has the aliases @champion."),
        ("models:/colours/latest", "colours has the aliases @champion."),
    ],
)
def test_an_unknown_model_alias_or_version_is_refused_with_the_choices(
    tracking: MlflowClient, store: str, uri: str, sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        registered.load(uri)
    assert str(refused.value) == f"Unknown model {uri!r} in {store}; {sentence}"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "colours@champion",
        "models:/",
        "models:/colours",
        "models:/colours/",
        "models:/colours@",
        "models:/@champion",
        "runs:/0123/model",
        "/some/folder",
    ],
)
def test_a_uri_of_another_form_is_refused(tracking: MlflowClient, uri: str) -> None:
    with pytest.raises(UserError) as refused:
        registered.load(uri)
    expected = f"Expected models:/NAME@ALIAS or models:/NAME/VERSION, got {uri!r}."
    assert str(refused.value) == expected


def test_a_model_that_is_not_ours_is_refused(echo: str) -> None:
    with pytest.raises(UserError) as refused:
        registered.load(echo)
    sentence = str(refused.value)
    assert sentence.startswith(f"Expected a model registered by Lookout, but {echo} cannot be")
    assert "\n" not in sentence


def test_a_version_without_a_reference_says_so(tracking: MlflowClient) -> None:
    with pytest.raises(UserError, match=r"Expected reference\.parquet in colours version 2, but"):
        registered.load("models:/colours/2").reference()


def test_a_store_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(None)
    with pytest.raises(UserError) as refused:
        registered.load("models:/colours/1")
    sentence = str(refused.value)
    assert sentence.startswith("Unknown model 'models:/colours/1' in http://127.0.0.1:9; the store")
    assert "secret" not in sentence
