import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from monitoring.check import NUMBERS, MonitorSettings, main, metrics
from serving.settings import UserError

CHAMPION = "models:/colours@champion"


def runs(client: MlflowClient) -> list[Run]:
    """The monitor's runs, newest first."""
    experiment = client.get_experiment_by_name("monitoring")
    return client.search_runs([experiment.experiment_id], "tags.level = 'monitor'")


def artifact(client: MlflowClient, run: Run, name: str) -> str:
    return Path(client.download_artifacts(run.info.run_id, name)).read_text()


def test_images_like_the_reference_are_no_drift_and_everything_is_logged(
    tracking, painted, tmp_path, capsys
):
    images = painted("same", 90, seed=1)
    (images / "broken.png").write_bytes(b"no image")
    output = tmp_path / "drift.json"
    settings = MonitorSettings(CHAMPION, str(images), str(output), fail_on_drift=True)
    assert main(settings) == 0

    run = runs(tracking)[0]
    assert run.info.run_name == "monitor colours v1"
    assert run.info.status == "FINISHED"
    tags = {"level": "monitor", "model_name": "colours", "model_version": "1", "drift": "false"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["images"] == str(images)
    text = artifact(tracking, run, "drift.json")
    assert output.read_text() == text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["drift.json"]
    assert_contract(json.loads(text), run)
    assert "No drift: none of 14" in artifact(tracking, run, "drift_report.html")
    printed = capsys.readouterr().out
    assert "No drift: none of 14 detectors moved." in printed
    assert "90 images answered, 1 unreadable" in printed
    assert "drift_report.html" in printed


def assert_contract(record: dict, run: Run) -> None:
    """The keys of drift.json, which other programs rely on, and the metrics of the same names."""
    assert record["drift"] is False
    assert (record["images"], record["unreadable"]) == (90, 1)
    assert record["share_unreadable"] == pytest.approx(1 / 91)
    assert 0 <= record["estimated_accuracy"] <= 1
    assert 0 <= record["reference_accuracy"] <= 1
    assert {"verdict", "checked_at", "model_name", "model_version", "source", "alpha"} < set(record)
    assert len(record["detectors"]) == 14
    assert set(record["detectors"][0]) == {
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
    assert run.data.metrics == pytest.approx(metrics(record))


def test_darker_images_are_drift_and_fail_only_when_asked(tracking, painted, capsys):
    images = painted("dark", 60, seed=2, brightness=0.4)
    assert main(MonitorSettings(CHAMPION, str(images), fail_on_drift=True)) == 1
    assert runs(tracking)[0].data.tags["drift"] == "true"
    assert runs(tracking)[0].data.metrics["drift"] == 1
    assert "  brightness: effect size 1.00" in capsys.readouterr().out


def test_the_run_of_mlflow_run_is_used_with_its_parameters_kept(tracking, painted, monkeypatch):
    experiment = tracking.get_experiment_by_name("monitoring").experiment_id
    run_id = tracking.create_run(experiment).info.run_id
    tracking.log_param(run_id, "fail_on_drift", "no")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert main(MonitorSettings(CHAMPION, str(painted("run", 60, seed=3)))) == 0
    run = tracking.get_run(run_id)
    assert run.data.params["fail_on_drift"] == "no"
    assert run.data.params["model"] == CHAMPION
    assert run.data.tags["level"] == "monitor"


@pytest.mark.parametrize(
    ("model", "count", "sentence"),
    [
        ("models:/unknown@champion", 40, "Unknown model 'models:/unknown@champion'"),
        ("models:/colours/2", 40, "Expected reference.parquet in colours version 2"),
        (CHAMPION, 29, "Expected at least 30 images in .*, got 29; fewer"),
        (CHAMPION, 0, "but it holds no file"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_a_run(tracking, painted, model, count, sentence):
    before = len(runs(tracking))
    with pytest.raises(UserError, match=sentence):
        main(MonitorSettings(model, str(painted("few", count, seed=4))))
    assert len(runs(tracking)) == before


def test_unreadable_files_do_not_count_towards_the_minimum(tracking, painted):
    images = painted("broken", 20, seed=5)
    for number in range(20):
        (images / f"broken-{number}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"got 20, and 20 files that cannot be read"):
        main(MonitorSettings(CHAMPION, str(images)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": ""}, "Expected a folder of images to check, got none"),
        ({"images": "x", "output": "/missing/drift.json"}, "but /missing does not exist"),
        ({"images": "x", "output": "/tmp"}, "Expected a file as `output`, but /tmp is a folder"),
    ],
)
def test_settings_refuse_what_cannot_work(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        MonitorSettings(CHAMPION, **settings)


def test_command_ends_a_mistake_with_a_sentence_and_status_2(tracking):
    command = [sys.executable, "-m", "monitoring.check", "--model", CHAMPION]
    ended = subprocess.run(
        [*command, "--images", "/missing"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "lookout: Expected a folder of images, but /missing does not exist." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_metric_names_are_those_that_mlflow_takes_and_stay_apart():
    columns = ["p_a/b", "p_a?b", "p_a_b_2", "p_ü ", "p_" + "x" * 300]
    detectors = [{"column": column} | dict.fromkeys(NUMBERS, 0.5) for column in columns]
    numbers = metrics({"drift": True, "source": "x", "images": 3, "detectors": detectors})
    assert numbers["drift"] == 1
    assert numbers["images"] == 3
    names = [name for name in numbers if name.startswith("statistic.")]
    assert names[:4] == [
        "statistic.p_a_b",
        "statistic.p_a_b_2",
        "statistic.p_a_b_2_2",
        "statistic.p_ü ",
    ]
    assert len(numbers) == 2 + len(NUMBERS) * len(columns)
    assert max(map(len, numbers)) <= 250
