"""A whole check, by its settings: what it finds, logs, writes and refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from monitoring import sources
from monitoring.accuracy import CORRECTNESS, thresholded_confidence
from monitoring.check import MonitorSettings, main
from monitoring.features import frame, of_photo
from monitoring.history import UNTIL
from monitoring.record import NUMBERS, metrics
from pipelines import score
from serving import folder, registered
from serving.log import ANSWERS, Log
from serving.predictor import Predictor
from serving.registered import RegisteredModel
from serving.settings import UserError
from tests.conftest import CLASSES

COLOURS, TINTS = "models:/colours@champion", "models:/tints@champion"
SECRET = "geheim"
KEYS = {
    "drift",
    "verdict",
    "checked_at",
    "since",
    "model_name",
    "model_version",
    "source",
    "alpha",
    "images",
    "reference_images",
    "reference_accuracy",
    "estimated_accuracy",
    "estimated_accuracy_low",
    "estimated_accuracy_high",
    "left_out",
    "detectors",
}
FILES = {"unreadable", "share_unreadable"}
LABELLED = {"accuracy", "accuracy_low", "accuracy_high", "labelled", "accuracy_by_class"}
DETECTOR = {
    "detector",
    "column",
    "test",
    "statistic",
    "p_value",
    "corrected_p_value",
    "effect_size",
    "effect",
    "floor",
    "verdict",
}


def runs(client: MlflowClient) -> list[Run]:
    """The monitor's runs, newest first."""
    experiment = client.get_experiment_by_name("monitoring")
    return client.search_runs([experiment.experiment_id], "tags.level = 'monitor'")


def artifact(client: MlflowClient, run: Run, name: str) -> str:
    return Path(client.download_artifacts(run.info.run_id, name)).read_text()


def found(client: MlflowClient) -> dict:
    """drift.json of the newest check, held to its contract."""
    run = runs(client)[0]
    record = json.loads(artifact(client, run, "drift.json"))
    assert set(record) - FILES - LABELLED == KEYS
    assert FILES & set(record) in (set(), FILES)
    assert LABELLED & set(record) in (set(), LABELLED)
    assert all(set(detector) == DETECTOR for detector in record["detectors"])
    assert record["estimated_accuracy_low"] <= record["estimated_accuracy"]
    assert record["estimated_accuracy"] <= record["estimated_accuracy_high"]
    assert run.data.metrics == pytest.approx(metrics(record))
    assert run.info.status == "FINISHED"
    return record


def detectors(record: dict) -> set[str]:
    return {detector["detector"] for detector in record["detectors"]}


def moved(record: dict) -> set[str]:
    return {one["column"] for one in record["detectors"] if one["verdict"] == "moved"}


def answered(model: RegisteredModel, images: Path) -> Iterator[folder.Answer]:
    return folder.answer(model.classifier, folder.files(images), of_photo)


def test_images_like_the_reference_are_no_drift_and_everything_is_logged(
    tracking, painted, tmp_path, capsys
):
    images = painted("same", 90, seed=1)
    (images / "broken.png").write_bytes(b"no image")
    next(images.glob("*.png")).rename(f"{images}/\udcff<b>.png")  # no text
    output = tmp_path / "drift.json"
    settings = MonitorSettings(TINTS, str(images), output=str(output), fail_on_drift=True)
    assert main(settings) == 0

    run, record = runs(tracking)[0], found(tracking)
    assert run.info.run_name == "monitor tints v1"
    tags = {"level": "monitor", "model_name": "tints", "model_version": "1", "drift": "false"}
    assert {**tags, "source": str(images)}.items() <= run.data.tags.items()
    assert datetime.fromisoformat(run.data.tags[UNTIL]).isoformat() == record["checked_at"]
    assert run.data.params["images"] == str(images)
    assert output.read_text() == artifact(tracking, run, "drift.json")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["drift.json"]
    assert (record["drift"], record["since"], record["left_out"]) == (False, None, [])
    assert (record["images"], record["unreadable"], record["reference_images"]) == (90, 1, 200)
    assert record["share_unreadable"] == pytest.approx(1 / 91)
    asked = {"labels", "probabilities", "confidence", "entropy", "features", "embedding"}
    assert detectors(record) == {*asked, "novelty", "unreadable"}
    assert not LABELLED & set(record)
    count = len(record["detectors"])
    assert f"No drift: none of {count}" in artifact(tracking, run, "drift_report.html")
    printed = capsys.readouterr().out
    assert f"No drift: none of {count} detectors moved." in printed
    assert "90 images answered, 1 unreadable" in printed
    assert "drift_report.html" in printed


def test_darker_images_are_drift_and_fail_only_when_asked(tracking, painted, capsys):
    images = painted("dark", 60, seed=2, brightness=0.4)
    assert main(MonitorSettings(TINTS, str(images), fail_on_drift=True)) == 1
    assert runs(tracking)[0].data.tags["drift"] == "true"
    assert runs(tracking)[0].data.metrics["drift"] == 1
    assert {"brightness", "embedding"} <= moved(found(tracking))
    assert "  brightness: effect size 1.00" in capsys.readouterr().out


def test_a_model_from_before_embeddings_is_still_checked(tracking, painted):
    images = painted("older", 60, seed=3, brightness=0.4)
    assert main(MonitorSettings(COLOURS, str(images))) == 0
    record = found(tracking)
    assert record["drift"] is True
    assert detectors(record).isdisjoint({"embedding", "novelty"})
    assert "drift_report.html" in {
        item.path for item in tracking.list_artifacts(runs(tracking)[0].info.run_id)
    }


def test_a_model_without_correctness_is_estimated_by_its_confidence(tracking, painted, tmp_path):
    model = registered.load(TINTS)
    path = model.folder / CORRECTNESS
    content = path.read_bytes()
    path.unlink()
    try:
        assert main(MonitorSettings(TINTS, str(painted("sure", 60, seed=4)))) == 0
    finally:
        path.write_bytes(content)
    reference = model.reference()
    right = float((reference["label"] == reference["truth"]).mean())
    run = runs(tracking)[0]
    table = frame(answered(model, tmp_path / "sure"), CLASSES)
    confidences = (side["confidence"].to_numpy(float) for side in (reference, table))
    expected = thresholded_confidence(next(confidences), right, next(confidences))
    assert run.data.metrics["estimated_accuracy"] == pytest.approx(expected)


def test_a_labelled_folder_gives_the_real_accuracy(tracking, painted, capsys):
    images = painted("labelled", 60, seed=5)
    for path in list(images.iterdir()):
        below = images / path.name.split("-")[0]
        below.mkdir(exist_ok=True)
        path.rename(below / path.name)
    assert main(MonitorSettings(TINTS, str(images), labelled=True)) == 0
    record = found(tracking)
    assert record["labelled"] == 60
    assert set(record["accuracy_by_class"]) == set(CLASSES)
    right = sum(
        round(of_class["accuracy"] * of_class["labelled"])
        for of_class in record["accuracy_by_class"].values()
    )
    assert record["accuracy"] == pytest.approx(right / 60)
    assert 0.5 < record["accuracy"] < 1
    assert record["accuracy"] == pytest.approx(record["estimated_accuracy"], abs=0.15)
    numbers = runs(tracking)[0].data.metrics
    assert numbers["accuracy"] == record["accuracy"]
    assert numbers["accuracy.red"] == record["accuracy_by_class"]["red"]["accuracy"]
    assert f"of 60 labelled {record['accuracy']:.1%} (" in capsys.readouterr().out


def test_scores_are_checked_as_score_writes_them(tracking, painted, tmp_path):
    images = painted("scored", 60, seed=6)
    (images / "broken.png").write_bytes(b"no image")
    table = tmp_path / "scores.parquet"
    score.main(score.ScoreSettings(TINTS, str(images), str(table)))
    assert main(MonitorSettings(TINTS, scores=str(table))) == 0
    record = found(tracking)
    assert (record["images"], record["unreadable"]) == (60, 1)
    assert record["source"] == str(table)
    assert detectors(record) == {"labels", "probabilities", "confidence", "entropy", "unreadable"}
    assert len(record["left_out"]) == 2


@pytest.fixture
def served(tracking, painted, tmp_path, monkeypatch) -> str:
    """The URL of a log of what the registered model answered, with a few corrections."""
    url = f"sqlite:///{tmp_path}/log.db"
    monkeypatch.setenv("LOOKOUT_LOG", url)
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "kept"))
    model = Predictor()
    where = registered.load(TINTS).folder
    model.load_context(SimpleNamespace(artifacts={"model": str(where)}))
    images = [path.read_bytes() for path in folder.files(painted("asked", 60, seed=7))]
    told = model.predict(None, pd.DataFrame({"image": images}))
    model.log.close()
    said = Log(url)
    for image, label in zip(images[:12], told["label"], strict=False):
        row = {"request_id": "a", "model_name": "tints", "model_version": "1", "label": "red"}
        said.correct(image, {**row, "answered": label})
    said._engine.dispose()
    monkeypatch.delenv("LOOKOUT_LOG")
    return url


def at(monkeypatch, **ahead: float) -> None:
    """Makes the check believe that it is later: what is logged lies before."""
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(**ahead)
    monkeypatch.setattr(sources, "now", lambda: moment)


def test_a_log_is_checked_with_what_people_said_and_the_pictures_that_are_kept(
    tracking, served, monkeypatch
):
    at(monkeypatch, minutes=1)
    assert main(MonitorSettings(TINTS, log=served)) == 0
    record = found(tracking)
    assert record["drift"] is False
    assert record["images"] == 60
    assert not FILES & set(record)
    assert {"embedding", "novelty", "features"} <= detectors(record)
    assert record["labelled"] == 12
    assert set(record["accuracy_by_class"]) == {"red"}
    begin, end = (datetime.fromisoformat(record[key]) for key in ("since", "checked_at"))
    assert end - begin == timedelta(days=1)
    page = artifact(tracking, runs(tracking)[0], "drift_report.html")
    assert page.count("data:image/jpeg") >= 12


def test_since_last_begins_where_the_last_check_ended(tracking, served, monkeypatch):
    at(monkeypatch, minutes=1)
    settings = MonitorSettings(TINTS, log=served, since="last")
    assert main(settings) == 0
    ended = found(tracking)["checked_at"]
    at(monkeypatch, minutes=5)
    before = len(runs(tracking))
    with pytest.raises(UserError, match=r"Expected at least 30 images in sqlite.*, got 0; fewer"):
        main(settings)
    assert len(runs(tracking)) == before
    log = Log(served)
    row = {
        "time": datetime.now(UTC) + timedelta(minutes=2),
        "request_id": "later",
        "position": 0,
        "model_name": "tints",
        "model_version": "1",
        "label": "red",
        "confidence": 0.6,
        "probabilities": {"blue": 0.2, "green": 0.2, "red": 0.6},
    }
    log.put([row] * 40)
    log.close()
    log._engine.dispose()
    assert main(settings) == 0
    record = found(tracking)
    assert (record["since"], record["images"]) == (ended, 40)
    assert "labelled" not in record  # what people said lies before


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.postgres
def test_a_password_reaches_neither_runs_nor_output(
    tracking, store, served, database, tmp_path, monkeypatch, capsys
):
    url = database.replace("lookout@", f"lookout:{SECRET}@")
    source, target = Log(served), Log(f"{url}?sslpassword={SECRET}")
    with source._engine.connect() as connection:
        rows = connection.execute(ANSWERS.select()).mappings().all()
    utc = [{**row, "time": row["time"].replace(tzinfo=UTC), "image": b""} for row in rows]
    target.put([{name: value for name, value in row.items() if name != "id"} for row in utc])
    target.close()
    for log in (source, target):
        log._engine.dispose()
    at(monkeypatch, minutes=1)
    given = f"{url}?sslpassword={SECRET}"
    output = tmp_path / "drift.json"
    shown = database
    assert main(MonitorSettings(TINTS, log=given, output=str(output))) == 0
    record = found(tracking)
    assert record["source"] == runs(tracking)[0].data.tags["source"] == shown
    assert runs(tracking)[0].data.params["log"] == shown
    assert record["images"] == 60
    printed = capsys.readouterr()
    written = everything(Path(store.removeprefix("sqlite:///")).parent) + output.read_bytes()
    assert SECRET not in printed.out + printed.err
    assert SECRET.encode() not in written
    assert shown.encode() in written


def test_a_workspace_is_fed_with_the_check(tracking, painted, tmp_path):
    workspace = tmp_path / "workspace"
    images = painted("fed", 60, seed=8)
    assert main(MonitorSettings(TINTS, str(images), workspace=str(workspace))) == 0
    (project,) = workspace.iterdir()
    assert json.loads((project / "metadata.json").read_text())["name"] == "tints"
    assert len(list((project / "snapshots").iterdir())) == 1


def test_the_run_of_mlflow_run_is_used_with_its_parameters_kept(tracking, painted, monkeypatch):
    experiment = tracking.get_experiment_by_name("monitoring").experiment_id
    run_id = tracking.create_run(experiment).info.run_id
    tracking.log_param(run_id, "fail_on_drift", "no")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert main(MonitorSettings(COLOURS, str(painted("run", 60, seed=9)))) == 0
    run = tracking.get_run(run_id)
    assert run.data.params["fail_on_drift"] == "no"
    assert run.data.params["model"] == COLOURS
    assert run.data.tags["level"] == "monitor"


def empty_log(path: Path) -> str:
    log = Log(f"sqlite:///{path}/empty.db")
    log._make()
    log._engine.dispose()
    return f"sqlite:///{path}/empty.db"


def other_scores(path: Path) -> str:
    shares = {f"p_{name}": [0.5] * 40 for name in ("cat", "dog")}
    pd.DataFrame({"label": ["cat"] * 40, **shares}).to_parquet(path / "other.parquet")
    return str(path / "other.parquet")


BAD = {
    "unknown model": (
        "models:/unknown@champion",
        lambda path, painted: {"images": str(painted("few", 40, 1))},
        "Unknown model 'models:/unknown@champion'",
    ),
    "no reference": (
        "models:/colours/2",
        lambda path, painted: {"images": str(painted("few", 40, 1))},
        "Expected reference.parquet in colours version 2",
    ),
    "too few": (
        TINTS,
        lambda path, painted: {"images": str(painted("few", 29, 1))},
        r"Expected at least 30 images in .* \(all\), got 29; fewer",
    ),
    "none": (
        TINTS,
        lambda path, painted: {"images": str(painted("few", 0, 1))},
        "but it holds no file",
    ),
    "none in the window": (
        TINTS,
        lambda path, painted: {"images": str(painted("few", 40, 1)), "since": "10"},
        r"Expected at least 30 images in .* \(the last 10 images\), got \d+",
    ),
    "other classes": (
        TINTS,
        lambda path, painted: {"scores": other_scores(path)},
        "Expected label and the probabilities of the model's classes",
    ),
    "wrong labels": (
        TINTS,
        lambda path, painted: {"images": str(painted("a/Red", 40, 1).parent), "labelled": True},
        "but it has Red; check with the model",
    ),
    "an empty log": (
        TINTS,
        lambda path, painted: {"log": empty_log(path)},
        "Expected at least 30 images in sqlite.*, got 0; fewer",
    ),
    "a mute log": (
        TINTS,
        lambda path, painted: {"log": f"postgresql://me:{SECRET}@127.0.0.1:1/log"},
        r"Expected an inference log at postgresql://me@127.0.0.1:1/log, but: connection",
    ),
    "no workspace": (
        TINTS,
        lambda path, painted: {
            "images": str(painted("few", 40, 1)),
            "workspace": str(painted("few", 40, 1)),
        },
        "Expected an Evidently workspace or an empty folder",
    ),
}


@pytest.mark.parametrize(("model", "make", "sentence"), BAD.values(), ids=BAD)
def test_what_cannot_be_checked_is_one_sentence_and_leaves_no_run(
    tracking, painted, tmp_path, model, make, sentence
):
    before = len(runs(tracking))
    with pytest.raises(UserError, match=sentence) as refusal:
        main(MonitorSettings(model, **make(tmp_path, painted)))
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert len(runs(tracking)) == before


def test_unreadable_files_do_not_count_towards_the_minimum(tracking, painted):
    images = painted("broken", 20, seed=5)
    for number in range(20):
        (images / f"broken-{number}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"got 20, and 20 files that cannot be read"):
        main(MonitorSettings(COLOURS, str(images)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": ""}, "Expected one of `images`, `log` and `scores` to check, got none"),
        ({"images": "x", "log": "y"}, "to check, got images and log"),
        ({"images": "x", "since": "soon"}, "Expected since as a time"),
        ({"log": "x", "labelled": True}, "Expected `labelled` with `images`"),
        ({"images": "x", "output": "/missing/drift.json"}, "but /missing does not exist"),
        ({"images": "x", "output": "/tmp"}, "Expected a file as `output`, but /tmp is a folder"),
    ],
)
def test_settings_refuse_what_cannot_work(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        MonitorSettings(COLOURS, **settings)


def test_command_ends_a_mistake_with_a_sentence_and_status_2(tracking):
    command = [sys.executable, "-m", "monitoring.check", "--model", COLOURS]
    ended = subprocess.run(
        [*command, "--images", "/missing"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "lookout: Expected a folder of images, but /missing does not exist." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_metric_names_are_those_that_mlflow_takes_and_stay_apart():
    columns = ["p_a/b", "p_a?b", "p_a_b_2", "p_ü ", "p_" + "x" * 300]
    detectors = [{"column": column} | dict.fromkeys(NUMBERS, 0.5) for column in columns]
    of_class = {"accuracy": 0.5, "labelled": 3}
    numbers = metrics(
        {
            "drift": True,
            "source": "x",
            "images": 3,
            "since": None,
            "accuracy_by_class": {"a/b": of_class, "a?b": of_class},
            "detectors": detectors,
        }
    )
    assert numbers["drift"] == 1
    assert numbers["images"] == 3
    names = [name for name in numbers if name.startswith("statistic.")]
    assert names[:4] == [
        "statistic.p_a_b",
        "statistic.p_a_b_2",
        "statistic.p_a_b_2_2",
        "statistic.p_ü ",
    ]
    assert {"accuracy.a_b", "accuracy.a_b_2"} < set(numbers)
    assert len(numbers) == 2 + 2 + len(NUMBERS) * len(columns)
    assert max(map(len, numbers)) <= 250
