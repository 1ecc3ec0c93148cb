"""The whole job, through its command: what it leaves in MLflow, and what it refuses."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from PIL import Image

from pipelines import data, job, main, search, train, trials
from pipelines.config import SearchSettings, TrainSettings
from pipelines.gates import GATES, PASSED
from pipelines.tracking import project_run
from serving.settings import UserError
from tests.pipelines.conftest import Store

CODES = {"lm", "cnn", "transfer"}
PICTURES = {
    "figures/curves.png",
    "figures/layers.png",
    "figures/confusion.png",
    "figures/scores.png",
    "figures/mistakes.png",
    "figures/predictions.png",
    "figures/optuna_history.png",
}
COMPARED = {
    "train_accuracy",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_precision",
    "test_recall",
    "test_f1",
    "overfit_gap",
    "latency_ms",
    "size_mb",
}


def test_runs_are_nested_three_levels_deep_and_carry_their_tags(searched) -> None:
    (root,) = searched.runs("search")
    architectures, trials = searched.runs("architecture"), searched.runs("trial")
    assert {run.data.tags["architecture"] for run in architectures} == CODES
    assert len(trials) == 2 * len(CODES)
    parents = {run.info.run_id: run for run in [root, *architectures]}
    for run in [*architectures, *trials]:
        parent = parents[run.data.tags["mlflow.parentRunId"]]
        expected = "search" if run in architectures else "architecture"
        assert parent.data.tags["level"] == expected
    for run in [root, *architectures, *trials]:
        assert run.info.status == "FINISHED"
        assert run.data.tags["data_digest"] == root.data.tags["data_digest"]
        assert {"architecture", "study", "mlflow.source.git.commit"} <= run.data.tags.keys()


def test_every_trial_has_its_params_and_a_metric_an_epoch(searched) -> None:
    for run in searched.runs("trial"):
        assert {"optimizer", "batch_size", "seed"} <= run.data.params.keys()
        history = searched.client.get_metric_history(run.info.run_id, "val_accuracy")
        epochs = 1 if run.data.tags["state"] == "pruned" else 3
        assert {metric.step for metric in history} == set(range(1, epochs + 1))
        assert {"train_accuracy", "val_loss"} <= run.data.metrics.keys()


def test_the_best_trial_of_each_architecture_is_tested_and_no_other(searched) -> None:
    for run in searched.runs("architecture"):
        assert run.data.metrics.keys() >= COMPARED
    tested = [run for run in searched.runs("trial") if "test_accuracy" in run.data.metrics]
    assert {run.data.tags["architecture"] for run in tested} == CODES
    assert len(tested) == len(CODES)


def test_overfit_gap_is_train_minus_test_accuracy(searched) -> None:
    for run in searched.runs("architecture"):
        metrics = run.data.metrics
        gap = metrics["train_accuracy"] - metrics["test_accuracy"]
        assert metrics["overfit_gap"] == pytest.approx(gap, abs=1e-4)


def test_pictures_and_tables_are_artifacts_that_open(searched, use_store: Callable) -> None:
    use_store(searched)
    (root,) = searched.runs("search")
    expected = {"comparison.png", "images_per_class.png", "comparison.csv", "excluded.csv"}
    expected |= {"summary.json", "settings.json"} | {f"curves/{code}.png" for code in CODES}
    assert searched.artifacts(root) >= expected
    for run in searched.runs("architecture"):
        assert searched.artifacts(run) >= PICTURES | {"scores.csv"}
    where = mlflow.artifacts.download_artifacts(f"{root.info.artifact_uri}/comparison.png")
    with Image.open(where) as picture:
        assert picture.width > 500


def test_the_broken_file_is_listed_with_its_reason(searched) -> None:
    (root,) = searched.runs("search")
    excluded = pd.read_csv(f"{root.info.artifact_uri}/excluded.csv")
    assert [Path(path).name for path in excluded["path"]] == ["broken.jpg"]
    assert "not an image" in excluded["reason"][0]


def test_the_data_set_is_an_input_with_its_digest(searched) -> None:
    (root,) = searched.runs("search")
    inputs = searched.client.get_run(root.info.run_id).inputs.dataset_inputs
    contexts = {tag.value for item in inputs for tag in item.tags}
    assert {item.dataset.digest for item in inputs} == {root.data.tags["data_digest"]}
    assert contexts == {"training", "validation", "testing"}


def test_summary_tells_the_outcome(searched) -> None:
    (root,) = searched.runs("search")
    uri = f"{root.info.artifact_uri}/summary.json".removeprefix("file://")
    summary = json.loads(Path(uri).read_text())
    assert summary["architectures"].keys() == CODES
    assert summary["outcome"]["verdicts"].keys() == GATES.keys()
    assert summary["data"]["images"] == {"train": 126, "val": 27, "test": 27}


def test_the_candidate_passed_the_gates_and_is_champion_with_its_card(searched) -> None:
    version = searched.client.get_model_version_by_alias("stripes", "champion")
    assert str(version.version) == "1"
    assert {version.tags[f"gate.{gate}"] for gate in GATES} == {PASSED}
    assert "| horizontal | 42 | 9 | 9 |" in version.description
    with pytest.raises(mlflow.MlflowException):
        searched.client.get_model_version_by_alias("stripes", "challenger")


def test_finalists_are_logged_and_trials_are_not(searched) -> None:
    models = searched.client.search_logged_models(["1"])
    runs = {run.info.run_id for run in searched.runs("architecture")}
    assert {model.source_run_id for model in models} == runs


def test_a_registered_model_holds_no_pickle(searched, use_store: Callable) -> None:
    use_store(searched)
    folder = Path(mlflow.artifacts.download_artifacts("models:/stripes@champion"))
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".tflite", ".json", ".parquet", ".keras", ".yaml", ".txt", ""}
    assert "tensorflow" not in (folder / "requirements.txt").read_text()


def test_the_output_names_the_run_first_and_ends_with_what_to_do(searched) -> None:
    (root,) = searched.runs("search")
    lines = searched.output.splitlines()
    assert lines[0].startswith(f"Run {root.info.run_id}: stripes, 3 classes, 126 images")
    assert "1 files left out" in lines[0]
    assert any(
        re.match(r"lm +trial 2/2  val_accuracy \d\.\d{4} (complete|pruned), best", x) for x in lines
    )
    assert any("@champion (5 of 5 gates passed" in line for line in lines)
    assert lines[-3:-1] == [
        "Compare:  mlflow ui",
        "Serve:    mlflow models serve -m models:/stripes@champion --env-manager uv",
    ]


def test_a_wrong_input_ends_the_command_with_one_sentence_and_status_2(empty_store) -> None:
    done = empty_store.run("pipelines.main", architectures="vgg")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "lookout: Unknown architecture 'vgg'; choose one of cnn, dcnn, dnn, dnnd, lm, nn, transfer."
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": "nowhere"}, "does not exist"),
        ({"storage": "sqlite:////nowhere/optuna.db"}, "Expected storage to be a database"),
        ({"resume": "0" * 32}, "Expected resume to be the id of a search's run"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_is_opened(
    empty_store, use_store: Callable, settings: dict[str, str], sentence: str
) -> None:
    use_store(empty_store)
    with pytest.raises(UserError, match=sentence):
        main.main(SearchSettings(**settings))
    assert empty_store.runs("search") == []


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No way to the internet, and no weights fetched before."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def test_weights_out_of_reach_leave_transfer_out_of_all(unreachable: None) -> None:
    settings = SearchSettings(data="digits")
    note = trials.check_backbone(settings, data.prepare("digits", 0).digest)
    assert note.startswith("left out: The ImageNet weights of MobileNetV2 cannot be")


def test_weights_out_of_reach_are_an_error_where_transfer_was_asked_for(unreachable: None) -> None:
    settings = SearchSettings(data="digits", architectures="transfer")
    with pytest.raises(UserError, match="cannot be fetched; give a file instead"):
        trials.check_backbone(settings, data.prepare("digits", 0).digest)


def test_a_weights_file_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_text("no weights")
    settings = SearchSettings(data="digits", weights=str(weights))
    with pytest.raises(UserError, match="Expected an HDF5 file of Keras weights"):
        trials.check_backbone(settings, data.prepare("digits", 0).digest)


def test_a_search_that_was_killed_between_its_studies_leads_them_all_when_it_goes_on(
    empty_store: Store, use_store: Callable, tmp_path: Path
) -> None:
    use_store(empty_store)
    url = f"sqlite:///{tmp_path}/optuna.db"
    storage = search.open_storage(url)
    dataset = data.prepare("digits", 0)
    led: list[search.Study] = []
    with project_run("search") as root:
        for codes, resume in (("lm", ""), ("lm,nn", root.id)):  # as far as it came, and the rest
            settings = SearchSettings(architectures=codes, storage=url, resume=resume)
            results = job.Results(tmp_path)
            job.enter(root, settings, dataset, storage, results, math.inf, led)
    assert [study.code for study in led] == ["lm", "nn"]
    assert len(empty_store.runs("architecture")) == 2


def test_a_finished_search_cannot_be_resumed(searched, use_store: Callable) -> None:
    use_store(searched)
    (root,) = searched.runs("search")
    with pytest.raises(UserError, match="has finished"):
        job.interrupted(SearchSettings(resume=root.info.run_id))


def test_a_trial_trained_again_reaches_what_it_reached(searched) -> None:
    complete = [r for r in searched.runs("trial") if r.data.tags["state"] == "complete"]
    trial = next(r for r in complete if r.data.tags["architecture"] == "cnn")
    done = searched.run("pipelines.train", run_id=trial.info.run_id)
    assert done.returncode == 0, done.stderr
    (now, then) = re.search(r"val_accuracy +(\S+)  \(then (\S+)\)", done.stdout).groups()
    assert now == then == f"{trial.data.metrics['val_accuracy']:.4f}"


def test_a_search_is_not_resumed_on_other_images(
    searched, use_store: Callable, tmp_path: Path
) -> None:
    use_store(searched)
    (root,) = searched.runs("search")
    with pytest.raises(UserError, match="put them back, or start a new search"):
        job.require_same_data(root.info.run_id, data.prepare("digits", 0))
    job.require_same_data(root.info.run_id, data.prepare(str(searched.data), 0))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"params": '{"nonsense": 1}'}, "Unknown params nonsense of cnn; choose of batch_size"),
        ({"params": '{"optimizer": "foo"}'}, "Unknown optimizer 'foo'"),
        ({"image_size": 4}, "Expected an input of at least 8 pixels a side for 3 blocks"),
    ],
)
def test_params_that_cannot_be_trained_are_refused_before_a_run_is_opened(
    empty_store, use_store: Callable, flags: dict[str, object], sentence: str
) -> None:
    use_store(empty_store)
    with pytest.raises(UserError, match=sentence):
        train.main(TrainSettings(**flags))
    assert empty_store.runs("trial") == []


def test_a_small_image_size_leaves_transfer_out_of_all() -> None:
    settings = SearchSettings(data="digits", image_size=16)
    note = trials.check_backbone(settings, data.prepare("digits", 0).digest)
    assert note == "left out: it needs an image_size of at least 32"
