from datetime import UTC, datetime

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from monitoring.history import past

START = 1_780_000_000_000  # milliseconds


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('history')}/mlflow.db"


@pytest.fixture
def client(store, request, monkeypatch) -> MlflowClient:
    """A client of the store, with an experiment of the test's own as the active one."""
    experiment = request.node.name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
    mlflow.set_tracking_uri(None)
    client = MlflowClient(store)
    client.create_experiment(experiment)
    return client


def check(client, minute, *, status="FINISHED", metrics=None, **tags) -> str:
    experiment = client.search_experiments(order_by=["experiment_id DESC"])[0].experiment_id
    shown = {"level": "monitor", "model_name": "it's", "model_version": "3", "drift": "false"}
    run = client.create_run(experiment, START + 60_000 * minute, {**shown, **tags}).info.run_id
    numbers = {"images": 90, "estimated_accuracy": 0.8, "effect_size.a": 0.1, "effect_size.b": 0.3}
    for key, value in {**numbers, **(metrics or {})}.items():
        client.log_metric(run, key, value)
    client.set_terminated(run, status)
    return run


def test_past_are_the_finished_checks_of_one_model_the_oldest_first(client):
    assert past("it's") == []
    last = check(client, 9, drift="true", metrics={"accuracy": 0.7})
    first = check(client, 1, source="there")
    check(client, 2, model_name="another")
    check(client, 3, level="search")
    check(client, 4, status="FAILED")
    found = past("it's")
    assert [one.run_id for one in found] == [first, last]
    assert found[0].time == datetime.fromtimestamp(START / 1000 + 60, UTC)
    assert (found[0].drift, found[0].accuracy, found[0].version) == (False, None, "3")
    assert (found[1].drift, found[1].accuracy, found[1].images) == (True, 0.7, 90)
    assert (found[1].estimated_accuracy, found[1].largest_effect) == (0.8, 0.3)
    assert [one.run_id for one in past("it's", limit=1)] == [last]
    assert [one.run_id for one in past("it's", source="there")] == [first]


@pytest.mark.parametrize("name", ["it's", "\"a\" or 'b'", "ends\\", "50%_x"])
def test_past_finds_names_that_a_filter_cannot_quote(client, name):
    check(client, 1, model_name=name.swapcase())
    run = check(client, 2, model_name=name)
    assert [one.run_id for one in past(name)] == [run]
